"""A quantized weight: plain tensors in a module, and the codec that dequantizes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from zoo.weights.fused import forget
from zoo.weights.offload import HOOK, fetch


class Codec(Protocol):
    """Dequantizes stored tensors into a dense weight. A frozen dataclass: hashable, comparable, without tensors.

    A codec may have three more methods. Without them the whole weight is dequantized where less would do:

    - `product(tensors, shape, x, flip, bias)`: x @ W.T + bias, or with `flip` x @ W + bias, for a weight W of two
      dimensions and x (n, in), as a fresh tensor (n, out) of x's dtype; or None where multiplying by the dense weight
      is as fast. bias (out,) has x's dtype, or is None.
    - `rows(tensors, index, width, dtype)`: the rows `index` (n,) of a weight (rows, width), dense (n, width), or None.
    - `part(tensors, start, stop)`: a `Part` with the values from `start` to `stop` in the order of memory, or None.
    """

    @property
    def scheme(self) -> str:
        """The scheme's name, as in `zoo.Quantization(scheme=...)`."""

    @property
    def bits(self) -> int:
        """Stored bits per value, scales not counted."""

    def unpack(self, tensors: tuple[Tensor, ...], shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return the dense weight of `shape` and `dtype`.

        The result is a fresh tensor, which the caller may write to.
        """


class Part(NamedTuple):
    """Some values of a quantized weight, and perhaps others around them, because tensors hold whole blocks.

    Attributes:
        codec: Dequantizes the tensors.
        tensors: The tensors, views where possible.
        first: Where among the tensors' values the ones that count begin.
        size: The number of values that the tensors hold.
    """

    codec: Codec
    tensors: tuple[Tensor, ...]
    first: int
    size: int


class QuantizedTensor(nn.Module):
    """The quantized form of one weight, in place of a full-precision parameter.

    The tensors are parameters that never train, so that `.to(device)`, DistributedDataParallel, FSDP2, deepcopy,
    pickle and `state_dict` treat them as they treat any weight. `.to(dtype)` and `.half()` leave them unchanged
    (scales stay exact) and set only the dtype of the dequantized weight.

    Attributes:
        codec: Dequantizes the tensors; see `Codec`.
        shape: The weight's shape as its layer sees it.
        dtype: The weight's dtype as its layer sees it.
        names: The tensors' names, in the order that the codec expects. A scalar is stored with shape (1,).
        error: ‖stored − weight‖ / ‖weight‖, measured when it was quantized to fewer than 16 bits; None where it is not
            known.
    """

    error: float | None = None

    def __init__(self, codec: Codec, shape: torch.Size, dtype: torch.dtype, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.codec = codec
        self.shape = torch.Size(shape)
        self.dtype = dtype
        self.names = tuple(tensors)
        for name, tensor in tensors.items():
            self.register_parameter(name, nn.Parameter(tensor, requires_grad=False))

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the stored tensors in the codec's order.

        They are looked up at every call, because FSDP2 and `functional_call` replace them.
        """
        parameters = self._parameters
        found = tuple([parameters[name] for name in self.names])
        if HOOK in self.__dict__ and found[0].is_meta:  # type: ignore[union-attr]
            return tuple([fetch(self, name, parameters[name]) for name in self.names])  # type: ignore[arg-type]
        return found  # type: ignore[return-value]

    def become(self, other: QuantizedTensor) -> None:
        """Store what `other` does, the same weight by another codec, in its place."""
        self.codec, self.names, self.error = other.codec, other.names, other.error
        self._parameters = other._parameters

    def forward(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return the dense weight: a fresh tensor of `shape`, in `dtype` or the weight's own dtype."""
        return self.codec.unpack(self.tensors(), self.shape, dtype or self.dtype)

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        probe = fn(torch.empty(0, dtype=self.dtype, device=self.tensors()[0].device))

        def keep_dtype(tensor: Tensor) -> Tensor:
            # A cast must not touch scales. Only the device (or the memory) may change, not the memory format
            # (channels_last), because codecs read the values in their order in memory.
            flat = tensor.reshape(-1) if tensor.dim() > 2 else tensor
            if tensor.is_floating_point():
                flat = fn(flat.view(torch.uint8)).view(tensor.dtype)
            else:
                flat = fn(flat)
            return flat.view(tensor.shape)

        for tensor in self._parameters.values():
            forget(tensor)  # type: ignore[arg-type]
        super()._apply(keep_dtype, recurse)
        self.dtype = probe.dtype
        return self

    def extra_repr(self) -> str:
        """Return shape, scheme and dtype for the module's repr."""
        return f"{tuple(self.shape)}, {self.codec.scheme}, {self.dtype}"
