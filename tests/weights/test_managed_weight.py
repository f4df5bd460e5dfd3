"""Managed weights: their state, what merging and activating do to it, and that nothing drifts."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from zoo.errors import AdapterError, WeightError
from zoo.weights.codecs import pack
from zoo.weights.layout import Layout
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.scheme import Quantization
from zoo.weights.update import LoRAUpdate

BITS = [None, 8, 4]
quantized = pytest.mark.parametrize("bits", BITS)


def make(bits: int | None, shape: tuple[int, ...] = (12, 20), dtype: torch.dtype = torch.float32) -> ManagedWeight:
    weight = torch.randn(shape).to(dtype)
    base = nn.Parameter(weight, requires_grad=False) if bits is None else pack(weight, Quantization(bits=bits))
    return ManagedWeight(base, Layout())


def add(store: ManagedWeight, name: str, dropout: float = 0.0) -> LoRAUpdate:
    update = LoRAUpdate(store.shape, 2, 1.5, layout=store.layout, dropout=dropout)
    nn.init.normal_(update.A, std=0.1)
    nn.init.normal_(update.B, std=0.1)
    store.add(name, update)
    return update


def bits_of(store: ManagedWeight) -> list[bytes]:
    tensors = [store.base] if store.base is not None else list(store.packed.tensors())
    return [tensor.detach().contiguous().view(torch.uint8).numpy().tobytes() for tensor in tensors]


def delta(update: LoRAUpdate) -> Tensor:
    return update.scale * (update.B @ update.A).detach()


@quantized
def test_active_updates_add_up_in_any_number(bits: int | None) -> None:
    store = make(bits)
    base = store.dense().detach().clone()
    first, second = add(store, "a"), add(store, "b")
    assert torch.equal(store.dense(), base)
    store.activate(("a",))
    assert torch.allclose(store.dense(), base + delta(first), atol=1e-6)
    store.activate(("b", "a", "unknown"))
    assert store.active == ("b", "a")
    assert torch.allclose(store.dense(), base + delta(first) + delta(second), atol=1e-6)
    store.remove("b")
    assert (store.active, list(store.updates)) == (("a",), ["a"])
    store.remove("never there")
    assert torch.allclose(store.dense(), base + delta(first), atol=1e-6)
    store.activate(())
    assert torch.equal(store.dense(), base)


@quantized
def test_merging_is_exact_and_keeps_the_base(bits: int | None) -> None:
    store = make(bits)
    before, base = bits_of(store), store.dense().detach().clone()
    first, second = add(store, "a"), add(store, "b")
    store.activate(("a", "b"))
    both = store.dense().detach().clone()
    for _ in range(5):
        store.merge(("a",))
        assert (store.active, store.merged_names) == (("b",), ("a",))
        assert torch.allclose(store.base_tensor(), base + delta(first), atol=1e-6)
        assert torch.allclose(store.dense(), both, atol=1e-6)
        store.merge(("b",))  # one more on top
        assert torch.allclose(store.base_tensor(), both, atol=1e-6)
        assert not store.merged.requires_grad
        assert store.unmerge() == ("a", "b")
        store.activate(("a", "b"))
        assert torch.equal(store.dense(), both)
    store.activate(())
    assert torch.equal(store.dense(), base)
    assert bits_of(store) == before
    assert torch.allclose(both, base + delta(first) + delta(second), atol=1e-6)


@quantized
def test_merging_in_bf16_rounds_once(bits: int | None) -> None:
    """Computed in float32 and rounded at the end, also for two adapters merged together."""
    store = make(bits, dtype=torch.bfloat16)
    first, second = add(store, "a"), add(store, "b")
    exact = store.base_tensor(torch.float32) + delta(first) + delta(second)
    store.merge(("a", "b"))
    assert store.base_tensor().dtype == torch.bfloat16
    assert torch.equal(store.base_tensor(), exact.bfloat16())


@quantized
def test_dropout_is_not_merged_in(bits: int | None) -> None:
    store = make(bits).train()
    base = store.dense().detach().clone()
    update = add(store, "a", dropout=0.5)
    store.merge(("a",))
    assert torch.allclose(store.base_tensor(), base + delta(update), atol=1e-6)
    assert store.training
    assert update.training


@quantized
def test_names_are_taken_once_and_unknown_ones_passed_over(bits: int | None) -> None:
    store = make(bits)
    add(store, "a")
    with pytest.raises(AdapterError, match="'a' is already"):
        add(store, "a")
    store.merge(("elsewhere",))
    assert store.merged is None
    assert store.unmerge() == ()


@quantized
def test_casts_change_the_logical_type_and_leave_scales(bits: int | None) -> None:
    store = make(bits)
    before = bits_of(store)
    for dtype in (torch.bfloat16, torch.float64, torch.float16, torch.float32):
        store.to(dtype)
        assert store.dtype == store.dense().dtype == dtype
        assert store.device == torch.device("cpu")
        if bits is not None:
            assert bits_of(store) == before
    store.half()
    assert store.dtype == torch.float16
    store.to("meta")
    assert store.device.type == "meta"
    assert store.dense().shape == (12, 20)


@quantized
def test_copies_share_nothing(bits: int | None) -> None:
    store = make(bits)
    add(store, "a")
    store.activate(("a",))
    other = copy.deepcopy(store)
    before = store.dense().detach().clone()
    with torch.no_grad():
        other.updates["a"].A.zero_()
    assert torch.equal(store.dense(), before)
    assert not torch.equal(other.dense(), before)
    other.activate(())
    assert store.active == ("a",)


@quantized
def test_a_replica_would_stay_on_its_device(bits: int | None) -> None:
    with pytest.raises(WeightError, match="DistributedDataParallel"):
        nn.Sequential(make(bits))[0]._replicate_for_data_parallel()


@quantized
def test_shapes_of_any_number_of_dimensions(bits: int | None) -> None:
    for shape, split in [((6, 4), 1), ((1, 6, 4), 2), ((1, 1, 6, 5, 3), 3), ((7, 3, 2), 2), ((5, 6, 1, 1), 1)]:
        weight = torch.randn(shape)
        base = nn.Parameter(weight) if bits is None else pack(weight, Quantization(bits=bits))
        store = ManagedWeight(base, Layout(split=split))
        before = store.dense().detach().clone()
        update = add(store, "a")
        store.activate(("a",))
        assert store.dense().shape == shape
        assert torch.allclose(store.dense() - before, delta(update).view(shape), atol=1e-5)
