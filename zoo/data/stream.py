"""Tensors in memory, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

from zoo.data.batches import Batches
from zoo.data.report import collecting, record_items
from zoo.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.plugin.requests import BatchRequest


def stream(tensors: Mapping[str, Tensor | None], request: BatchRequest) -> Batches[dict[str, Tensor]]:
    """Return batches of tensors in memory.

    Split "train" is endless: one shuffled order after another, all from `request.seed`; every batch is full, also where
    it spans two orders or the data are fewer than a batch. How many items a pass has is said (`tune(epochs=)`). Any
    other split is one pass in the given order, whose last batch may be short. The global random state is left alone.

    Args:
        tensors: name → tensor [n, ...], of one n; names whose value is None are left out.
        request: batch size, split and seed.

    Raises:
        DataError: lengths differ or nothing is there; at the call and not at the first batch.
    """
    present = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    lengths = {name: len(tensor) for name, tensor in present.items()}
    if len(set(lengths.values())) != 1:
        found = ", ".join(f"{name}: {length}" for name, length in lengths.items()) or "nothing"
        raise DataError(f"expected tensors of one length, got {found}: give as many labels as items")
    (length,) = set(lengths.values())
    if not length:
        raise DataError(f"expected data for the split {request.split!r}, and they hold nothing: give at least one item")
    if request.split == "train":
        record_items(length)
    chosen = _endless(length, request) if request.split == "train" else _one_pass(length, request)
    return Batches(chosen, lambda rows, _: {name: tensor[rows] for name, tensor in present.items()})


def _endless(length: int, request: BatchRequest) -> Iterator[Tensor]:
    """Yield the rows of each batch, [b] int64."""
    import torch

    generator = torch.Generator().manual_seed(request.seed)
    waiting = torch.empty(0, dtype=torch.int64)
    while True:
        orders = range(-(-max(0, request.batch_size - len(waiting)) // length))
        waiting = torch.cat([waiting, *(torch.randperm(length, generator=generator) for _ in orders)])
        chosen, waiting = waiting[: request.batch_size], waiting[request.batch_size :]  # [b], the rest
        yield chosen


def _one_pass(length: int, request: BatchRequest) -> Iterator[slice]:
    for start in range(0, length, request.batch_size):
        yield slice(start, start + request.batch_size)


def redrawn(
    draw: Callable[[int], Mapping[str, Tensor | None]], request: BatchRequest, *, batches: int = 32
) -> Batches[dict[str, Tensor]]:
    """Return endless batches of data that are drawn anew every `batches` batches.

    For training from random weights: a model that sees each item once has nothing to learn by heart.

    Args:
        draw: seed → tensors, as `stream` takes them; as many items as fill `batches` batches, at least one.
        request: its seed gives the seeds of the draws.
        batches: how many batches one draw is for.
    """
    current: tuple[int, Batches[dict[str, Tensor]]] = (-1, Batches(()))

    def made(_: int, number: int) -> dict[str, Tensor]:
        nonlocal current
        if current[0] != number // batches:
            seed = request.seed * 1_000_000 + number // batches
            with collecting():  # one draw is no pass
                current = (number // batches, stream(draw(seed), replace(request, split="train", seed=seed)))
        current[1].skip(number % batches - current[1].number)
        return next(current[1])

    return Batches(count(), made)
