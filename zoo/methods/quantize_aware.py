"""Quantization-aware training as an adapter: the weight is quantized last, and its gradient passes straight through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.errors import AdapterError, QuantizationError
from zoo.methods.config import Adapter, Targets
from zoo.weights.lazy_weight import LazyWeight
from zoo.weights.quantized_tensor import QuantizedTensor
from zoo.weights.scheme import Quantization
from zoo.weights.update import Update


@dataclass(frozen=True)
class QuantizeAware(Adapter):
    """Weights that are quantized at every use, after all other active adapters (arXiv 1712.05877).

    It has nothing to train: beside it a LoRA, or `zoo.Full`, learns what is good once it is quantized, because the
    gradient passes the rounding as if it were not there. What they are merged into is stored in exactly the form that
    the forward pass has computed with.

    Attributes:
        bits: As in `zoo.Quantization`, like the next three. Any quantizer plugin's scheme does.
        scheme: The scheme.
        block_size: Values that share a scale.
        double: Whether the scales are quantized too.
        targets: As in `zoo.LoRA`; default every weight of two or more dimensions. Those that the model's entry keeps in
            full precision stay so.

    Raises:
        AdapterError: bits, scheme and block size do not go together.
    """

    bits: int = 4
    scheme: str | None = None
    block_size: int = 64
    double: bool = True
    targets: Targets = "all"

    kind: ClassVar[str] = "quantize_aware"

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            object.__setattr__(self, "scheme", self.quantization.scheme)
        except QuantizationError as error:
            raise AdapterError(str(error)) from error

    @property
    def quantization(self) -> Quantization:
        """The scheme of each weight."""
        return Quantization(self.bits, self.scheme, self.block_size, self.double, mixed=False)


class QuantizeAwareUpdate(Update):
    """A weight as it will be when it is stored.

    Attributes:
        bits: The width; float32 (1,), so that a file says which weights are quantized.
        pack: Quantizes a weight; it returns None for one that stays in full precision.
    """

    kind = "quantize_aware"
    frozen = ("bits",)
    last = 2
    pack: Callable[[Tensor], QuantizedTensor | None] | None = None

    def __init__(self, name: str, weight: LazyWeight, config: QuantizeAware) -> None:
        super().__init__()
        self.bits = nn.Parameter(torch.full((1,), float(config.bits), device=weight.device), requires_grad=False)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the dequantized weight, of which the gradient is that of the weight."""
        return weight if self.pack is None else _StraightThrough.apply(weight, self.pack)

    def stored(self, weight: Tensor) -> QuantizedTensor | None:
        """Return the quantized weight; see `Update.stored`."""
        return None if self.pack is None else self.pack(weight)


class _StraightThrough(torch.autograd.Function):
    """Quantizes and dequantizes; the gradient passes."""

    @staticmethod
    def forward(weight: Tensor, pack: Callable[[Tensor], QuantizedTensor | None]) -> Tensor:
        packed = pack(weight)
        return weight.clone() if packed is None else packed(weight.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep nothing."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
