"""Swapping an adapter into the tensors of another: equal to a fresh load, and nothing is recompiled."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import zoo
from zoo.errors import AdapterError, UnknownNameError
from zoo.weights.walk import managed_weights

from .helpers import Net, error, out, perturb, stirred

SLOT = zoo.LoRA(rank=6, alpha=9, targets="all")
NEW = {
    "same": zoo.LoRA(rank=6, alpha=9, targets="all"),
    "lower": zoo.LoRA(rank=2, alpha=7, targets="all", rslora=True),
    "fewer": zoo.LoRA(
        rank=3, alpha=-3, targets=["fc", "embed", "conv"], rank_pattern={"fc": 5}, alpha_pattern={"fc": 1}
    ),
}


@pytest.fixture
def no_recompiling() -> Iterator[None]:
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch.compiler.reset()


def saved(net: nn.Module, lora: Any, folder: Path, bits: int | None = None) -> Path:
    """Save an adapter with random values, and return its folder."""
    model, _ = stirred(copy.deepcopy(net), lora, bits=bits, size=0.4)
    return model.save_adapter(folder)


@pytest.mark.parametrize("bits", [None, 4])
def test_swapped_equals_loaded_afresh_and_is_not_compiled_again(
    bits: int | None, tmp_path: Path, no_recompiling: None
) -> None:
    net = Net()
    folders = {name: saved(net, lora, tmp_path / name, bits) for name, lora in NEW.items()}
    model, x = stirred(copy.deepcopy(net), {"slot": SLOT, "other": zoo.LoRA(1, targets=["fc"])}, bits=bits)
    model.activate("slot")
    compiled = torch.compile(model.module, backend="eager", fullgraph=True)
    with torch.no_grad():
        first = compiled(x)
        with torch._dynamo.config.patch(error_on_recompile=True):
            for name in ("lower", "same", "fewer", "lower"):
                model.swap_adapter("slot", folders[name])
                got = compiled(x)
                fresh = zoo.wrap(copy.deepcopy(net).eval(), bits=bits, lora=str(folders[name]))
                assert error(got, out(fresh, x)) < 1e-5, name
                assert error(got, first) > 1e-2
                assert error(out(model, x), out(fresh, x)) < 1e-5
                shown = model.adapters["slot"]
                assert (shown.rank, shown.alpha, shown.rslora) == (NEW[name].rank, NEW[name].alpha, NEW[name].rslora)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert model.active == ("slot",)


def test_training_under_compile_goes_on_without_compiling_again(tmp_path: Path, no_recompiling: None) -> None:
    """Zeros beyond the new rank stay zero: if the scales are equal, a step is that of the adapter loaded afresh."""
    net = Net()
    folder = saved(net, zoo.LoRA(rank=2, alpha=3, targets=["fc", "embed", "conv"]), tmp_path / "new")
    model, x = stirred(copy.deepcopy(net), {"default": SLOT})
    fresh = zoo.wrap(copy.deepcopy(net).eval(), lora=str(folder))
    compiled = torch.compile(model.module, backend="aot_eager", fullgraph=True)
    compiled(x).square().sum().backward()
    model.module.zero_grad()
    model.swap_adapter("default", folder)
    before = out(model, x)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for run, one in ((compiled, model), (fresh.module, fresh)):
            optimizer = torch.optim.SGD([p for _, p in one.trainable_parameters()], lr=1e-4)
            run(x).square().sum().backward()
            optimizer.step()
    assert error(out(model, x), before) > 1e-3
    assert error(out(model, x), out(fresh, x)) < 1e-5


def test_a_tiny_module_under_inductor(tmp_path: Path, no_recompiling: None) -> None:
    net = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 8))
    folder = saved(net, zoo.LoRA(rank=1, alpha=3), tmp_path / "new")
    model, x = stirred(copy.deepcopy(net), SLOT)
    compiled = torch.compile(model.module, fullgraph=True)
    with torch.no_grad(), warnings.catch_warnings(), torch._dynamo.config.patch(error_on_recompile=True):
        warnings.simplefilter("ignore")  # inductor's own
        first = compiled(x)
        model.swap_adapter("default", folder)
        assert error(compiled(x), out(zoo.wrap(net.eval(), lora=str(folder)), x)) < 1e-5
        assert error(compiled(x), first) > 1e-2


@pytest.mark.parametrize("name", NEW)
def test_what_was_swapped_in_is_saved_as_it_came(name: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    net = Net()
    folder = saved(net, NEW[name], tmp_path / "new")
    model, x = stirred(copy.deepcopy(net), {"a": SLOT})
    model.swap_adapter("a", str(folder))
    again = model.save_adapter(tmp_path / "again")
    mine, theirs = (load_file(one / "adapter_model.safetensors") for one in (again, folder))
    assert mine.keys() == theirs.keys()
    for key, tensor in mine.items():
        torch.testing.assert_close(tensor, theirs[key], rtol=1e-6, atol=1e-7)
    fresh = zoo.wrap(copy.deepcopy(net).eval(), lora=str(again))
    assert error(out(fresh, x), out(model, x)) < 1e-5
    copied = copy.deepcopy(model)
    copied.swap_adapter("a", SLOT)
    assert error(out(model, x), out(fresh, x)) < 1e-5


def test_configured_ones_and_other_kinds(tmp_path: Path) -> None:
    model, x = stirred(Net(), {"a": SLOT, "b": zoo.LoRA(2, targets=["fc"])})
    tensors = {name: id(p) for name, p in model.module.named_parameters()}
    model.activate("a", "b", weights=(0.5, 1))
    model.swap_adapter("a", 3, seed=1)  # a fresh one does nothing
    model.activate("b")
    alone = out(model, x)
    model.activate("a", "b", weights=(0.5, 1))
    assert error(out(model, x), alone) < 1e-6
    assert dict(model.active_weights) == {"a": 0.5, "b": 1.0}
    assert tensors == {name: id(p) for name, p in model.module.named_parameters()}
    assert model.adapters["a"].rank == 3
    made = {}
    for seed in (1, 1, 2):
        model.swap_adapter("a", 3, seed=seed)
        made.setdefault(seed, []).append(managed_weights(model.module)["fc.weight"].updates["a"].A.clone())
    assert torch.equal(*made[1])
    assert not torch.equal(made[1][0], made[2][0])
    model.swap_adapter("a", zoo.LoRA(2, dropout=0.4))
    assert model.adapters["a"].dropout == managed_weights(model.module)["fc.weight"].updates["a"].dropout == 0.0


@pytest.mark.parametrize("kind", ["dora", "full"])
def test_kinds_with_tensors_of_their_own(kind: str, tmp_path: Path) -> None:
    targets = ["fc", "conv"]
    lora = zoo.LoRA(rank=3, dora=True, targets=targets) if kind == "dora" else zoo.Full(targets=targets)
    net = Net()
    other, x = stirred(copy.deepcopy(net), lora)
    model, _ = stirred(copy.deepcopy(net), {"a": lora})
    plan = other.prepare_adapter("a", lora)
    for path, store in managed_weights(other.module).items():
        plan.updates[path] = copy.deepcopy(store.updates["default"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "prepare_adapter", lambda *args, **kwargs: plan)
        model.swap_adapter("a", "elsewhere")
        assert error(out(model, x), out(other, x)) < 1e-5
        del plan.updates["conv.weight"]
        with pytest.raises(
            AdapterError, match=r"conv\.weight: the new adapter does not change it, and .* cannot be made"
        ):
            model.swap_adapter("a", "elsewhere")
    assert error(out(model, x), out(other, x)) < 1e-5


@pytest.mark.parametrize(
    ("lora", "match"),
    [
        (zoo.LoRA(rank=7), "expected at most rank 6, the slot's, got 7: remove the adapter and add the new one"),
        (zoo.LoRA(rank=2, rank_pattern={"up": 9}), r"up\.weight: expected at most rank 6, the slot's, got 9"),
        (zoo.LoRA(rank=2, dora=True), r"expected an update of kind 'lora' \(LoRAUpdate\), got 'lora' \(DoRAUpdate\)"),
        (zoo.LoHa(rank=2), "adapter 'a' is of kind 'lora', the new one of kind 'loha'"),
        (zoo.LoRA(rank=2, targets=["head", "nothing"]), "target 'nothing' matches no weight"),
        ("./no-such-folder", "no-such-folder"),
    ],
)
def test_what_does_not_fit_changes_nothing(lora: Any, match: str) -> None:
    model, x = stirred(Net(), {"a": SLOT})
    before, output = {k: v.clone() for k, v in model.module.state_dict().items()}, out(model, x)
    with pytest.raises(zoo.ZooError, match=match) as caught:
        model.swap_adapter("a", lora)
    assert "\n" not in str(caught.value)
    assert model.adapters["a"] is not lora
    assert model.adapters["a"].rank == 6
    assert torch.equal(out(model, x), output)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.module.state_dict().items())


def test_slots_that_cannot_take_anything(tmp_path: Path) -> None:
    model, _ = stirred(Net(), {"small": zoo.LoRA(4, targets=["fc"]), "off": zoo.LoRA(4, alpha=0, targets=["fc"])})
    with pytest.raises(AdapterError, match=r"embed\.weight: the new adapter changes it, adapter 'small' does not"):
        model.swap_adapter("small", zoo.LoRA(2, targets=["fc", "embed"]))
    with pytest.raises(AdapterError, match=r"fc\.weight: the slot's scale is 0"):
        model.swap_adapter("off", zoo.LoRA(2, targets=["fc"]))
    with pytest.raises(UnknownNameError, match="no adapter 'big'"):
        model.swap_adapter("big", 2)
    model.merge("small")
    with pytest.raises(AdapterError, match="'small' is merged into the base"):
        model.swap_adapter("small", zoo.LoRA(2, targets=["fc"]))
    perturb(model)
