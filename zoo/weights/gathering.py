"""Tensors of which each process keeps a part, DTensors: gathered where they are used, and again going backward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

_gathered: ContextVar[dict[int, tuple[Any, Tensor]] | None] = ContextVar("gathered", default=None)


def is_sharded(tensor: Any) -> bool:
    """Return whether a tensor is a DTensor, of which this process may have a part only."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor's values, without a graph; of a sharded one, those of all processes, which all have to ask."""
    if not is_sharded(tensor):
        return tensor.detach()
    with torch.no_grad():
        return _joined(tensor)


def put(target: Tensor, value: Tensor) -> None:
    """Give a tensor, sharded or not, the values of a whole one, which each process has."""
    with torch.no_grad():
        target.copy_(like(value, target))


def like(value: Tensor, target: Tensor) -> Tensor:
    """Return a whole tensor as this process keeps it: sharded as `target`, if that is and has its shape."""
    if not is_sharded(target) or value.shape != target.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = target.device_mesh, target.placements  # type: ignore[attr-defined]
    return distribute_tensor(value.to(mesh.device_type), mesh, placements, src_data_rank=None)


def gathered(parameter: Tensor) -> Tensor:
    """Return the values of a sharded parameter, with a graph where it trains."""
    if not (parameter.requires_grad and torch.is_grad_enabled()):
        return whole(parameter)
    found: Tensor = _Gather.apply(parameter)
    known = _gathered.get()
    if known is not None:
        from torch.multiprocessing.reductions import StorageWeakRef

        storage = found.untyped_storage()
        known[storage._cdata] = (StorageWeakRef(storage), parameter)
    return found


class _Gather(torch.autograd.Function):
    """Gather a parameter; average its gradient over the processes, and keep this one's part."""

    @staticmethod
    def forward(ctx: Any, parameter: Any) -> Tensor:
        ctx.mesh, ctx.placements, ctx.even = parameter.device_mesh, parameter.placements, _is_even(parameter)
        return _joined(parameter)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        from torch.distributed.tensor import DTensor, Partial

        processes, g = ctx.mesh.size(), g.contiguous() / ctx.mesh.size()
        if ctx.even:
            part = g.new_empty(g.shape[0] // processes, *g.shape[1:])
            torch.distributed.reduce_scatter_tensor(part, g, group=ctx.mesh.get_group())
            return DTensor.from_local(part, ctx.mesh, ctx.placements, run_check=False)
        partial = DTensor.from_local(g, ctx.mesh, [Partial()], run_check=False)
        return partial.redistribute(placements=ctx.placements)


def _is_even(tensor: Any) -> bool:
    """Return whether every process has as many rows of a DTensor as any other."""
    mesh, placements = tensor.device_mesh, tensor.placements
    sharded = len(placements) == 1 and placements[0].is_shard(0)
    return sharded and tensor.ndim > 0 and tensor.shape[0] % mesh.size() == 0


def _joined(tensor: Any) -> Tensor:
    """Return the values of a DTensor; by the plain collective where that will do, which costs a tenth of the time."""
    if not _is_even(tensor):
        found: Tensor = tensor.full_tensor()
        return found
    part: Tensor = tensor.to_local().detach().contiguous()
    joined = part.new_empty(tensor.shape)
    torch.distributed.all_gather_into_tensor(joined, part, group=tensor.device_mesh.get_group())
    return joined


@contextmanager
def regathering() -> Iterator[None]:
    """Let autograd keep the parts of the parameters that are gathered in the block, and gather them again when needed.

    Otherwise it would keep all adapters whole from the forward pass to the backward pass.
    """
    known: dict[int, tuple[Any, Tensor]] = {}

    def pack(tensor: Tensor) -> Any:
        if is_sharded(tensor) or tensor.layout != torch.strided:
            return tensor
        kept = known.get(tensor.untyped_storage()._cdata)
        if kept is None or kept[0].expired():
            return tensor
        return kept[1], tensor.size(), tensor.stride(), tensor.storage_offset()

    def unpack(kept: Any) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        parameter, size, stride, offset = kept
        return whole(parameter).as_strided(size, stride, offset)

    token = _gathered.set(known)
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            yield
    finally:
        _gathered.reset(token)
