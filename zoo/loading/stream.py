"""Fill a module from its checkpoint: one tensor at a time, each quantized before the next is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from zoo.catalog.entry import Entry
from zoo.errors import CheckpointError
from zoo.loading.values import check_buffer, check_finite, check_kind, check_packed, warn_of_double
from zoo.plugin.quantize import Plan, pack_weight
from zoo.storage.fingerprint import Fingerprint
from zoo.weights.carrier import carried
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.parameters import replace_parameter, set_parameter
from zoo.weights.readings import reading_together
from zoo.weights.sharded import shard_base
from zoo.weights.walk import ModuleIndex, TiedGroup

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def fill_meta(index: ModuleIndex, entry: Entry, chosen: Plan, dtype: torch.dtype) -> None:
    """Give every parameter its dtype and quantized form on `meta`, without values."""
    for group in index.groups:
        if isinstance(group.value, nn.Parameter):
            place(entry, group, group.value.detach(), chosen, dtype)


def stream(
    tensors: Iterable[tuple[str, Tensor]],
    index: ModuleIndex,
    entry: Entry,
    chosen: Plan,
    device: torch.device,
    dtype: torch.dtype,
    base: Fingerprint | None = None,
    mesh: DeviceMesh | None = None,
) -> Fingerprint:
    """Fill the module from its checkpoint, one tensor at a time, and return the checkpoint's fingerprint.

    Args:
        tensors: (name, tensor) of every weight, one after the other.
        index: the parameters, on `meta`, and the buffers of the module.
        entry: the model's entry.
        chosen: how to quantize each weight.
        device: where the tensors go.
        dtype: the compute dtype, in which weights that are not quantized are stored.
        base: the fingerprint, where it is known already.
        mesh: the processes of which each keeps a part of every quantized weight; None for whole weights.

    Raises:
        CheckpointError: tensors are missing, unexpected or of another shape; the message names them.
    """
    groups = {ref.name: group for group in index.groups for ref in group.refs}
    buffers = {name: ref for name, ref in index.buffers.items() if ref.persistent}
    missing = {group.name for group in index.groups} | set(buffers)
    fingerprint = Fingerprint()
    unexpected, double = [], False
    with nullcontext() if mesh is not None else reading_together(device):
        for name, tensor in tensors:
            if name in buffers:
                layer, attribute, _ = buffers[name]
                present = layer._buffers[attribute]
                _check_shape(entry, name, present.shape, tensor.shape)  # type: ignore[union-attr]
                check_buffer(entry, name, tensor, present.dtype)  # type: ignore[union-attr]
                # As module.to(dtype) does: running means have the dtype of the activations that they normalise.
                buffer_dtype = dtype if tensor.is_floating_point() else tensor.dtype
                layer._buffers[attribute] = tensor.to(device, buffer_dtype, copy=True)
                missing -= {other for other, where in buffers.items() if where == buffers[name]}
            elif name in groups:
                group = groups[name]
                first = group.name
                _check_shape(entry, name, group.value.shape, tensor.shape)
                if first not in missing:
                    if not fingerprint.agrees(first, tensor):
                        raise CheckpointError(
                            f"{entry.name!r}: {name} and {first} are one weight of the module, and the checkpoint "
                            "holds two that differ; its configuration is not the one that it was made with"
                        )
                    continue
                packed = carried(tensor)
                if packed is not None:
                    check_packed(entry, name, packed)
                elif tensor.is_meta:
                    raise CheckpointError(f"{entry.name!r}: {name} is joined from quantized parts, which zoo cannot do")
                else:
                    check_kind(entry, name, tensor, group.value.dtype)
                    double = double or tensor.dtype == torch.float64
                if base is None:
                    fingerprint.add(first, tensor if packed is None else packed())
                if packed is None:
                    one_byte = tensor.is_floating_point() and tensor.itemsize == 1  # of which quantizers know nothing
                    place(entry, group, tensor.to(device, torch.float32 if one_byte else None), chosen, dtype)
                else:
                    packed.dtype = dtype
                    replace_parameter(group, packed.to(device))
                missing.discard(first)
                if mesh is not None and isinstance(group.value, ManagedWeight):
                    shard_base(group.value, mesh)
            else:
                unexpected.append(name)
            del tensor
    if unexpected or missing:
        raise _misfit(entry, sorted(missing), unexpected)
    plain = [(group.name, group.value) for group in index.groups if isinstance(group.value, nn.Parameter)]
    left = [name for name, tensor in (*plain, *_current(index)) if tensor.is_meta]
    if left:
        raise CheckpointError(f"{entry.name!r}: {left[0]} was never filled; its plugin must make it real in construct")
    for layer, attribute, _ in index.buffers.values():
        layer._buffers[attribute] = layer._buffers[attribute].to(device)  # type: ignore[union-attr]
    if double and dtype != torch.float64:
        warn_of_double(entry, dtype)
    return fingerprint if base is None else base


def _current(index: ModuleIndex) -> Iterator[tuple[str, Tensor]]:
    """Yield every buffer as it is now."""
    for name, (layer, attribute, _) in index.buffers.items():
        buffer = layer._buffers[attribute]
        if buffer is not None:
            yield name, buffer


def place(entry: Entry, group: TiedGroup, weight: Tensor, chosen: Plan, dtype: torch.dtype) -> None:
    """Set one weight in the module: quantized in a managed weight, or as a plain parameter of type `dtype`."""
    packed = pack_weight(entry, group, weight, chosen, dtype) if group.name in chosen else None
    if packed is not None:
        check_packed(entry, group.name, packed)
        replace_parameter(group, packed)
        return
    given = weight
    if weight.is_floating_point() and weight.dtype != dtype:
        weight = weight.to(dtype)
    elif weight.device.type == "cpu":
        weight = weight.clone()  # not a view of the file, which may change or go
    if not weight.is_meta:
        check_finite(entry, group.name, given, weight)
    set_parameter(group, weight)


def _check_shape(entry: Entry, name: str, expected: torch.Size, got: torch.Size) -> None:
    if tuple(expected) != tuple(got):
        raise CheckpointError(
            f"{entry.name!r}: {name} has shape {tuple(got)} in the checkpoint, expected {tuple(expected)}; "
            "configuration and weights are not of the same model"
        )


def _misfit(entry: Entry, missing: list[str], unexpected: list[str]) -> CheckpointError:
    def some(names: list[str]) -> str:
        return f"{len(names)} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"

    parts = [f"lacks {some(missing)}"] if missing else []
    parts += [f"has unexpected {some(unexpected)}"] if unexpected else []
    return CheckpointError(
        f"{entry.name!r}: the checkpoint {' and '.join(parts)} of the module's weights; "
        "it is incomplete, or of another architecture or configuration"
    )
