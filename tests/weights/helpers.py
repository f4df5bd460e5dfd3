"""Managed weights of every kind, their float64 reference, and a comparison of the two."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from zoo.weights.codecs import pack
from zoo.weights.layout import Layout
from zoo.weights.lazy_weight import LazyWeight
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.ops import conv_choice, linear
from zoo.weights.scheme import Quantization
from zoo.weights.update import LoRAUpdate

SCHEMES = {
    "plain": None,
    "nf4": Quantization(4),
    "nf4-4096-single": Quantization(4, "nf4", 4096, double=False),
    "fp4": Quantization(4, "fp4"),
    "int8": Quantization(8),
    "dynamic8": Quantization(8, "dynamic8", 128),
    "bf16": Quantization(16),
}
QUANTIZED = [name for name in SCHEMES if name != "plain"]
FOLDING = (True, False)
TOLERANCE = 1e-5  # relative, float32


def managed(
    shape: Sequence[int],
    scheme: str = "plain",
    adapters: int = 1,
    *,
    layout: Layout = Layout(),  # noqa: B008 - immutable
    dtype: torch.dtype = torch.float32,
    rank: int = 3,
    dropout: float = 0.0,
    train_base: bool = False,
) -> LazyWeight:
    """Return a random managed weight with adapters whose A and B are both random."""
    weight = torch.randn(*shape).to(dtype)
    how = SCHEMES[scheme]
    base = nn.Parameter(weight, requires_grad=train_base) if how is None else pack(weight, how)
    store = ManagedWeight(base, layout)
    for number in range(adapters):
        update = LoRAUpdate(weight.shape, rank + number, 0.7 - 1.1 * number, layout=layout, dropout=dropout)
        for factor in update.parameters():
            nn.init.normal_(factor, std=0.5)
        if dtype == torch.float64:
            update.double()
        store.add(f"adapter{number}", update)
    store.activate(tuple(store.updates))
    return LazyWeight(store)


class Reference(NamedTuple):
    """A managed weight as one dense float64 tensor, and the float64 leaves that it is computed from."""

    weight: Tensor
    leaves: list[Tensor]


def reference(store: ManagedWeight) -> Reference:
    """Return base + Σ scale · B @ A in float64, the product written out by the layout, unlike in zoo itself."""
    weight = store.base_tensor().detach().double()
    leaves = []
    plain = store.dense_base()
    if plain is not None and plain.requires_grad:
        weight.requires_grad_()
        leaves.append(weight)
    for update in store.active_updates():
        A, B = (one.detach().double().requires_grad_() for one in (update.A, update.B))
        leaves += [A, B]
        delta = torch.einsum("...or,...ri->...oi", B, A)
        weight = weight + update.scale * (delta.mT if store.layout.transposed else delta).reshape(weight.shape)
    return Reference(weight, leaves)


def trained(store: ManagedWeight) -> list[Tensor]:
    """Return the tensors that `Reference.leaves` are float64 copies of."""
    plain = store.dense_base()
    first = [plain] if plain is not None and plain.requires_grad else []
    return first + [factor for update in store.active_updates() for factor in (update.A, update.B)]


def error(found: Tensor, expected: Tensor) -> float:
    """Return the largest absolute difference, relative to the largest expected value."""
    assert found.shape == expected.shape, (found.shape, expected.shape)
    if not expected.numel():
        return 0.0
    largest = expected.abs().max().item()
    assert largest > 0, "the reference is zero: the test would prove nothing"
    return (found.double() - expected.double()).abs().max().item() / largest


def compare(op: Callable[..., Tensor], weight: LazyWeight, *inputs: Tensor, tolerance: float = TOLERANCE) -> float:
    """Check output and every gradient of `op(weight, *inputs)` against float64, and return the largest relative error.

    Also without gradients, where the code takes other branches. All floating inputs take a gradient.
    """
    store = weight._zoo_store
    mine = [one.detach().clone().requires_grad_(one.is_floating_point()) for one in inputs]
    theirs = [one.detach().double().requires_grad_() if one.is_floating_point() else one for one in inputs]
    dense, leaves = reference(store)
    y, expected = op(weight, *mine), op(dense, *theirs)
    with torch.no_grad():
        still = op(weight, *mine)
    errors = {"output": error(y, expected), "output without gradients": error(still, expected)}
    assert y.dtype == still.dtype == (mine[0] if mine[0].is_floating_point() else weight).dtype
    with torch.no_grad():
        still64 = op(dense.detach(), *theirs)
    for one, other in ((y, expected), (still, still64)):
        # Not a view where torch's own is none: autograd lets no one change some views in place.
        assert one.stride() == other.stride()
        assert one._is_view() <= other._is_view()
    if not expected._is_view():
        op(weight, *mine).mul_(2.0)
    if not still64._is_view():
        still.mul_(torch.ones((), requires_grad=True))
    g = torch.randn_like(expected)
    names = [f"input {n}" for n, one in enumerate(mine) if one.requires_grad]
    wanted = [one for one in mine if one.requires_grad]
    wanted64 = [one for one in theirs if one.requires_grad]
    factors = trained(store)
    names += [f"factor {n}" for n in range(len(factors))]
    if wanted or factors:
        found = torch.autograd.grad(y, wanted + factors, g.to(y.dtype))
        right = torch.autograd.grad(expected, wanted64 + leaves, g)
        for name, one, other, source in zip(names, found, right, wanted + factors, strict=True):
            assert one.dtype == source.dtype, name
            errors[f"gradient of {name}"] = error(one, other)
    worst = max(errors, key=errors.__getitem__)
    assert errors[worst] <= tolerance, f"{worst}: {errors[worst]:.2e} ({store})"
    return errors[worst]


@contextmanager
def folding(yes: bool) -> Iterator[None]:
    """Fold ΔW into the weight always, or never: both must be right for any sizes.

    The factors' gradients take the other way: they are computed from the dense gradient if ΔW is not folded.
    """
    with pytest.MonkeyPatch.context() as patch:
        for module in (linear, conv_choice):
            patch.setattr(module, "prefer_folding", lambda *args, **kwargs: yes)
            patch.setattr(module, "prefer_dense_gradient", lambda *args, **kwargs: not yes, raising=False)
        yield


class _Made(TorchDispatchMode):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.storages: list[tuple[str, StorageWeakRef]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(one, Tensor) and one.is_floating_point() and one.numel() == self.size:
                self.storages.append((str(func), StorageWeakRef(one.untyped_storage())))
        return made


def dense_kept(run: Callable[[], Tensor], weight: LazyWeight) -> tuple[list[str], int]:
    """Return the operations whose floating-point results of the dense weight's size outlive `run()` with its graph.

    Also return how many such results there were in total. A storage counts if anything refers to it: autograd's saved
    tensors, a closure, a view.
    """
    store = weight._zoo_store
    own = {StorageWeakRef(one.untyped_storage()).cdata for one in store.parameters()}
    with _Made(store.shape.numel()) as made:
        y = run()
    assert y.grad_fn is not None
    made.storages = [(name, one) for name, one in made.storages if one.cdata not in own]
    return [name for name, one in made.storages if not one.expired()], len(made.storages)


def saved_by(run: Callable[[], Tensor]) -> list[Tensor]:
    """Return what autograd saves for the backward pass during `run()`."""
    saved: list[Tensor] = []

    def keep(one: Tensor) -> Tensor:
        saved.append(one)
        return one

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda one: one):
        run()
    return saved
