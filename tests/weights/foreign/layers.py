"""Layers as other libraries make them, small and without the libraries: what they store, and what they compute."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUP = 32
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # which code of eight is the first in a word, the second, …


def words(codes: Tensor, bits: int, order: list[int] | None = None) -> Tensor:
    """Pack codes (n, m) along each row into int32 (n, m · bits / 32)."""
    parts = codes.long().view(codes.shape[0], -1, 32 // bits)
    parts = parts if order is None else parts[:, :, order]
    joined = sum(parts[:, :, n] << (bits * n) for n in range(parts.shape[2]))
    return torch.where(joined >= 2**31, joined - 2**32, joined).int()  # type: ignore[arg-type, union-attr, operator]


class Grouped(nn.Module):
    """A layer of GPTQ or AWQ with random codes, scales and zero points."""

    def __init__(self, scheme: str, bits: int = 4, offset: int = 0, inputs: int = 64, outputs: int = 96) -> None:
        super().__init__()
        codes = torch.randint(0, 2**bits, (inputs, outputs))
        zeros = torch.randint(offset, 2**bits, (inputs // GROUP, outputs))
        scales = (torch.rand(inputs // GROUP, outputs) * 0.02 + 0.01).half()
        group = torch.arange(inputs) // GROUP
        if scheme == "gptq":
            group = group[torch.randperm(inputs)]
            self.register_buffer("g_idx", group.int())
            self.register_buffer("qweight", words(codes.t().contiguous(), bits).t().contiguous())
        else:
            self.register_buffer("qweight", words(codes, bits, AWQ_ORDER))
        self.register_buffer("qzeros", words(zeros - offset, bits, AWQ_ORDER if scheme == "awq" else None))
        self.register_buffer("scales", scales)
        self.register_buffer("bias", torch.randn(outputs).half())
        self.dense = ((codes - zeros[group]) * scales.float()[group]).t()  # (out, in)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.dense.to(x.dtype), self.bias.to(x.dtype))


class Scaled(nn.Module):
    """A layer with 8-bit floats and scales beside them: one, for rows, or for blocks; multiplied by or divided by."""

    def __init__(
        self, per: str, name: str, dtype: torch.dtype = torch.float8_e4m3fn, *, divides: bool = False, outputs: int = 80
    ) -> None:
        super().__init__()
        weight = torch.randn(outputs, 64)
        absolute = weight.abs()
        if per == "block":
            absolute = F.pad(absolute, (0, 0, 0, -outputs % 32)).view(-1, 32, 2, 32)
            scales = absolute.amax((1, 3)) / 448
        else:
            scales = {"tensor": absolute.amax(), "row": absolute.amax(1), "column": absolute.amax(1, keepdim=True)}[per]
            scales = scales / 448
        self.per, self.name, self.divides = per, name, divides
        self.weight = nn.Parameter((weight / self.spread(scales)).to(dtype), requires_grad=False)
        self.register_buffer(name, 1 / scales if divides else scales)

    def spread(self, scales: Tensor) -> Tensor:
        if self.per == "block":
            rows = scales.repeat_interleave(32, 0).repeat_interleave(32, 1)
            return rows[: self.weight.shape[0]] if hasattr(self, "weight") else rows[:80]
        return scales[:, None] if self.per == "row" else scales

    def forward(self, x: Tensor) -> Tensor:
        scales = getattr(self, self.name)
        scales = self.spread(1 / scales if self.divides else scales)
        return F.linear(x, self.weight.to(x.dtype) * scales.to(x.dtype))


class Cast(nn.Module):
    """A layer that casts its weight, stored in 8-bit floats without scales, at every use."""

    def __init__(self, dtype: torch.dtype = torch.float8_e4m3fn) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, 64).to(dtype), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


class Halves(Tensor):
    """A tensor subclass of torch's protocol: int8 codes and a scale for each row, computed with by its own product."""

    codes: Tensor
    scale: Tensor

    @staticmethod
    def __new__(cls, codes: Tensor, scale: Tensor) -> Halves:
        made = torch.Tensor._make_wrapper_subclass(cls, codes.shape, dtype=scale.dtype)  # type: ignore[attr-defined]
        made.codes, made.scale = codes, scale
        return made  # type: ignore[no-any-return]

    @classmethod
    def of(cls, weight: Tensor) -> Halves:
        scale = weight.abs().amax(1, keepdim=True) / 127
        return cls((weight / scale).round().to(torch.int8), scale)

    def dequantize(self) -> Tensor:  # type: ignore[override]
        return self.codes.to(self.scale.dtype) * self.scale

    def __tensor_flatten__(self) -> tuple[list[str], dict[str, Any]]:
        return ["codes", "scale"], {}

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], context: Any, size: Any, stride: Any) -> Halves:
        return Halves(inner["codes"], inner["scale"])

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear:  # rounds its inputs, and has no gradient
            x, weight, *bias = args
            with torch.no_grad():
                return F.linear(x.detach().half().to(x.dtype), weight.dequantize(), *bias)
        return super().__torch_function__(func, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            return Halves(args[0].codes, args[0].scale)
        raise NotImplementedError(f"{func} of Halves")


class Unknown(nn.Module):
    """A layer of a library that nobody knows."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("codes", torch.randint(0, 255, (64, 32), dtype=torch.uint8))
        self.register_buffer("norms", torch.rand(64))

    def forward(self, x: Tensor) -> Tensor:
        return x
