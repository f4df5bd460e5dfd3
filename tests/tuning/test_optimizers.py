"""Optimizers by name and in Python: what each does, that it resumes, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import zoo
from zoo.errors import TuningError
from zoo.tuning.defaults import chosen
from zoo.tuning.optimizer import built
from zoo.tuning.optimizers import NAMES, TORCH, canonical, optimizer_of
from zoo.tuning.rates import rates_of
from zoo.tuning.settings import Settings
from zoo.weights.walk import managed_weights

from .helpers import run, same

CPU = torch.device("cpu")
LR = 1e-3
HERE = [name for name in NAMES if not name.startswith("paged_")]
MOMENTUM = {"sgd8bit": {"momentum": 0.9}}
UNEVEN = {"radam", "adadelta", "adafactor", "sgd", "sgd8bit"}
FIRST = {"rmsprop": 10.0, "rmsprop8bit": 10.0}  # the average of squares starts at 0, and is not corrected for that


def wide() -> zoo.Model:
    """A model whose larger factors are beyond the 4,096 values up to which bitsandbytes keeps moments in 32 bit."""
    torch.manual_seed(7)
    return zoo.wrap(nn.Sequential(nn.Linear(1200, 16), nn.Tanh(), nn.Linear(16, 1200)), lora=zoo.LoRA(4), seed=0)


@pytest.mark.parametrize("name", HERE)
def test_by_name_the_first_step_moves_every_weight_by_lr_or_rates_are_plain(name: str) -> None:
    found = optimizer_of(name, CPU, options=MOMENTUM.get(name))
    assert found.name == name
    assert found.even == (name not in UNEVEN)
    if not found.even:
        return
    model = wide()
    named = list(model.trainable_parameters())
    settings = Settings("", 9, 1, LR, 0, 0, None, 0.0, found.pair, 1)
    optimizer = built(named, settings, CPU, rates_of(model.module, named, settings), found)
    before = {}
    for path, store in managed_weights(model.module).items():
        dense = store.dense()
        dense.backward(torch.randn(dense.shape))
        before[path] = dense.detach().clone()
    optimizer.step()
    for path, store in managed_weights(model.module).items():
        moved = (store.dense() - before[path]).detach().square().mean().sqrt() / LR
        assert float(moved) == pytest.approx(FIRST.get(name, 1.0), rel=0.3), path
    eight = [value for state in optimizer.state.values() for value in state.values() if value_type(value)]
    assert bool(eight) == name.endswith("8bit")


def value_type(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype is torch.uint8


@pytest.mark.parametrize(
    ("name", "ema"), [*((name, 0.0) for name in HERE if name != "adamw"), ("sgd", 0.9), ("adam8bit", 0.9)]
)
def test_a_resumed_run_equals_one_without_a_pause(
    fake: Callable[..., Any], tmp_path: Any, name: str, ema: float
) -> None:
    options = {"optimizer": name, "optimizer_options": MOMENTUM.get(name), "steps": 6, "ema_decay": ema}
    whole = fake()
    expected = run(whole, **options)

    def stop(step: int, loss: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(fake(), out=tmp_path, on_step=stop, **options)
    fresh = fake(seed=99)
    fresh.module[0].bias.data = whole.module[0].bias.data
    assert run(fresh, out=tmp_path, resume=True, **options).losses == expected.losses
    assert same(fresh.values(), whole.values())


@pytest.mark.parametrize("name", ["adamw8bit", "ademamix8bit", "lion8bit", "nadam"])
def test_moments_in_8_bit_resume_bit_for_bit_and_lower_the_loss(tmp_path: Any, name: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 1200)
    batches = [(x, x.roll(1, 1) / 4)]

    class Ours(zoo.Model):
        def loss(self, batch: Any) -> torch.Tensor:
            return (self.module(batch[0]) - batch[1]).square().mean()

        def batches(self, data: Any = None, **_: Any) -> Any:
            return iter(batches * 100)

    def model() -> Any:
        one = wide()
        one.__class__ = Ours
        return one

    def tuned(one: Any, **more: Any) -> Any:
        from zoo.tuning.loop import tune

        return tune(one, optimizer=name, lr=3e-3, quiet=True, steps=8, batch_size=4, report=False, **more)

    whole = model()
    expected = tuned(whole)
    assert expected.losses[-1] < 0.99 * expected.losses[0]

    def stop(step: int, loss: float) -> None:
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuned(model(), out=tmp_path, on_step=stop)
    again = model()
    assert tuned(again, out=tmp_path, resume=True).losses == expected.losses
    for (_, one), (_, other) in zip(again.trainable_parameters(), whole.trainable_parameters(), strict=True):
        assert torch.equal(one, other)


def test_another_optimizer_or_option_is_another_run(fake: Callable[..., Any], tmp_path: Any) -> None:
    run(fake(), out=tmp_path, optimizer="sgd", optimizer_options={"momentum": 0.9})
    for other in (
        {"optimizer": "adam"},
        {"optimizer": "sgd"},
        {"optimizer": "sgd", "optimizer_options": {"momentum": 0.8}},
    ):
        with pytest.raises(TuningError, match="optimizer"):
            run(fake(), out=tmp_path, resume=True, **other)
    run(fake(), out=tmp_path, resume=True, optimizer=torch.optim.SGD, optimizer_options={"momentum": 0.9})


def test_sgd_takes_the_steps_of_torchs(fake: Callable[..., Any]) -> None:
    options = {"lr": 0.1, "steps": 4, "grad_clip": None, "warmup": 0, "schedule": "wsd", "weight_decay": 0.1}
    ours, theirs = fake(), fake()
    run(ours, optimizer="sgd", optimizer_options={"momentum": 0.9}, **options)
    made = []

    def by_hand(groups: Any, lr: float, momentum: float = 0.9, weight_decay: float = 0.0) -> torch.optim.Optimizer:
        made.append(torch.optim.SGD(groups, lr, momentum, weight_decay=weight_decay))
        return made[-1]

    run(theirs, optimizer=by_hand, **options)
    assert same(ours.values(), theirs.values())
    assert {type(one) for one in made} == {torch.optim.SGD}


def test_any_class_of_python_is_measured(fake: Callable[..., Any]) -> None:
    class Signs(torch.optim.Optimizer):
        def __init__(self, params: Any, lr: float = 1.0, power: float = 0.0) -> None:
            super().__init__(params, {"lr": lr, "power": power})

        @torch.no_grad()
        def step(self, closure: Any = None) -> None:
            for group in self.param_groups:
                for one in group["params"]:
                    if one.grad is not None:
                        one.sub_(group["lr"] * one.grad.sign() * one.grad.abs() ** group["power"])

    assert optimizer_of(Signs, CPU).even
    assert not optimizer_of(Signs, CPU, options={"power": 1.0}).even
    assert optimizer_of(Signs, CPU).name.endswith("Signs")
    model = fake()
    run(model, optimizer=Signs)
    with pytest.raises(TuningError, match="has no weight decay"):
        run(model, optimizer=Signs, weight_decay=0.1)


@pytest.mark.parametrize(("options", "said"), [
    ({"optimizer": "adamw9bit"}, "no optimizer 'adamw9bit'. Did you mean 'adamw8bit'"),
    ({"optimizer": 3}, "expected optimizer as a name"),
    ({"optimizer": "paged_adamw8bit"}, "use optimizer='adamw8bit', or load the model on a GPU"),
    ({"optimizer": "sgd", "lr": None}, "no learning rate is usual: give lr="),
    ({"optimizer": "sgd", "rates": "matched"}, "use rates='plain', or optimizer='adamw'"),
    ({"optimizer": "sgd", "betas": (0.9, 0.99)}, "sgd has no betas"),
    ({"optimizer": "sgd", "optimizer_options": {"momentun": 0.9}}, "Did you mean 'momentum'"),
    ({"optimizer": "sgd", "optimizer_options": {"lr": 0.9}}, "lr is an argument of tune itself"),
    ({"optimizer": "sgd", "optimizer_options": {"momentum": -1}}, "takes no step on cpu .*Invalid momentum"),
    ({"optimizer": "sgd", "optimizer_options": "momentum"}, "expected optimizer_options as a dict"),
    ({"optimizer": "sgd8bit"}, "SGD without momentum is not supported"),
    ({"optimizer": torch.optim.LBFGS}, "takes no step on cpu"),
    ({"optimizer": torch.optim.SparseAdam}, "takes no step on cpu"),
    ({"optimizer": lambda groups, lr: groups}, "no torch.optim.Optimizer"),
])  # fmt: skip
def test_what_cannot_be_is_refused_before_any_data_are_read(
    fake: Callable[..., Any], options: dict[str, Any], said: str
) -> None:
    model = fake()
    with pytest.raises(TuningError, match=said):
        run(model, **options)
    assert not model.seen


def test_other_spellings_are_the_same_optimizer() -> None:
    assert [canonical(one) for one in ("AdamW", "adamw_8bit", "Paged-AdamW-8bit", "LION8BIT")] == [
        "adamw",
        "adamw8bit",
        "paged_adamw8bit",
        "lion8bit",
    ]
    assert all(optimizer_of(getattr(torch.optim, TORCH[name]), CPU).name == name for name in TORCH)


def test_what_a_plugin_prefers_of_adamw_does_not_go_to_others() -> None:
    entry = zoo.load("stylegan", device="meta").entry
    usual = chosen(entry, {}, CPU)
    assert "betas" in usual
    assert chosen(entry, {"optimizer": "adamw8bit"}, CPU)["betas"] == usual["betas"]
    assert "betas" not in chosen(entry, {"optimizer": "sgd"}, CPU)
    assert "lr" not in chosen(entry, {"optimizer": "sgd"}, CPU)


def test_the_caller_s_random_numbers_go_on() -> None:
    state = torch.get_rng_state()
    optimizer_of("lion8bit", CPU)
    assert torch.equal(state, torch.get_rng_state())
