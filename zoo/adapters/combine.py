"""Combine adapters into a new one: by concatenation, sums of factors, or arithmetic on dense updates and their SVD.

The methods, and their names, are those of PEFT's `add_weighted_adapter`. Notation: adapter i has weight w_i, and for
each of the model's weights A_i (rank, inputs), B_i (outputs, rank) and a scale s_i: ΔW_i = s_i·B_i·A_i. In a stack of
matrices both factors have one more dimension in front, here (…), and each matrix is combined by itself.
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
from zoo.adapters.adapter_set import AdapterSet
from zoo.adapters.prepared import PreparedAdapter
from zoo.adapters.swap import unpadded
from zoo.adapters.updates import make_updates
from zoo.errors import AdapterError, did_you_mean
from zoo.methods.config import LoRA, Targets, check_name, check_weight
from zoo.methods.targets import match_weights
from zoo.torch_state.modes import seeded
from zoo.weights.update import LowRankUpdate
from zoo.weights.walk import managed_weights, tied_groups

# Each pruning method works on factors under its own name, and as "<name>_svd" on dense updates followed by an SVD;
# "svd" is the SVD of the weighted sum.
PRUNING = ("ties", "dare_linear", "dare_ties", "magnitude_prune")
METHODS = ("cat", "linear", "svd", *PRUNING, *(f"{name}_svd" for name in PRUNING))

Mix = Callable[[Sequence[Tensor], Sequence[float]], Tensor]


class Contribution(NamedTuple):
    """The part of one adapter in one weight's combined update.

    Attributes:
        weight: w_i.
        scale: s_i.
        A: A_i (rank, inputs).
        B: B_i (outputs, rank).
    """

    weight: float
    scale: float
    A: Tensor
    B: Tensor


class CombinedUpdate(NamedTuple):
    """A combined low-rank update of one weight, ΔW = B @ A.

    Attributes:
        A: (rank, inputs).
        B: (outputs, rank).
        kept: The share of the squared norm that its rank keeps.
        squared_norm: ‖ΔW‖² before truncation.
    """

    A: Tensor
    B: Tensor
    kept: float
    squared_norm: float


@dataclass(frozen=True)
class CombineReport:
    """What `model.combine_adapters` did.

    Attributes:
        name: The new adapter's name.
        method: The method.
        rank: The highest rank of the new adapter.
        kept: The share of ‖ΔW‖², over all weights, that the new rank keeps of what the method computed; 1 if nothing
            was truncated.
        error: ‖ΔW - Σ w_i·ΔW_i‖ / ‖Σ w_i·ΔW_i‖ over all weights, the distance from the weighted sum of the effects: 0
            up to rounding for "cat"; not meant to be 0 for methods that compute something else.
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
    """Combine the adapters `sources` into the new adapter `name`; see `zoo.Model.combine_adapters`."""
    check_name(name)
    if name in adapters.configs:
        raise AdapterError(f"there is an adapter {name!r} already: remove it first, or choose another name")
    weights = _checked(adapters, sources)
    mix = _mix(method, rank, density, majority_sign)
    if adapters.device.type == "meta":
        raise AdapterError("adapters on 'meta' have no values to combine: load the model on a device")
    contributions = _contributions(adapters, weights)
    largest_rank = max(one.A.shape[-2] for parts in contributions.values() for one in parts)
    combined: dict[str, CombinedUpdate] = {}
    error = total = 0.0
    with torch.no_grad():
        with seeded(seed):
            for path, parts in contributions.items():
                combined[path] = _combined(path, parts, method, mix, rank or largest_rank)
        for path, parts in contributions.items():
            A, B = _stacked(parts)  # the exact weighted sum
            error += _squared_norm(torch.cat([combined[path].B, -B], -1), torch.cat([combined[path].A, A], -2))
            total += _squared_norm(B, A)
        adapters.attach(_prepare(adapters, name, weights, combined), active=False)
    squared_norm = sum(one.squared_norm for one in combined.values())
    kept = sum(one.kept * one.squared_norm for one in combined.values()) / squared_norm if squared_norm else 1.0
    new_rank = max(one.A.shape[-2] for one in combined.values())
    return CombineReport(name, method, new_rank, kept, math.sqrt(error / total) if total else 0.0)


def _checked(adapters: AdapterSet, sources: Any) -> dict[str, float]:
    if not isinstance(sources, Mapping) or not sources:
        example = {"a": 0.7, "b": 0.3}
        raise AdapterError(f"adapters: expected a dict of names and weights, as {example}, got {sources!r:.60}")
    for name in sources:
        config = adapters.known(name)
        if not isinstance(config, LoRA) or config.dora:
            kind = "dora" if isinstance(config, LoRA) else config.kind
            raise AdapterError(f"adapter {name!r} is of kind {kind!r}, which is not low-rank: only LoRA combines")
    return {name: check_weight(name, weight) for name, weight in sources.items()}


def _mix(method: str, rank: int | None, density: float | None, majority_sign: str) -> Mix | None:
    """Return the arithmetic of a method, or None if it needs none.

    Raises:
        AdapterError: an option does not go with the method.
    """
    if method not in METHODS:
        hint = did_you_mean(str(method), METHODS)
        raise AdapterError(f"method {method!r}: expected one of {', '.join(METHODS)}.{hint}")
    if rank is not None and not method.endswith("svd"):
        able = ", ".join(name for name in METHODS if name.endswith("svd"))
        raise AdapterError(f"rank={rank!r}: method {method!r} takes no rank; {able} do")
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


def _contributions(adapters: AdapterSet, weights: Mapping[str, float]) -> dict[str, list[Contribution]]:
    """Return the adapters' contributions to each weight that any of them changes."""
    contributions: dict[str, list[Contribution]] = {}
    for path, managed in managed_weights(adapters.module).items():
        for name, weight in weights.items():
            update = unpadded(managed.updates[name]) if name in managed.updates else None  # type: ignore[arg-type]
            if update is None:
                continue
            if not isinstance(update, LowRankUpdate) or update.takes_base:
                kind = f"{update.kind!r} ({type(update).__name__})"
                raise AdapterError(f"{path}: adapter {name!r} is {kind} there, which is not a plain low-rank update")
            A, B = (factor.detach() for factor in update.pair())
            contributions.setdefault(path, []).append(Contribution(weight, update.scale, A, B))
    if not contributions:
        raise AdapterError(f"{', '.join(weights)} change no weight at all")
    return contributions


def _combined(path: str, parts: list[Contribution], method: str, mix: Mix | None, rank: int) -> CombinedUpdate:
    if method == "cat":
        A, B = _stacked(parts)
        return CombinedUpdate(A, B, 1.0, _squared_norm(B, A))
    if method == "svd":
        return _truncated_factors(*_stacked(parts), rank)
    assert mix is not None
    if method.endswith("_svd"):
        return _truncated(mix([one.scale * (one.B @ one.A) for one in parts], [one.weight for one in parts]), rank)
    ranks = [one.A.shape[-2] for one in parts]
    if len(set(ranks)) > 1:
        raise AdapterError(
            f"{path}: method {method!r} adds factors and needs equal ranks, got {', '.join(map(str, ranks))}; "
            "'cat' and the methods that end in svd take any"
        )
    # Each factor gets the square root of a weight; its sign goes to A alone.
    roots = [math.sqrt(abs(one.weight * one.scale)) for one in parts]
    signs = [math.copysign(root, one.weight * one.scale) for root, one in zip(roots, parts, strict=True)]
    A, B = mix([one.A for one in parts], signs), mix([one.B for one in parts], roots)
    return CombinedUpdate(A, B, 1.0, _squared_norm(B, A))


def _stacked(parts: list[Contribution]) -> tuple[Tensor, Tensor]:
    """Return (A, B) of the exact weighted sum: all factors concatenated, weights and scales in A."""
    A = torch.cat([one.A * (one.weight * one.scale) for one in parts], -2)  # (…, sum of ranks, inputs)
    return A, torch.cat([one.B for one in parts], -1)  # (…, outputs, sum of ranks)


def _truncated_factors(A: Tensor, B: Tensor, rank: int) -> CombinedUpdate:
    """Return the best approximation of B @ A of this rank, without forming the product.

    It is the SVD of R @ Sᵀ from two QR decompositions, B = Q·R and Aᵀ = P·S.
    """
    dtype = A.dtype
    Q, R = torch.linalg.qr(_double(B))  # (outputs, k), (k, ranks)
    P, S = torch.linalg.qr(_double(A).mT)  # (inputs, l), (l, ranks)
    U, values, Vh = torch.linalg.svd(R @ S.mT, full_matrices=False)  # of (k, l)
    return _truncate(Q @ U, values, Vh @ P.mT, rank, dtype)


def _truncated(delta: Tensor, rank: int) -> CombinedUpdate:
    """Return the best approximation of a dense update (outputs, inputs) of this rank (Eckart-Young)."""
    U, values, Vh = torch.linalg.svd(_double(delta), full_matrices=False)
    return _truncate(U, values, Vh, rank, delta.dtype)


def _truncate(U: Tensor, values: Tensor, Vh: Tensor, rank: int, dtype: torch.dtype) -> CombinedUpdate:
    largest = values[..., :rank]
    total, kept = float(values.square().sum()), float(largest.square().sum())
    A, B = Vh[..., :rank, :], U[..., :rank] * largest[..., None, :]  # (…, rank, inputs), (…, outputs, rank)
    return CombinedUpdate(A.to(dtype), B.to(dtype), kept / total if total else 1.0, total)


def _double(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32 if tensor.device.type == "mps" else torch.float64)  # MPS has no float64


def _squared_norm(B: Tensor, A: Tensor) -> float:
    """Return ‖B @ A‖² without forming the product: tr(BᵀB · AAᵀ)."""
    A, B = _double(A), _double(B)
    return max(float(((B.mT @ B) * (A @ A.mT)).sum()), 0.0)


# The new adapter


def _prepare(
    adapters: AdapterSet, name: str, weights: Mapping[str, float], combined: Mapping[str, CombinedUpdate]
) -> PreparedAdapter:
    """Return the combined updates as an ordinary LoRA with alpha = rank, created by the architecture's plugin."""
    ranks = {path.removesuffix(".weight"): one.A.shape[-2] for path, one in combined.items()}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    own = {"^" + re.escape(path): other for path, other in ranks.items() if other != rank}
    targets = _targets(adapters, weights, combined)
    config = LoRA(rank=rank, alpha=rank, targets=targets, rank_pattern=own, alpha_pattern=dict(own))
    with seeded(0):  # their random initial values must not change the global RNG
        updates = make_updates(tied_groups(adapters.module), adapters.entry, config)
    for path, (A, B, _, _) in combined.items():
        update = updates[path]
        if not isinstance(update, LowRankUpdate) or update.A.shape != A.shape or update.scale == 0:
            raise AdapterError(f"{path}: no plugin makes a low-rank update of rank {A.shape[-2]} for it")
        update.A.copy_(A)
        update.B.copy_(B / update.scale)
    adapters.buffers.notice()
    return PreparedAdapter(name, config, updates, buffers=adapters.buffers.under(weights))


def _targets(adapters: AdapterSet, weights: Mapping[str, float], combined: Mapping[str, CombinedUpdate]) -> Targets:
    """Return targets that match exactly these weights: the adapters' common ones if they do, else paths."""
    common = {adapters.configs[name].targets for name in weights}
    paths = tuple(path.removesuffix(".weight") for path in combined)
    groups = tied_groups(adapters.module)
    for targets in (*common, paths) if len(common) == 1 else (paths,):
        if targets and {group.name for group in match_weights(groups, targets)} == set(combined):
            return targets
    return "|".join(re.escape(path) for path in paths)
