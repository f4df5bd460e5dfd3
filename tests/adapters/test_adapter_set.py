"""Several adapters at once, each with a weight that scales its whole effect."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.errors import AdapterError, TuningError, UnknownNameError
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.walk import managed_weights

from .helpers import Gain, Net, delta, deltas, error, out, stirred

TWO = {"a": zoo.LoRA(rank=2, targets="all"), "b": zoo.LoRA(rank=3, alpha=5, targets=["conv", "fc", "embed", "raw"])}


@pytest.mark.parametrize("bits", [None, 4, 8, 16])
def test_weights_scale_whole_effects(bits: int | None) -> None:
    model, x = stirred(Net(), TWO, bits=bits)
    model.deactivate()
    base, plain = model.state_dict(), out(model, x)
    full = {name: deltas(model, name) for name in TWO}
    seen = []
    for weights in ((1.0, 1.0), (0.7, 0.3), (-1.5, 2), (0.25, 0.0)):
        model.activate("a", "b", weights=weights)
        assert model.active == ("a", "b")
        assert dict(model.active_weights) == dict(zip("ab", weights, strict=True))
        state = model.state_dict()
        for name in managed_weights(model.module):
            wanted = sum(w * full[k].get(name, 0.0) for k, w in zip("ab", weights, strict=True))
            assert error(state[name].double() - base[name].double(), wanted) < 2e-5, name
        dense = copy.deepcopy(Net())
        dense.load_state_dict(state)
        assert error(out(model, x), out(dense.eval(), x)) < 1e-5
        seen.append(out(model, x))
    assert all(error(one, other) > 1e-3 for one in seen for other in (plain, *[o for o in seen if o is not one]))
    model.activate("a", "b")
    assert torch.equal(out(model, x), seen[0])
    with torch.no_grad():
        for store in managed_weights(model.module).values():
            store.updates["a"].A.fill_(math.nan)
    model.activate("b", "a", weights=[0, 0])
    assert torch.equal(out(model, x), plain), "weight 0 is exactly off"
    assert all(torch.equal(tensor, base[name]) for name, tensor in model.state_dict().items())


def test_an_update_that_is_not_low_rank_is_scaled_too() -> None:
    net = Net().eval()
    model = zoo.wrap(net, lora={"lora": zoo.LoRA(rank=2, targets=["fc"])})
    store = managed_weights(net)["fc.weight"]
    base = store.dense().detach().double()
    store.add("gain", Gain(store.shape))
    with torch.no_grad():
        for parameter in store.updates.parameters():
            parameter.normal_(1.0, 0.3)
    g = store.updates["gain"].gain.detach().double()
    low = delta(store.updates["lora"])
    store.activate(("lora", "gain"), {"lora": 0.5, "gain": -0.4})
    first = base + 0.5 * low
    assert error(store.dense().double(), first + -0.4 * (first * g - first)) < 1e-6
    store.half()
    assert store.dense().dtype == torch.float16
    assert error(store.dense().double(), first + -0.4 * (first * g - first)) < 2e-3
    assert model.active == ("lora",)


@pytest.mark.parametrize("bits", [None, 4])
def test_gradients_are_scaled_as_the_effect_is(bits: int | None) -> None:
    """Against float64 autograd through base + Σ w · scale · B @ A, on every path."""
    model, x = stirred(Net(), TWO, bits=bits)
    model.activate("a", "b", weights=(0.3, -2.0))
    loss = (model(x) ** 2).sum()
    loss.backward()
    model.deactivate()
    base = {name: tensor.double() for name, tensor in model.state_dict().items() if name != "head.weight"}
    leaves: dict[str, Tensor] = {}
    for path, store in managed_weights(model.module).items():
        for name, update in store.updates.items():
            w = {"a": 0.3, "b": -2.0}[name]
            A, B = (p.detach().double().requires_grad_() for p in (update.A, update.B))
            leaves |= {f"{path} {name} A": A, f"{path} {name} B": B}
            product = (A.t() @ B.t()) if update.transposed else (B @ A)
            base[path] = base[path] + w * update.scale * product.reshape(base[path].shape)
    (torch.func.functional_call(Net().double().eval(), base, (x,)) ** 2).sum().backward()
    for path, store in managed_weights(model.module).items():
        for name, update in store.updates.items():
            for factor in "AB":
                assert error(getattr(update, factor).grad, leaves[f"{path} {name} {factor}"].grad) < 1e-4, (path, name)


def test_what_trains_and_what_the_verbs_leave() -> None:
    model, x = stirred(Net(), TWO)
    model.activate("a", "b", weights=(0.5, 0))
    trains = [name for name, _ in model.trainable_parameters()]
    assert trains
    assert all(".updates.a." in name for name in trains), "one of weight 0 does not train"
    model(x).sum().backward()
    assert all(p.grad is not None for _, p in model.trainable_parameters())
    model.activate("a", weights=[0.0])
    with pytest.raises(TuningError):
        model.trainable_parameters()
    model.activate("a", "b", weights=(0.5, 2))
    assert repr(model).endswith("active=0.5 · a, 2 · b)")
    model.add_adapter("c", zoo.LoRA(2, targets=["fc"]))
    assert dict(model.active_weights) == {"a": 0.5, "b": 2.0, "c": 1.0}
    model.remove_adapter("a")
    assert dict(model.active_weights) == {"b": 2.0, "c": 1.0}
    with torch.no_grad():
        model.state_dict()
    kept = managed_weights(model.module)["fc.weight"]
    assert kept._shares == (2.0, 1.0)
    with pytest.raises(TypeError):
        model.active_weights["b"] = 3  # type: ignore[index]


def test_an_adapter_may_come_inactive_and_leaves_what_others_train() -> None:
    model, x = stirred(Net(), {"a": zoo.LoRA(2, targets=["fc"]), "b": zoo.LoRA(2, targets=["fc"])})
    model.activate("a")
    updates = managed_weights(model.module)["fc.weight"].updates
    updates["a"].A.requires_grad_(False)
    updates["b"].B.requires_grad_(True)
    before, plain = {name: p.requires_grad for name, p in model.module.named_parameters()}, out(model, x)
    model.add_adapter("c", zoo.LoRA(2, targets=["fc", "conv"]), active=False)
    assert model.active == ("a",)
    assert torch.equal(out(model, x), plain)
    now = {name: p.requires_grad for name, p in model.module.named_parameters()}
    assert all(now[name] == trains for name, trains in before.items() if name in now)
    assert not any(trains for name, trains in now.items() if ".updates.c." in name)
    model.add_adapter("d", zoo.LoRA(2, targets=["fc"]))
    assert model.active == ("a", "d")
    now = {name: p.requires_grad for name, p in model.module.named_parameters()}
    assert all(now[name] == trains for name, trains in before.items() if name in now)
    assert all(trains for name, trains in now.items() if ".updates.d." in name)
    model.activate("c")
    assert {name.split(".")[-2] for name, _ in model.trainable_parameters()} == {"c"}


@pytest.mark.parametrize("bits", [None, 4])
def test_copies_saved_adapters_and_saved_models(bits: int | None, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    net = Net()
    model, x = stirred(copy.deepcopy(net), TWO, bits=bits)
    whole = out(model, x)
    model.activate("a", "b", weights=(0.5, -1.0))
    expected = out(model, x)
    again = copy.deepcopy(model)
    assert torch.equal(out(again, x), expected)
    assert dict(again.active_weights) == {"a": 0.5, "b": -1.0}
    again.activate("b")
    assert torch.equal(out(model, x), expected), "a copy shares nothing"
    for name in TWO:  # an adapter is saved as it is
        model.save_adapter(tmp_path / name, name=name)
    fresh = zoo.wrap(copy.deepcopy(net), bits=bits, lora={name: str(tmp_path / name) for name in TWO})
    assert torch.equal(out(fresh, x), whole)
    fresh.activate("a", "b", weights=(0.5, -1.0))
    assert torch.equal(out(fresh, x), expected)
    model.save(tmp_path / "model")  # a model is saved as it computes
    net.load_state_dict(load_file(tmp_path / "model" / "model.safetensors"))
    assert error(out(net.eval(), x), expected) < 1e-5
    assert model.footprint() == fresh.footprint()


@pytest.mark.slow
def test_weights_under_compile() -> None:
    torch.compiler.reset()
    model, x = stirred(Net(), TWO, bits=4)
    compiled = torch.compile(model.module, backend="eager", fullgraph=True)
    for weights in ((1, 1), (0.2, 0.9), (0.2, 0), (0, 0), (3, -1)):
        model.activate("a", "b", weights=weights)
        with torch.no_grad():
            assert error(compiled(x), model.module(x)) < 1e-6


@pytest.mark.parametrize(
    ("names", "weights", "match"),
    [
        (("a", "b"), (1,), "expected 2 for a, b, got 1"),
        (("a",), (1, 2), "expected 1 for a, got 2"),
        ((), (1,), "expected 0 for no adapter, got 1"),
        (("a", "a"), (1, 2), "weights: expected each adapter once, got a, a"),
        (("a", "b"), 0.5, "expected one number for each adapter, as in"),
        (("a", "b"), {"a": 1, "b": 1}, "expected one number for each adapter, as in"),
        (("a", "b"), "12", "expected one number for each adapter, as in"),
        (("a", "b"), (1, "x"), "the weight of 'b': expected a number, got 'x'"),
        (("a", "b"), (1, math.nan), "the weight of 'b': expected a number, got nan"),
        (("a", "b"), (True, 1), "the weight of 'a': expected a number, got True"),
        (("a", "bee"), (1, 1), "no adapter 'bee'; there are a, b"),
    ],
)
def test_weights_that_cannot_be(names: tuple[str, ...], weights: Any, match: str) -> None:
    model = zoo.wrap(Net(), lora=TWO)
    model.activate("b", "a", weights=(0.5, 2))
    with pytest.raises((AdapterError, UnknownNameError), match=match) as caught:
        model.activate(*names, weights=weights)
    assert "\n" not in str(caught.value)
    assert dict(model.active_weights) == {"b": 0.5, "a": 2.0}
    assert managed_weights(model.module)["fc.weight"].active == ("b", "a")


def test_adapters_names_do_not_matter() -> None:
    torch.manual_seed(0)
    net = Net()
    outputs = []
    for names in (("a", "b"), ("z_9", "0-x")):
        model = zoo.wrap(copy.deepcopy(net).eval(), lora=dict(zip(names, TWO.values(), strict=True)), seed=1)
        torch.manual_seed(1)
        with torch.no_grad():
            for store in managed_weights(model.module).values():
                for update in store.updates.values():
                    update.A.normal_()
                    update.B.normal_(std=0.1)
        model.activate(*names, weights=(0.3, 2))
        outputs.append(out(model, Net.draw(seed=3)))
    assert torch.equal(*outputs)


def test_a_store_by_itself() -> None:
    store = ManagedWeight(nn.Parameter(torch.randn(4, 5)))
    for name in "ab":
        store.add(name, Gain(store.shape))
        nn.init.normal_(store.updates[name].gain)
    store.activate(("a", "b"), {"a": 0.5})
    base = store.base.double()
    g, h = (store.updates[name].gain.double() for name in "ab")
    middle = base + 0.5 * (base * g - base)
    assert error(store.dense(), middle * h) < 1e-6
    store.remove("a")
    assert error(store.dense(), base * h) < 1e-6
