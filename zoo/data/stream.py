"""Tensors in memory, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from zoo.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.plugin.requests import BatchRequest


def stream(tensors: Mapping[str, Tensor | None], request: BatchRequest) -> Iterator[dict[str, Tensor]]:
    """Batches of `tensors`, which share their first dimension; names whose value is None are left out.

    Split "train" is endless: one shuffled order after another, all from `request.seed`; every batch is full, also where
    it spans two orders or the data are fewer than a batch. Any other split is one pass in the given order, whose last
    batch may be short. The global random state is left alone. Raises `DataError` where lengths differ or nothing is
    there, at the call and not at the first batch.
    """
    present = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    lengths = {name: len(tensor) for name, tensor in present.items()}
    if len(set(lengths.values())) != 1:
        found = ", ".join(f"{name}: {length}" for name, length in lengths.items()) or "nothing"
        raise DataError(f"Batches need tensors of one length; got {found}. Give as many labels as items.")
    (length,) = set(lengths.values())
    if not length:
        raise DataError(f"The data hold nothing for the split {request.split!r}; give at least one item.")
    return _endless(present, length, request) if request.split == "train" else _one_pass(present, length, request)


def _endless(tensors: dict[str, Tensor], length: int, request: BatchRequest) -> Iterator[dict[str, Tensor]]:
    import torch

    generator = torch.Generator().manual_seed(request.seed)
    waiting = torch.empty(0, dtype=torch.int64)
    while True:
        while len(waiting) < request.batch_size:
            waiting = torch.cat([waiting, torch.randperm(length, generator=generator)])
        chosen, waiting = waiting[: request.batch_size], waiting[request.batch_size :]
        yield {name: tensor[chosen] for name, tensor in tensors.items()}


def _one_pass(tensors: dict[str, Tensor], length: int, request: BatchRequest) -> Iterator[dict[str, Tensor]]:
    for start in range(0, length, request.batch_size):
        yield {name: tensor[start : start + request.batch_size] for name, tensor in tensors.items()}
