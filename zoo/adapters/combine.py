"""One adapter made of several: by concatenation, sums of factors, or arithmetic on whole updates and their SVD.

The methods are those of PEFT's `add_weighted_adapter`, which gives them their names. Notation: adapter i has weight
w_i, and for each of the model's weights A_i (rank, inputs), B_i (outputs, rank) and a scale s_i: ΔW_i = s_i·B_i·A_i.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.adapters import arithmetic
from zoo.adapters.adapter_set import AdapterSet, PreparedAdapter, check_weight
from zoo.adapters.swap import compact
from zoo.adapters.updates import make_updates
from zoo.errors import AdapterError, did_you_mean
from zoo.methods.config import LoRA, Targets, check_name
from zoo.methods.targets import match_weights
from zoo.torch_state.modes import seeded
from zoo.weights.update import LowRankUpdate
from zoo.weights.walk import stores, tied_groups

# The arithmetic of each method that has any: on factors under its own name, on whole updates followed by an SVD as
# "<name>_svd"; "svd" is the SVD of the plain sum.
PRUNING = ("ties", "dare_linear", "dare_ties", "magnitude_prune")
METHODS = ("cat", "linear", "svd", *PRUNING, *(f"{name}_svd" for name in PRUNING))

Mix = Callable[[Sequence[Tensor], Sequence[float]], Tensor]


class Term(NamedTuple):
    """What one adapter brings to one weight. A: (rank, inputs), B: (outputs, rank)."""

    weight: float
    scale: float
    A: Tensor
    B: Tensor


class Product(NamedTuple):
    """A combined update B @ A. kept: the share of ‖ΔW‖² that its rank holds of what was combined, and that ‖ΔW‖²."""

    A: Tensor
    B: Tensor
    kept: float
    whole: float


@dataclass(frozen=True)
class CombineReport:
    """What `model.combine_adapters` made.

    rank: the highest of the new adapter. kept: the share of ‖ΔW‖², over all weights, that the new rank holds of what
    the method computed; 1 where nothing was cut. error: ‖ΔW - Σ w_i·ΔW_i‖ / ‖Σ w_i·ΔW_i‖ over all weights, how far
    the effect is from the weighted sum of the effects: 0 up to rounding for "cat", not at all for methods that mean
    something else.
    """

    name: str
    method: str
    rank: int
    kept: float
    error: float

    def __str__(self) -> str:
        kept = "" if self.kept == 1.0 else f", {self.kept:.1%} of the squared effect kept"
        return (
            f"{self.name}: {self.method}, rank {self.rank}{kept}; {self.error:.2g} from the weighted sum of the effects"
        )


def combine(
    adapters: AdapterSet,
    name: str,
    sources: Mapping[str, float],
    *,
    method: str,
    rank: int | None,
    density: float | None,
    majority_sign: str,
    seed: int | None,
) -> CombineReport:
    """Make the adapter `name` of others; see `zoo.Model.combine_adapters`."""
    check_name(name)
    if name in adapters.configs:
        raise AdapterError(f"there is an adapter {name!r} already: remove it first, or choose another name")
    weights = _checked(adapters, sources)
    mix = _mix(method, rank, density, majority_sign)
    if adapters.device.type == "meta":
        raise AdapterError("adapters on 'meta' have no values to combine: load the model on a device")
    terms = _terms(adapters, weights)
    longest = max(term.A.shape[0] for found in terms.values() for term in found)
    made: dict[str, Product] = {}
    wrong = total = 0.0
    with torch.no_grad():
        with seeded(seed, adapters.device):
            for path, found in terms.items():
                made[path] = _combined(path, found, method, mix, rank or longest)
        for path, found in terms.items():
            A, B = _stacked(found)
            wrong += _square(torch.cat([made[path].B, -B], 1), torch.cat([made[path].A, A]))
            total += _square(B, A)
        adapters.attach(_plan(adapters, name, weights, made), active=False)
    whole = sum(one.whole for one in made.values())
    kept = sum(one.kept * one.whole for one in made.values()) / whole if whole else 1.0
    top = max(one.A.shape[0] for one in made.values())
    return CombineReport(name, method, top, kept, math.sqrt(wrong / total) if total else 0.0)


def _checked(adapters: AdapterSet, sources: Any) -> dict[str, float]:
    if not isinstance(sources, Mapping) or not sources:
        example = {"a": 0.7, "b": 0.3}
        raise AdapterError(f"adapters: expected a dict of names and weights, as {example}, got {sources!r:.60}")
    for name in sources:
        config = adapters.known(name)
        if not isinstance(config, LoRA) or config.dora:
            kind = "dora" if isinstance(config, LoRA) else config.kind
            raise AdapterError(
                f"adapter {name!r} is of kind {kind!r}, which is no low-rank product: only LoRA combines"
            )
    return {name: check_weight(name, weight) for name, weight in sources.items()}


def _mix(method: str, rank: int | None, density: float | None, majority_sign: str) -> Mix | None:
    """The arithmetic of a method, if it has any. Raises `AdapterError` for options that do not go with it."""
    if method not in METHODS:
        hint = did_you_mean(str(method), METHODS)
        raise AdapterError(f"method {method!r}: expected one of {', '.join(METHODS)}.{hint}")
    if rank is not None and not method.endswith("svd"):
        able = ", ".join(name for name in METHODS if name.endswith("svd"))
        raise AdapterError(f"rank={rank!r}: method {method!r} has no rank to choose; {able} have")
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or rank < 1):
        raise AdapterError(f"rank: expected a whole number of at least 1, got {rank!r}")
    if majority_sign not in ("total", "frequency"):
        raise AdapterError(f"majority_sign: expected 'total' or 'frequency', got {majority_sign!r}")
    prunes = method not in ("cat", "linear", "svd")
    if not prunes and density is not None:
        raise AdapterError(f"density={density!r}: method {method!r} drops nothing; ties, dare and magnitude_prune do")
    if prunes and (isinstance(density, bool) or not isinstance(density, int | float) or not 0 < density <= 1):
        needs = "needs the share of values to keep, above 0 up to 1"
        raise AdapterError(f"density: method {method!r} {needs}, got {density!r}")
    name = method.removesuffix("_svd")
    if name in ("cat", "svd"):
        return None
    return lambda tensors, weights: arithmetic.mix(name, tensors, weights, density or 1.0, majority_sign)


def _terms(adapters: AdapterSet, weights: Mapping[str, float]) -> dict[str, list[Term]]:
    """What the adapters bring to each weight that any of them changes."""
    terms: dict[str, list[Term]] = {}
    for path, store in stores(adapters.module).items():
        for name, weight in weights.items():
            update = compact(store.updates[name]) if name in store.updates else None  # type: ignore[arg-type]
            if update is None:
                continue
            if not isinstance(update, LowRankUpdate) or update.takes_base:
                kind = f"{update.kind!r} ({type(update).__name__})"
                raise AdapterError(f"{path}: adapter {name!r} is {kind} there, which is no plain low-rank product")
            A, B = (factor.detach() for factor in update.pair())
            terms.setdefault(path, []).append(Term(weight, update.scale, A, B))
    if not terms:
        raise AdapterError(f"{', '.join(weights)} change no weight at all")
    return terms


def _combined(path: str, terms: list[Term], method: str, mix: Mix | None, rank: int) -> Product:
    if method == "cat":
        A, B = _stacked(terms)
        return Product(A, B, 1.0, _square(B, A))
    if method == "svd":
        return _truncated_product(*_stacked(terms), rank)
    assert mix is not None
    if method.endswith("_svd"):
        return _truncated(mix([one.scale * (one.B @ one.A) for one in terms], [one.weight for one in terms]), rank)
    ranks = [one.A.shape[0] for one in terms]
    if len(set(ranks)) > 1:
        raise AdapterError(
            f"{path}: method {method!r} adds factors and needs equal ranks, got {', '.join(map(str, ranks))}; "
            "'cat' and the methods that end in svd take any"
        )
    # Half of a weight to each factor; its sign goes to A alone.
    roots = [math.sqrt(abs(one.weight * one.scale)) for one in terms]
    signs = [math.copysign(root, one.weight * one.scale) for root, one in zip(roots, terms, strict=True)]
    A, B = mix([one.A for one in terms], signs), mix([one.B for one in terms], roots)
    return Product(A, B, 1.0, _square(B, A))


def _stacked(terms: list[Term]) -> tuple[Tensor, Tensor]:
    """(A, B) of the weighted sum itself: all factors side by side, weights and scales in A."""
    return torch.cat([one.A * (one.weight * one.scale) for one in terms]), torch.cat([one.B for one in terms], 1)


def _truncated_product(A: Tensor, B: Tensor, rank: int) -> Product:
    """The best approximation of B @ A of a rank, without ever forming it: the SVD of the product of two QR's R."""
    dtype = A.dtype
    Q, R = torch.linalg.qr(_wide(B))
    P, S = torch.linalg.qr(_wide(A).mT)
    U, values, Vh = torch.linalg.svd(R @ S.mT, full_matrices=False)
    return _cut(Q @ U, values, Vh @ P.mT, rank, dtype)


def _truncated(delta: Tensor, rank: int) -> Product:
    """The best approximation of a whole update (outputs, inputs) of a rank (Eckart-Young)."""
    U, values, Vh = torch.linalg.svd(_wide(delta), full_matrices=False)
    return _cut(U, values, Vh, rank, delta.dtype)


def _cut(U: Tensor, values: Tensor, Vh: Tensor, rank: int, dtype: torch.dtype) -> Product:
    whole, held = float(values.square().sum()), float(values[:rank].square().sum())
    B = U[:, :rank] * values[:rank]
    return Product(Vh[:rank].to(dtype), B.to(dtype), held / whole if whole else 1.0, whole)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32 if tensor.device.type == "mps" else torch.float64)  # which has no float64


def _square(B: Tensor, A: Tensor) -> float:
    """‖B @ A‖² without forming the product: tr(BᵀB · AAᵀ)."""
    A, B = _wide(A), _wide(B)
    return max(float(((B.mT @ B) * (A @ A.mT)).sum()), 0.0)


# The new adapter


def _plan(
    adapters: AdapterSet, name: str, weights: Mapping[str, float], made: Mapping[str, Product]
) -> PreparedAdapter:
    """The combined updates as an ordinary LoRA of alpha = rank, made by whoever makes LoRA of each weight."""
    ranks = {path.removesuffix(".weight"): one.A.shape[0] for path, one in made.items()}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    own = {"^" + re.escape(path): other for path, other in ranks.items() if other != rank}
    targets = _targets(adapters, weights, made)
    config = LoRA(rank=rank, alpha=rank, targets=targets, rank_pattern=own, alpha_pattern=dict(own))
    with seeded(0, adapters.device):  # they start with random values, which nobody is to notice
        updates = make_updates(tied_groups(adapters.module), adapters.entry, config)
    for path, (A, B, _, _) in made.items():
        update = updates[path]
        if not isinstance(update, LowRankUpdate) or update.A.shape != A.shape or update.scale == 0:
            raise AdapterError(f"{path}: no plugin makes a low-rank update of rank {A.shape[0]} for it")
        update.A.copy_(A)
        update.B.copy_(B / update.scale)
    return PreparedAdapter(name, config, updates)


def _targets(adapters: AdapterSet, weights: Mapping[str, float], made: Mapping[str, Product]) -> Targets:
    """What names exactly these weights: the adapters' own targets where they are all the same, else their paths."""
    given = {adapters.configs[name].targets for name in weights}
    paths = tuple(path.removesuffix(".weight") for path in made)
    groups = tied_groups(adapters.module)
    for targets in (*given, paths) if len(given) == 1 else (paths,):
        if targets and {group.name for group in match_weights(groups, targets)} == set(made):
            return targets
    return "|".join(re.escape(path) for path in paths)
