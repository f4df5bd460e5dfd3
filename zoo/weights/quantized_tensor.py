"""A quantized weight: plain tensors in a module, and the codec that turns them back into a dense weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn


class Codec(Protocol):
    """How packed tensors become a dense weight again. A frozen dataclass: hashable, comparable, without tensors."""

    @property
    def scheme(self) -> str:
        """The scheme's name, as in `zoo.Quantization(scheme=...)`."""

    @property
    def bits(self) -> int:
        """Stored bits per value, scales not counted."""

    def unpack(self, tensors: tuple[Tensor, ...], shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """The dense weight of `shape` and `dtype`: a fresh tensor, which the caller may write to."""


class QuantizedTensor(nn.Module):
    """What a store holds instead of a full-precision weight.

    The tensors are parameters that never train, so that `.to(device)`, DistributedDataParallel, FSDP2, deepcopy,
    pickle and `state_dict` treat them as they treat any weight. `.to(dtype)` and `.half()` leave them as they
    are (scales stay exact) and change only the type of the weight that comes out.

    codec: unpacks; see `Codec`.
    shape, dtype: of the weight as its layer sees it.
    tensors: name → tensor, in the order in which the codec expects them; a scalar is stored with shape (1,).
    """

    def __init__(self, codec: Codec, shape: torch.Size, dtype: torch.dtype, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.codec = codec
        self.shape = torch.Size(shape)
        self.dtype = dtype
        self.names = tuple(tensors)
        for name, tensor in tensors.items():
            self.register_parameter(name, nn.Parameter(tensor, requires_grad=False))

    def tensors(self) -> tuple[Tensor, ...]:
        """The stored tensors, in the codec's order, as they are now (FSDP2 and `functional_call` replace them)."""
        held = self._parameters
        return tuple([held[name] for name in self.names])  # type: ignore[misc]

    def forward(self, dtype: torch.dtype | None = None) -> Tensor:
        """The dense weight: a fresh tensor of `shape`, in `dtype` or the logical type."""
        return self.codec.unpack(self.tensors(), self.shape, dtype or self.dtype)

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        probe = fn(torch.empty(0, dtype=self.dtype, device=self.tensors()[0].device))

        def keep_type(tensor: Tensor) -> Tensor:
            # A cast must not touch scales; only the device (or the memory) may change, and not the order in memory
            # (channels_last), which codecs go by.
            flat = tensor.reshape(-1) if tensor.dim() > 2 else tensor
            if tensor.is_floating_point():
                flat = fn(flat.view(torch.uint8)).view(tensor.dtype)
            else:
                flat = fn(flat)
            return flat.view(tensor.shape)

        super()._apply(keep_type, recurse)
        self.dtype = probe.dtype
        return self

    def extra_repr(self) -> str:
        return f"{tuple(self.shape)}, {self.codec.scheme}, {self.dtype}"
