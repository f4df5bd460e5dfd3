"""Persistent buffers that training changes: kept, saved and switched with the adapter, and the base's stay."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import zoo
from zoo.errors import AdapterError
from zoo.tuning.loop import tune


class Codebook(nn.Module):
    """A table that follows the inputs in training, and a counter; a buffer that is not in state dicts."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("book", torch.randn(8))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("scratch", torch.zeros(3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.book.lerp_(x.mean(0), 0.3)
                self.count += 1
                self.scratch += 1
        return x + self.book


def twice(layer: nn.Module) -> nn.Module:
    return nn.Sequential(layer, nn.Linear(8, 8), layer)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: nn.BatchNorm1d(8),
    "batch norm, shared": lambda: twice(nn.BatchNorm1d(8)),
    "instance norm": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 4)), nn.InstanceNorm1d(2, track_running_stats=True), nn.Flatten()
    ),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(8, 8)),
    "old spectral norm": lambda: nn.utils.spectral_norm(nn.Linear(8, 8)),
    "codebook": Codebook,
}
TARGETS = ["0", "2"]


def net(layer: str) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 8), LAYERS[layer](), nn.Linear(8, 2)).eval()


def train(model: zoo.Model, shift: float = 1.0) -> None:
    """Train what is active, on inputs that move the statistics."""
    optimizer = torch.optim.SGD([parameter for _, parameter in model.trainable_parameters()], 0.01)
    model.train()
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.randn(16, 8) * 2 + shift).square().mean().backward()
        optimizer.step()
    model.eval()


@torch.no_grad()
def run(model: Any, x: Tensor) -> Tensor:
    return model(x)  # type: ignore[no-any-return]


@pytest.fixture
def x() -> Tensor:
    return torch.randn(6, 8) * 2 + 1


def two(layer: str, bits: int | None, x: Tensor) -> tuple[zoo.Model, dict[str | None, Tensor]]:
    """Return a model with adapters that were trained one after the other, and what each, and the base, computes."""
    model = zoo.wrap(net(layer), bits=bits, lora={name: zoo.LoRA(rank=2, targets=TARGETS) for name in "ab"})
    model.deactivate()
    outputs: dict[str | None, Tensor] = {None: run(model, x)}
    for name, shift in (("a", 1.0), ("b", -2.0)):
        model.activate(name)
        assert torch.equal(run(model, x), outputs[None]), "a new adapter is untouched by the one before"
        train(model, shift)
        outputs[name] = run(model, x)
    return model, outputs


@pytest.mark.parametrize(("layer", "bits"), [*((layer, None) for layer in LAYERS), ("batch norm", 4)])
def test_buffers_are_switched_and_saved_with_their_adapter(
    layer: str, bits: int | None, x: Tensor, tmp_path: Path
) -> None:
    model, expected = two(layer, bits, x)
    base = {name: value.clone() for name, value in net(layer).state_dict().items()}

    def check(one: zoo.Model, name: str | None) -> None:
        one.activate(*[name] if name else [])
        assert torch.equal(run(one, x), expected[name]), name

    for name in (None, "a", "b", None):
        check(model, name)
    buffers = {name for name, _ in model.module.named_buffers() if "scratch" not in name}
    assert all(torch.equal(dict(model.module.named_buffers())[name], base[name]) for name in buffers)
    mixed = run(lambda rows: model(rows, adapters=["a", None, "b", "b", None, "a"]), x)
    for row, name in enumerate(["a", None, "b", "b", None, "a"]):
        torch.testing.assert_close(mixed[row], expected[name][row])  # type: ignore[index]
    model.save_adapter(tmp_path / "first")
    again = zoo.wrap(net(layer), bits=bits, lora={name: tmp_path / "first" / name for name in "ab"})
    for name in ("b", None, "a"):
        check(again, name)
    again.save_adapter(tmp_path / "second")
    for file in ("a/adapter_model.safetensors", "b/adapter_config.json"):
        assert (tmp_path / "second" / file).read_bytes() == (tmp_path / "first" / file).read_bytes()
    config = json.loads((tmp_path / "first" / "a" / "adapter_config.json").read_text())
    assert config["peft_type"] == "ZOO_LORA", "PEFT would leave them out in silence"
    copied = copy.deepcopy(again) if layer != "old spectral norm" else again
    for name in ("a", "b"):
        check(copied, name)


@pytest.mark.parametrize("layer", ["batch norm", "codebook"])
def test_merged_removed_swapped_combined_and_unloaded(layer: str, x: Tensor, tmp_path: Path) -> None:
    model, expected = two(layer, None, x)
    model.save_adapter(tmp_path)

    def check(name: str | None) -> None:
        torch.testing.assert_close(run(model, x), expected[name], rtol=1e-5, atol=1e-5)

    model.deactivate()
    model.merge("a")
    check("a")
    model.unmerge()
    assert torch.equal(run(model, x), expected[None])
    model.activate("b")
    model.merge()
    check("b")
    loaded = net(layer)
    loaded.load_state_dict(load_file(model.save(tmp_path / "whole") / "model.safetensors"))
    torch.testing.assert_close(run(loaded, x), expected["b"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(run(copy.deepcopy(model).unload(), x), expected["b"], rtol=1e-5, atol=1e-5)
    model.unmerge()
    model.combine_adapters("c", {"a": 1.0, "b": 0.0})
    model.activate("c")
    check("a")
    model.swap_adapter("b", tmp_path / "a")
    model.activate("b")
    check("a")
    model.remove_adapter("a")
    check("a")
    model.deactivate()
    assert torch.equal(run(model, x), expected[None])
    model.activate("b")
    model.remove_adapter("b")
    model.remove_adapter("c")
    assert torch.equal(run(model, x), expected[None])


def test_the_base_does_not_move_without_an_active_adapter(x: Tensor) -> None:
    """As in a reference pass of preference training, in training mode."""
    model, expected = two("batch norm", None, x)
    model.deactivate()
    model.train()
    run(model, x)
    model.eval()
    model.activate("a")
    assert torch.equal(run(model, x), expected["a"])
    model.deactivate()
    assert torch.equal(run(model, x), expected[None])


def test_without_adapters_the_module_is_its_owners(x: Tensor) -> None:
    """Calls that change nothing do not make its statistics of then those to come back to."""
    model = zoo.wrap(net("batch norm"))
    model.deactivate()
    model(x, adapters=[None] * 6)
    model.train()
    run(model, x)
    model.eval()
    expected = run(model, x)
    model.deactivate()
    assert torch.equal(run(model, x), expected)
    model.add_adapter("a", zoo.LoRA(rank=2, targets=TARGETS))
    train(model)
    model.remove_adapter("a")
    assert torch.equal(run(model, x), expected)


def test_a_weight_between_nothing_and_all(x: Tensor) -> None:
    model, _ = two("codebook", None, x)
    model.deactivate()
    base = model.module[1].book.clone()
    model.activate("a")
    own, count = model.module[1].book.clone(), model.module[1].count.clone()
    model.activate("a", weights=[0.25])
    torch.testing.assert_close(model.module[1].book, 0.75 * base + 0.25 * own)
    assert torch.equal(model.module[1].count, count), "whole numbers are taken as they are"
    model.activate("a", weights=[-1.0])
    torch.testing.assert_close(model.module[1].book, base)


def test_a_mixed_batch_has_gradients_with_each_adapters_statistics(x: Tensor) -> None:
    model, _ = two("batch norm", None, x)
    model.activate("a", "b")
    held = model.module[1].running_mean
    model.module.zero_grad()
    model(x, adapters=["a", "b", None] * 2).square().sum().backward()
    assert model.module[1].running_mean is held, "compiled code and others hold the module's own tensors"
    mixed = {name: parameter.grad.clone() for name, parameter in model.trainable_parameters()}
    for name, rows in (("a", [0, 3]), ("b", [1, 4])):
        model.activate(name)
        model.module.zero_grad()
        model(x[rows]).square().sum().backward()
        for key, parameter in model.trainable_parameters():
            torch.testing.assert_close(mixed[key], parameter.grad)


@pytest.mark.parametrize("layer", ["batch norm", "codebook"])
def test_peft_has_the_buffers_of_the_modules_that_it_saves(layer: str, x: Tensor, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    saves = {"batch norm": ["1", "2"], "codebook": ["2"]}[layer]
    model = zoo.wrap(net(layer), lora=zoo.LoRA(rank=2, targets=["0"], modules_to_save=saves))
    train(model)
    expected = run(model, x)
    model.save_adapter(tmp_path)
    assert torch.equal(run(zoo.wrap(net(layer), lora=tmp_path), x), expected)
    if layer == "batch norm":
        theirs = peft.PeftModel.from_pretrained(net(layer), str(tmp_path)).eval()
        torch.testing.assert_close(run(theirs, x), expected, rtol=1e-5, atol=1e-5)


def test_a_batch_norm_that_peft_trained(x: Tensor, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["0"], modules_to_save=["1"])
    theirs = peft.get_peft_model(net("batch norm"), config).train()
    for _ in range(3):
        run(theirs, torch.randn(16, 8) * 3 - 1)
    theirs.eval().save_pretrained(str(tmp_path))
    model = zoo.wrap(net("batch norm"), lora=tmp_path)
    torch.testing.assert_close(run(model, x), run(theirs, x), rtol=1e-5, atol=1e-5)
    model.deactivate()
    assert torch.equal(run(model, x), run(net("batch norm"), x))


@pytest.mark.parametrize(
    ("value", "match"), [(torch.zeros(3), r"1\.running_mean: expected \(8,\)"), (torch.full((8,), torch.nan), "finite")]
)
def test_a_buffer_that_does_not_fit(value: Tensor, match: str, x: Tensor, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model, _ = two("batch norm", None, x)
    folder = model.save_adapter(tmp_path, "a")
    (folder / "zoo.json").unlink()
    file = folder / "adapter_model.safetensors"
    save_file({**load_file(file), "zoo.1.running_mean": value}, file)
    with pytest.raises(AdapterError, match=match):
        zoo.wrap(net("batch norm"), lora=folder)


def test_a_resumed_run_ends_as_one_without_the_pause(x: Tensor, tmp_path: Path) -> None:
    class Noisy(zoo.Model):
        def loss(self, batch: Any) -> Tensor:
            return self(batch).square().mean()

        def batches(self, data: Any = None, **_: Any) -> Iterator[Tensor]:
            generator = torch.Generator().manual_seed(1)
            while True:
                yield torch.randn(16, 8, generator=generator) * 2 + 1

    def made() -> zoo.Model:
        model = zoo.wrap(net("batch norm"), lora=zoo.LoRA(rank=2, targets=TARGETS), seed=0)
        model.__class__ = Noisy
        return model

    def fit(model: zoo.Model, **more: Any) -> Tensor:
        tune(model, steps=6, quiet=True, **more)
        return run(model, x)

    def stop(step: int, _: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    expected = fit(made())
    with pytest.raises(KeyboardInterrupt):
        fit(made(), out=tmp_path, on_step=stop)
    model = made()
    assert torch.equal(fit(model, out=tmp_path, resume=True), expected)
    model.deactivate()
    assert torch.equal(run(model, x), run(net("batch norm"), x))
    model.activate("default")
    assert torch.equal(run(model, x), expected)
