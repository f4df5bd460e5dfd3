"""Half-quadratic quantization for zoo: `zoo.load(name, bits=zoo.Quantization(bits=3, scheme="hqq"))`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import zoo

if TYPE_CHECKING:
    from torch import Tensor


@zoo.hookimpl
def quantize(weight: Tensor, scheme: zoo.Quantization) -> zoo.QuantizedTensor:
    """Any weight in 2, 3, 4 or 8 bit. Asked only where `scheme.scheme` is this plugin's name."""
    from zoo_hqq.codec import pack

    return pack(weight, scheme.bits, scheme.block_size, scheme.double)
