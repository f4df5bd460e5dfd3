"""Quantization schemes: the `zoo.Quantization` that users pass, and the schemes that are built in."""

from __future__ import annotations

from dataclasses import dataclass

from zoo.errors import QuantizationError, did_you_mean

BLOCK_SIZES = (64, 128, 256, 512, 1024, 2048, 4096)
DEFAULT_SCHEMES = {4: "nf4", 8: "int8", 16: "bf16", 32: "fp32"}
BUILTIN_SCHEMES = {"nf4": 4, "fp4": 4, "int8": 8, "dynamic8": 8, "bf16": 16, "fp16": 16, "fp32": 32}


@dataclass(frozen=True)
class Quantization:
    """How to store every managed weight.

    Attributes:
        bits: Stored bits per value, scales not counted.
        scheme: `nf4` (QLoRA, arXiv 2305.14314) or `fp4`: 4 bit in blocks; `int8`: 8 bit with one scale per row;
            `dynamic8`: 8 bit in blocks (arXiv 1511.04561); `bf16`, `fp16`, `fp32`: floats; or the name of a
            quantizer plugin. None selects the default of `bits`: nf4, int8, bf16 or fp32.
        block_size: Values that share a scale (nf4, fp4, dynamic8): 64, 128, … 4096.
        double: Whether the scales of nf4 and fp4 are quantized too, to 8 bit in blocks of 256.
        keep: Suffixes of weights that stay in full precision, such as `("embed_tokens", "lm_head")`.

    Raises:
        QuantizationError: bits, scheme and block size do not go together.
    """

    bits: int = 4
    scheme: str | None = None
    block_size: int = 64
    double: bool = True
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.keep, str) or not all(isinstance(name, str) and name for name in self.keep):
            raise QuantizationError(f"keep: expected suffixes such as ['embed_tokens'], got {self.keep!r}")
        object.__setattr__(self, "keep", tuple(self.keep))
        if isinstance(self.bits, bool) or not isinstance(self.bits, int):
            raise QuantizationError(f"bits: expected a whole number such as 4, got {self.bits!r}")
        if self.scheme is None:
            if self.bits not in DEFAULT_SCHEMES:
                raise QuantizationError(
                    f"bits={self.bits}: expected 4, 8, 16 or 32 (another width needs a quantizer plugin's scheme, "
                    f"for example zoo.Quantization(bits={self.bits}, scheme='hqq'))"
                )
            object.__setattr__(self, "scheme", DEFAULT_SCHEMES[self.bits])
        if not isinstance(self.scheme, str) or not self.scheme:
            raise QuantizationError(f"scheme: expected a name such as 'nf4', got {self.scheme!r}")
        width = BUILTIN_SCHEMES.get(self.scheme)
        if width is not None and width != self.bits:
            fitting = " or ".join(repr(name) for name, bits in BUILTIN_SCHEMES.items() if bits == self.bits)
            raise QuantizationError(
                f"scheme {self.scheme!r} stores {width} bits, got bits={self.bits}: "
                + (f"use {fitting}" if fitting else f"use bits={width}")
            )
        if width is not None and not (isinstance(self.block_size, int) and self.block_size in BLOCK_SIZES):
            raise QuantizationError(f"block_size={self.block_size}: expected one of {', '.join(map(str, BLOCK_SIZES))}")

    @property
    def builtin(self) -> bool:
        """Whether zoo itself implements the scheme, not a plugin."""
        return self.scheme in BUILTIN_SCHEMES


def as_quantization(bits: int | Quantization | None) -> Quantization | None:
    """Return the `Quantization` for a user's `bits=`; None stays None."""
    if bits is None or isinstance(bits, Quantization):
        return bits
    return Quantization(bits=bits)


def unknown_scheme(scheme: str | None, plugins: tuple[str, ...] = ()) -> QuantizationError:
    """Return the error for a scheme that neither zoo nor any installed plugin implements."""
    known = (*BUILTIN_SCHEMES, *plugins)
    return QuantizationError(
        f"no quantizer for scheme {scheme!r}: expected one of {', '.join(known)}.{did_you_mean(str(scheme), known)}"
    )
