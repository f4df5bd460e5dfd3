"""Weights of which each process keeps a part: gathered where they are used, and nowhere else.

torch's `fully_shard` gathers parameters before a module's forward pass. Here the weights are the ones that know when
they are used: a tied table that two layers share, a weight that another module reads, a network that a loss calls part
by part. So each weight gathers itself, for the time of one operation, and again in the backward pass; what is stored
are FSDP2's own parameters, DTensors sharded along their first dimension. Every process has to use the same weights in
the same order, as with FSDP2.

A quantized base is one run of bytes, of which each process keeps an equal share: one collective for each use. An
adapter's matrices are gathered when a method of its update reads them; their gradients are averaged over the processes
and scattered. Smaller parameters are left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from zoo.weights.codecs import StoredFloat
from zoo.weights.gathering import is_sharded, whole
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.offload import HOOK
from zoo.weights.quantized_tensor import Codec, QuantizedTensor
from zoo.weights.update import Update

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

SMALLEST = 1024  # values of a parameter that is worth a collective
_ALIGNED = 16  # bytes at which each tensor begins


@dataclass(frozen=True)
class Shards:
    """The codec of a base that is sharded; the one tensor is uint8 (bytes,), a DTensor.

    Attributes:
        codec: of the tensors that the bytes are.
        forms: dtype and shape of each of them, in order.
        names: their names.
        dense: whether they are a dense base, which was no quantized tensor.
    """

    codec: Codec
    forms: tuple[tuple[torch.dtype, torch.Size], ...]
    names: tuple[str, ...]
    dense: bool

    @property
    def scheme(self) -> str:
        """The scheme's name."""
        return self.codec.scheme

    @property
    def bits(self) -> int:
        """Stored bits per value."""
        return self.codec.bits

    def tensors(self, stored: Tensor) -> tuple[Tensor, ...]:
        """Return the whole tensors, gathered from all processes."""
        joined, start, found = whole(stored), 0, []
        for dtype, shape in self.forms:
            size = shape.numel() * dtype.itemsize
            found.append(joined[start : start + size].view(dtype).view(shape))
            start += -(-size // _ALIGNED) * _ALIGNED
        return tuple(found)

    def unpack(self, tensors: tuple[Tensor, ...], shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return the dense weight; see `Codec.unpack`."""
        return self.codec.unpack(self.tensors(tensors[0]), shape, dtype)

    def rows(self, tensors: tuple[Tensor, ...], index: Tensor, width: int, dtype: torch.dtype) -> Tensor | None:
        """Return rows `index` (n,) as (n, width), or None; see `Codec`."""
        own = getattr(self.codec, "rows", None)
        return None if own is None else own(self.tensors(tensors[0]), index, width, dtype)


class Sharded:
    """The hook of a module whose own parameters are to be gathered when they are used; see `zoo.weights.offload`."""

    offload = False

    def detach_hook(self, module: nn.Module) -> nn.Module:
        """Do nothing, as accelerate's hooks do when they are removed."""
        return module


def shard_base(managed: ManagedWeight, mesh: DeviceMesh) -> None:
    """Keep this process's part of a weight's base; what is merged into it stays whole."""
    packed, dense = managed.packed, managed._parameters["base"]
    if dense is not None:
        if dense.numel() * dense.element_size() < SMALLEST:
            return
        codec = StoredFloat(str(dense.dtype).removeprefix("torch."), 8 * dense.element_size())
        packed = QuantizedTensor(codec, dense.shape, dense.dtype, {"values": dense.detach()})
    if packed is None or isinstance(packed.codec, Shards):
        return
    tensors = packed.tensors()
    shards = Shards(packed.codec, tuple((t.dtype, t.shape) for t in tensors), packed.names, dense is not None)
    managed._parameters["base"] = None
    managed.packed = QuantizedTensor(shards, packed.shape, packed.dtype, {"bytes": _own_bytes(tensors, mesh)})
    managed.packed.error = packed.error


def gather_base(managed: ManagedWeight) -> None:
    """Undo `shard_base`, in all processes."""
    packed = managed.packed
    if packed is None or not isinstance(packed.codec, Shards):
        return
    shards: Shards = packed.codec
    found = [tensor.clone() for tensor in shards.tensors(packed.tensors()[0])]  # each in memory of its own
    if shards.dense:
        managed.packed = None
        managed._parameters["base"] = nn.Parameter(found[0].to(packed.dtype), requires_grad=False)
        return
    managed.packed = QuantizedTensor(
        shards.codec, packed.shape, packed.dtype, dict(zip(shards.names, found, strict=True))
    )
    managed.packed.error = packed.error


def _own_bytes(tensors: Sequence[Tensor], mesh: DeviceMesh) -> Tensor:
    """Return tensors as one DTensor uint8 (bytes,), of which each process has an equal share."""
    from torch.distributed.tensor import DTensor, Shard

    parts = [tensor.detach().contiguous().reshape(-1).view(torch.uint8) for tensor in tensors]
    sizes = [-(-part.numel() // _ALIGNED) * _ALIGNED for part in parts]
    share = -(-sum(sizes) // (mesh.size() * _ALIGNED)) * _ALIGNED
    own = torch.zeros(share, dtype=torch.uint8, device=parts[0].device)
    start, first = 0, share * mesh.get_local_rank()  # of a tensor, and of this process's share, among all bytes
    for part, size in zip(parts, sizes, strict=True):
        low, high = max(start, first), min(start + part.numel(), first + share)
        if low < high:
            own[low - first : high - first] = part[low - start : high - start]
        start += size
    return DTensor.from_local(own, mesh, [Shard(0)], run_check=False)


def shard_like(value: nn.Parameter | ManagedWeight, update: Update) -> None:
    """Shard a new update of a weight whose base is sharded, with the first process's values; of another do nothing."""
    packed = value.packed if isinstance(value, ManagedWeight) else None
    if packed is None or not isinstance(packed.codec, Shards) or update.changes_bias:
        return
    mesh: DeviceMesh = packed.tensors()[0].device_mesh  # type: ignore[attr-defined]
    for parameter in update.parameters():
        torch.distributed.broadcast(parameter.detach(), 0)
    shard_update(update, mesh)


def shard_updates(managed: ManagedWeight, mesh: DeviceMesh) -> dict[int, nn.Parameter]:
    """Do `shard_update` for a weight's active updates."""
    made: dict[int, nn.Parameter] = {}
    for update in _sharable(managed):
        made |= shard_update(update, mesh)
    return made


def shard_update(update: Update, mesh: DeviceMesh) -> dict[int, nn.Parameter]:
    """Keep this process's part of the larger parameters of an update.

    Returns:
        By the id of each parameter that has a new one in its place, the new one.
    """
    from torch.distributed.tensor import Shard, distribute_tensor

    made = {}
    for name, parameter in update._parameters.items():
        if parameter is None or is_sharded(parameter) or parameter.numel() < SMALLEST or parameter.ndim < 2:
            continue
        part = distribute_tensor(parameter.detach(), mesh, [Shard(0)], src_data_rank=None)
        made[id(parameter)] = nn.Parameter(part, requires_grad=parameter.requires_grad)
        update._parameters[name] = made[id(parameter)]
        update.__dict__.setdefault(HOOK, Sharded())
    return made


def gather_updates(managed: ManagedWeight) -> None:
    """Undo `shard_updates`, in all processes."""
    for update in _sharable(managed):
        for name, parameter in update._parameters.items():
            if parameter is not None and is_sharded(parameter):
                update._parameters[name] = nn.Parameter(whole(parameter), requires_grad=parameter.requires_grad)
        if isinstance(update.__dict__.get(HOOK), Sharded):
            del update.__dict__[HOOK]


def _sharable(managed: ManagedWeight) -> list[Update]:
    """Return the active updates, without those whose parameters another one reads, that of a bias."""
    return [update for name in managed.active if not (update := managed.updates[name]).changes_bias]  # type: ignore[misc]
