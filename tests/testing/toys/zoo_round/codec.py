from dataclasses import dataclass

import torch

import zoo


@dataclass(frozen=True)
class Round:
    """Whole numbers from 0 to 2^bits - 1, several to a byte where they fit. Tensors: values, scales."""

    bits: int
    scheme: str = "round"

    @property
    def places(self):
        return 2 if self.bits <= 4 else 1

    def unpack(self, tensors, shape, dtype):
        values, scales = tensors
        if self.places == 2:
            values = torch.stack([values & 15, values >> 4], dim=1).view(-1)[: shape.numel()]
        middle = 2 ** (self.bits - 1)
        numbers = (values.float() - middle).view(scales.numel(), -1)
        return (numbers * scales[:, None]).view(shape).to(dtype)


def pack(weight, bits):
    if bits not in (3, 4, 8):
        raise zoo.QuantizationError(f"round stores 3, 4 or 8 bits, got bits={bits}")
    if not bool(torch.isfinite(weight).all()):
        raise zoo.QuantizationError("the weight holds NaN or Inf")
    codec = Round(bits)
    rows = next((size for size in weight.shape if size > 1), 1)
    matrix = weight.detach().float().reshape(rows, -1)
    middle = 2 ** (bits - 1)
    scales = matrix.abs().amax(1) / (middle - 1)
    numbers = (matrix / scales.clamp(min=1e-30)[:, None]).round().clamp(1 - middle, middle - 1)
    values = (numbers + middle).to(torch.uint8).view(-1)
    if codec.places == 2:
        values = torch.nn.functional.pad(values, (0, values.numel() % 2)).view(-1, 2)
        values = values[:, 0] | (values[:, 1] << 4)
    return zoo.QuantizedTensor(codec, weight.shape, weight.dtype, {"values": values, "scales": scales})
