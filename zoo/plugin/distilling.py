"""How far what a model puts out is from what its teacher does, for any two modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from zoo.errors import TuningError
from zoo.torch_state.rng import random_state, set_random_state
from zoo.weights.walk import library_modules

if TYPE_CHECKING:
    from zoo.plugin.contract import LoadedModel

DEPTH = 2  # modules within the module that are watched, where a loss does not call the module itself
Seen = dict[str, list[Tensor]]  # what each module put out, by its path, in the order of the calls


def distilled(
    model: LoadedModel, teacher: LoadedModel, batch: Any, share: float, loss: Callable[[LoadedModel, Any], Tensor]
) -> Tensor:
    """Return (1 − share) · the model's own loss + share · the distance of both modules' outputs in it.

    The distance of two tensors is their mean squared difference over the variance of the teacher's (of logits:
    arXiv 1312.6184); both losses draw the same random numbers.

    Args:
        model: the one that learns.
        teacher: the other.
        batch: as the model's `batches` make it.
        share: how much the teacher counts.
        loss: returns a model's own loss of a batch.

    Raises:
        TuningError: the two put out nothing of the same shape.
    """
    before = random_state(model.device)
    with watched(model.module) as mine:
        own = loss(model, batch)
    after = random_state(model.device)
    set_random_state(before, model.device)
    with torch.no_grad(), watched(teacher.module) as theirs:
        loss(teacher, batch)
    set_random_state(after, model.device)
    pairs = _pairs(mine, theirs)
    if not pairs:
        raise TuningError(
            f"{model.entry.name} and its teacher {teacher.entry.name} put out nothing of the same shape in their "
            "losses: give a teacher of the same outputs, or let the plugin implement the hook distill"
        )
    distance = torch.stack([_distance(one, other) for one, other in pairs]).mean()
    return (1 - share) * own + share * distance


def _pairs(mine: Seen, theirs: Seen) -> list[tuple[Tensor, Tensor]]:
    """Return what can be compared, of the modules nearest to the whole that put out such."""
    nearest = min(map(_depth, mine), default=0)
    return [
        (one, other)
        for path, tensors in mine.items()
        if _depth(path) == nearest
        for one, other in zip(tensors, theirs.get(path, ()), strict=False)
        if one.shape == other.shape and one.requires_grad
    ]


def _distance(one: Tensor, other: Tensor) -> Tensor:
    other = other.detach().to(one.device, torch.float32)
    spread = other.var(correction=0).clamp(min=1e-12)
    return (one.float() - other).square().mean() / spread


def _depth(path: str) -> int:
    return path.count(".") + 1 if path else 0


@contextmanager
def watched(module: nn.Module) -> Iterator[Seen]:
    """Yield a dict that fills with what the module and those within it put out: floats of one dimension or more."""
    seen: Seen = {}

    def note(path: str) -> Any:
        def hook(layer: nn.Module, args: Any, output: Any) -> None:
            tensors = [one for one in tree_leaves(output) if isinstance(one, Tensor)]
            seen.setdefault(path, []).extend(one for one in tensors if one.is_floating_point() and one.dim())

        return hook

    handles = [
        layer.register_forward_hook(note(path)) for path, layer in library_modules(module) if _depth(path) <= DEPTH
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
