"""Dequantize a part of a weight along its first dimension, such as one matrix of a stack."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.weights.quantized_tensor import Codec, Part, QuantizedTensor

# Dequantizing takes about 15 µs and .12 ns a value on a CPU core, as much for a matrix of 128 × 128 as its product with
# 64 rows. Entries of small matrices are therefore dequantized together, and the last few runs of them are kept, of 1
# MiB each in float32: a loop over 32 such experts takes 1.15 times the plain one, and 2.8 times without.
RUN = 1 << 18  # values dequantized at once
KEPT = 8  # runs


class _Run(NamedTuple):
    """Dequantized entries, and what they were made from: another tensor, or a changed one, makes them outdated."""

    source: weakref.ref[Tensor]
    versions: tuple[int, ...]
    values: Tensor


_recent: dict[tuple[Any, ...], _Run] = {}
_lock = threading.Lock()  # for changes of the dict


@dataclass(frozen=True)
class PartOf:
    """Entries `start` to `stop` of the first dimension of a weight, whose tensors are stored whole.

    Attributes:
        codec: Dequantizes the whole weight.
        whole: The whole weight's shape.
        start: The first entry.
        stop: The entry after the last one.
    """

    codec: Codec
    whole: torch.Size
    start: int
    stop: int

    @property
    def scheme(self) -> str:
        """The scheme's name."""
        return self.codec.scheme

    @property
    def bits(self) -> int:
        """Stored bits per value."""
        return self.codec.bits

    def unpack(self, tensors: tuple[Tensor, ...], shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return the dense part; see `Codec.unpack`."""
        size = self.whole[1:].numel()
        together = RUN // size if size else 0
        if self.stop - self.start > 1 or together < 2 or not _may_keep(tensors[0]):
            return self._entries(tensors, self.start, self.stop, dtype).view(shape)
        first = self.start - self.start % together
        run = self._run(tensors, first, min(first + together, self.whole[0]), dtype)
        entry = self.start - first
        chosen = run[entry] if len(shape) < len(self.whole) else run[entry : entry + 1]
        return chosen.clone()  # the caller may write to it

    def _entries(self, tensors: tuple[Tensor, ...], start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """Return entries of the first dimension, dense: (stop - start, …)."""
        rest = self.whole[1:]
        size = rest.numel()
        part: Part | None = self.codec.part(tensors, start * size, stop * size)  # type: ignore[attr-defined]
        if part is None:
            return self.codec.unpack(tensors, self.whole, dtype)[start:stop].clone()
        flat = part.codec.unpack(part.tensors, torch.Size((part.size,)), dtype)
        return flat[part.first : part.first + (stop - start) * size].view(stop - start, *rest)

    def _run(self, tensors: tuple[Tensor, ...], first: int, last: int, dtype: torch.dtype) -> Tensor:
        values = _kept(tensors, first, dtype)
        if values is not None:
            return values
        values, key = self._entries(tensors, first, last, dtype), (id(tensors[0]), first, dtype)
        with _lock:
            _recent.pop(key, None)
            while len(_recent) >= KEPT:
                del _recent[next(iter(_recent))]
            _recent[key] = _Run(weakref.ref(tensors[0]), _versions(tensors), values)
        return values


def _versions(tensors: tuple[Tensor, ...]) -> tuple[int, ...]:
    return tuple([tensor._version for tensor in tensors])


def _kept(tensors: tuple[Tensor, ...], first: int, dtype: torch.dtype) -> Tensor | None:
    """Return the kept run of these tensors that begins with entry `first`; None if there is none, or it is outdated."""
    run = _recent.get((id(tensors[0]), first, dtype))
    current = run is not None and run.source() is tensors[0] and run.versions == _versions(tensors)
    return run.values if current else None  # type: ignore[union-attr]


def kept_entry(packed: QuantizedTensor, entry: int) -> Tensor | None:
    """Return one entry of a quantized weight's first dimension, dense, or None; the short way where it is small.

    What `PartOf` does, without the objects around it, which cost as much as a small product.
    """
    tensors, whole = packed.tensors(), packed.shape
    together = RUN // whole[1:].numel() if whole.numel() else 0
    if together < 2 or not _may_keep(tensors[0]):
        return None
    first = entry - entry % together
    values = _kept(tensors, first, packed.dtype)
    return None if values is None else values[entry - first].clone()  # the caller may write to it


def _may_keep(source: Tensor) -> bool:
    """Return whether dequantized values of a tensor can be kept for later calls.

    Not on a GPU, where a captured graph would go on reading memory that is no longer kept; not while a mode records or
    fakes what is computed; and not in inference mode, whose tensors autograd refuses later.
    """
    ordinary = source.device.type == "cpu" and not torch._C._len_torch_dispatch_stack()
    return ordinary and not torch.is_inference_mode_enabled() and not source.is_inference()
