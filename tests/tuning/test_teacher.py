"""`tune(teacher=)`: a model learns from another one, by what both modules put out or by the plugin's own hook."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import zoo
from zoo.errors import TuningError
from zoo.plugin import hooks
from zoo.plugin.distilling import distilled, watched
from zoo.tuning.teacher import Taught


class Model:
    """What distilling needs of a model."""

    device = torch.device("cpu")

    def __init__(self, name: str, module: nn.Module) -> None:
        self.module, self.entry = module, zoo.Entry(name, None)


class Whole(nn.Module):
    def __init__(self, width: int, outputs: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, width), nn.Linear(width, outputs))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": self.body(x)}


X = torch.randn(5, 4)


def of_whole(model, batch):
    return model.module(batch)["out"].square().mean()


def of_parts(model, batch):  # as an autoencoder's, which never calls the module itself
    return model.module.body(batch).square().mean()


@pytest.mark.parametrize("loss", [of_whole, of_parts])
def test_outputs_are_compared(loss):
    student, teacher = Model("small", Whole(2)), Model("large", Whole(8))
    value = distilled(student, teacher, X, 0.25, loss)
    wanted = teacher.module.body(X).detach()
    distance = (student.module.body(X) - wanted).square().mean() / wanted.var(correction=0)
    torch.testing.assert_close(value, 0.75 * loss(student, X) + 0.25 * distance)
    value.backward()
    assert all(p.grad is None for p in teacher.module.parameters())
    torch.testing.assert_close(distilled(student, student, X, 1.0, loss), torch.tensor(0.0))


def test_both_losses_draw_the_same_numbers_and_the_run_goes_on_as_without():
    def noisy(model, batch):
        return model.module.body(batch + torch.randn_like(batch)).mean()

    student = Model("small", Whole(2))
    torch.manual_seed(3)
    noisy(student, X)
    after = torch.rand(3)
    torch.manual_seed(3)
    assert distilled(student, student, X, 1.0, noisy) == 0
    assert torch.equal(torch.rand(3), after)


def test_nothing_to_compare():
    with pytest.raises(TuningError, match=r"nothing of the same shape.*distill"):
        distilled(Model("a", Whole(2, outputs=3)), Model("b", Whole(2, outputs=4)), X, 0.5, of_whole)
    module = Whole(2)
    with pytest.raises(ValueError, match="failed"), watched(module):
        raise ValueError("failed")
    assert not module._forward_hooks


def test_a_model_of_every_kind_learns_from_another():
    teacher = zoo.load("gat", device="cpu").train()
    student = zoo.load("gat", weights="random", seed=0, device="cpu")
    with pytest.raises(TuningError, match="its own teacher"):
        student.tune(steps=1, teacher=student, quiet=True)
    with pytest.raises(TuningError, match="from 0 to 1"):
        student.tune(steps=1, teacher=teacher, teacher_share=2, quiet=True)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    result = student.tune(steps=3, batch_size=200, teacher=teacher, teacher_share=1.0, quiet=True)
    assert len(result.losses) == 3
    assert teacher.module.training  # in the mode that it was in
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    identity = Taught(student, teacher, 0.5).identity()
    assert identity["model"]["teacher"]["share"] == 0.5


def test_a_plugins_own_way(monkeypatch):
    monkeypatch.setattr(hooks, "first", lambda hook, plugins, **given: (torch.tensor(given["share"]), "mine"))
    student = Model("small", Whole(2))
    assert hooks.distill(student, student, X, 0.5) == 0.5
    monkeypatch.setattr(hooks, "first", lambda hook, plugins, **given: ("half", "mine"))
    with pytest.raises(zoo.PluginError, match="distill"):
        hooks.distill(student, student, X, 0.5)
