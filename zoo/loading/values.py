"""Look at a checkpoint's tensor before it takes its place: whether its numbers are of the right kind, and finite.

A weight that is NaN makes every output NaN, and one of integers or complex numbers is no weight of the architecture:
both are told at once, and not by what is drawn later.
"""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor

from zoo.catalog.entry import Entry
from zoo.errors import CheckpointError
from zoo.weights.quantized_tensor import QuantizedTensor
from zoo.weights.readings import later, waits, wide

_SUMMABLE = (torch.float32, torch.float64)
_PART = 1 << 22  # values that are looked at together where a copy of them is needed


def check_kind(entry: Entry, name: str, tensor: Tensor, expected: torch.dtype) -> None:
    """Raise `CheckpointError` unless `tensor` has numbers of the kind that a weight or buffer of `expected` has."""
    got = tensor.dtype
    if got.is_complex != expected.is_complex or (expected.is_floating_point and not got.is_floating_point):
        wanted = str(expected).removeprefix("torch.")
        raise CheckpointError(
            f"{entry.name!r}: {name} is of type {str(got).removeprefix('torch.')} in the checkpoint, expected {wanted} "
            "or another float type; it is of another model, or quantized in a way that zoo does not know"
            if expected.is_floating_point
            else f"{entry.name!r}: {name} is complex in the checkpoint, expected {wanted}; it is of another model"
        )


def check_finite(entry: Entry, name: str, given: Tensor, placed: Tensor) -> None:
    """Raise `CheckpointError` if a weight has NaN or Inf. Infinities as a mask are a buffer's (`check_buffer`).

    Args:
        entry: the model's entry.
        name: the weight's name.
        given: the checkpoint's tensor.
        placed: its copy, perhaps of another type. It is the one that is looked at, being near in the caches.
    """
    if waits() and placed.device.type != "cpu":
        _check_finite_later(entry, name, given, placed)
        return
    if is_finite(placed):
        return
    if not is_finite(given):
        raise _not_finite(entry, name, given)
    raise _too_large(entry, name, given.abs().max().item(), placed.dtype)


def _check_finite_later(entry: Entry, name: str, given: Tensor, placed: Tensor) -> None:
    """Do the same for a weight on a device, together with other weights: NaN and Inf show in the extremes."""
    if not placed.numel() or not placed.is_floating_point():
        return

    def known(ends: list[float]) -> None:
        if all(map(math.isfinite, ends[:2])):
            return
        if not all(map(math.isfinite, ends[-2:])):
            raise _not_finite(entry, name, placed)
        raise _too_large(entry, name, max(map(abs, ends[-2:])), placed.dtype)

    each = [placed] if given is placed else [placed, given]
    later(torch.cat([_ends(tensor).to(wide(placed.device)) for tensor in each]), known)


def _ends(tensor: Tensor) -> Tensor:
    ends = torch.stack(torch.aminmax(tensor.float() if tensor.itemsize == 1 else tensor))
    return ends if ends.dtype == torch.float64 else ends.float()


def check_buffer(entry: Entry, name: str, tensor: Tensor, expected: torch.dtype) -> None:
    """Raise `CheckpointError` unless `tensor` can be a buffer of type `expected`: its kind of numbers, not NaN."""
    check_kind(entry, name, tensor, expected)
    if not is_finite(tensor) and bool(tensor.float().isnan().any()):
        raise _not_finite(entry, name, tensor)


def check_packed(entry: Entry, name: str, packed: QuantizedTensor) -> None:
    """Raise `CheckpointError` unless the scales and the like of a quantized weight are finite."""
    for part, tensor in zip(packed.names, packed.tensors(), strict=True):
        if tensor is None or tensor.is_meta or not tensor.is_floating_point():
            continue
        check_finite(entry, f"{name} ({part})", tensor, tensor)


def warn_of_double(entry: Entry, dtype: torch.dtype) -> None:
    """Say that a checkpoint's float64 is not kept."""
    logging.getLogger("zoo").warning(
        f"{entry.name!r}: the checkpoint's weights are float64, and are cast to {str(dtype).removeprefix('torch.')}: "
        "dtype='float64' keeps them"
    )


def is_finite(tensor: Tensor) -> bool:
    """Return whether no value is NaN or infinite; at a memory's pace where all are finite."""
    if not tensor.numel() or not tensor.is_floating_point():
        return True
    if tensor.dtype in (torch.float16, torch.bfloat16):
        return all(bool(torch.isfinite(end)) for end in torch.aminmax(tensor))
    if tensor.dtype in _SUMMABLE and bool(torch.isfinite(tensor.sum())):
        return True  # else the sum may just be too large
    return all(bool(torch.isfinite(part.float() if part.itemsize == 1 else part).all()) for part in _parts(tensor))


def _parts(tensor: Tensor) -> tuple[Tensor, ...]:
    return tensor.reshape(-1).split(_PART)


def _too_large(entry: Entry, name: str, largest: float, dtype: torch.dtype) -> CheckpointError:
    return CheckpointError(
        f"{entry.name!r}: {name} has values up to {largest:.3g}, which {dtype} does not hold: "
        "give another dtype, such as dtype='float32'"
    )


def _not_finite(entry: Entry, name: str, tensor: Tensor) -> CheckpointError:
    """Return the error for a weight with values that are no numbers."""
    bad = sum(int((~torch.isfinite(part.float() if part.itemsize == 1 else part)).sum()) for part in _parts(tensor))
    return CheckpointError(
        f"{entry.name!r}: {name} holds NaN or Inf in {bad:,} of its {tensor.numel():,} values; get the checkpoint "
        "again, or save it again from a run that did not diverge"
    )
