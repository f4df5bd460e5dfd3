"""The quantizer `sketch`: `zoo.load(name, bits=zoo.Quantization(bits=3, scheme="sketch"))`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import zoo

if TYPE_CHECKING:
    from torch import Tensor


@zoo.hookimpl
def quantize(weight: Tensor, scheme: zoo.Quantization) -> zoo.QuantizedTensor:
    from .codec import pack

    return pack(weight, scheme)
