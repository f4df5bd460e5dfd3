"""Quantization schemes: the `zoo.Quantization` that users pass, and the schemes that are built in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from zoo.errors import QuantizationError, did_you_mean

BLOCK_SIZES = (64, 128, 256, 512, 1024, 2048, 4096)
DEFAULT_SCHEMES = {4: "nf4", 8: "int8", 16: "bf16", 32: "fp32"}
AUTO = "auto"  # begins a `bits=` that is an average
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
        overrides: Suffixes of weights with a quantization of their own, such as `(("lm_head", 8),)`; the first that
            fits counts. Each is a width or a `Quantization`.
        mixed: Whether the smallest weights of a model in nf4 or fp4 go to 8 bit, see `zoo.weights.mixed`; False
            stores every weight in the scheme, as bitsandbytes would.
        average: Stored bits per value that the whole model may have, everything counted. Each weight gets 4, 8 or 16
            bit within it, see `zoo.weights.spend`, and `mixed` does not count. None: no such budget.

    Raises:
        QuantizationError: bits, scheme and block size do not go together.
    """

    bits: int = 4
    scheme: str | None = None
    block_size: int = 64
    double: bool = True
    keep: tuple[str, ...] = ()
    overrides: tuple[tuple[str, Quantization], ...] = ()
    mixed: bool = True
    average: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "overrides", _overrides(self.overrides))
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
        if self.average is not None:
            self._check_average(self.average)

    def _check_average(self, average: Any) -> None:
        if self.scheme not in ("nf4", "fp4"):
            raise QuantizationError(
                f"average: weights go from 4 bit up, expected scheme 'nf4' or 'fp4', got {self.scheme!r}"
            )
        if isinstance(average, bool) or not isinstance(average, int | float) or not self.bits < average <= 32:
            raise QuantizationError(f"average: expected bits per value above 4, at most 32, got {average!r}")

    @property
    def builtin(self) -> bool:
        """Whether zoo itself implements the scheme, not a plugin."""
        return self.scheme in BUILTIN_SCHEMES

    @property
    def argument(self) -> int | str:
        """The shortest `bits=` for it, without what only a `Quantization` says: 4, or "auto:4.5"."""
        return self.bits if self.average is None else f"{AUTO}:{self.average:g}"


def _overrides(pairs: Iterable[Any]) -> tuple[tuple[str, Quantization], ...]:
    """Return pairs (suffix, quantization) from what a user or a file says."""
    found = []
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], str) or not pair[0]:
            raise QuantizationError(f"overrides: expected pairs such as ('lm_head', 8), got {pair!r}")
        name, value = pair
        if isinstance(value, Mapping):
            value = Quantization(**value)
        made = as_quantization(value)
        if made is None or made.overrides or made.keep or made.average is not None:
            raise QuantizationError(f"overrides: {name!r}: expected a width or a plain zoo.Quantization, got {value!r}")
        found.append((name, made))
    return tuple(found)


def as_quantization(
    bits: int | str | Quantization | Mapping[str, Any] | None, keep: Iterable[str] = ()
) -> Quantization | None:
    """Return the `Quantization` for a user's `bits=` and `keep=`; None stays None.

    Args:
        bits: A width, an average to spend such as `"auto:4.5"`, a `Quantization`, or a mapping of suffixes to a width
            or a `Quantization`; `"all"` in it stands for all other weights, which are in 4 bit without it.
        keep: Suffixes of weights that stay in full precision, beside those of the quantization.

    Raises:
        QuantizationError: they do not go together.
    """
    if isinstance(bits, Mapping):
        rest = as_quantization(bits.get("all", 4))
        if rest is None:
            raise QuantizationError("bits: 'all' is None, expected a width such as 4; keep= names weights that stay")
        own = [(name, value) for name, value in bits.items() if name != "all"]
        scheme: Quantization | None = replace(rest, overrides=(*own, *rest.overrides))
    elif isinstance(bits, str):
        scheme = _average(bits)
    else:
        scheme = bits if bits is None or isinstance(bits, Quantization) else Quantization(bits=bits)
    names = (keep,) if isinstance(keep, str) else tuple(keep)
    if not names:
        return scheme
    if scheme is None:
        raise QuantizationError(f"keep={list(names)}: nothing is quantized without bits, expected bits=4 or another")
    return replace(scheme, keep=(*scheme.keep, *names))


def _average(text: str) -> Quantization:
    """Return the quantization for `"auto:4.5"`."""
    name, _, number = text.partition(":")
    try:
        average = float(number)
    except ValueError:
        average = 0.0
    if name != AUTO or not 4 < average <= 32:
        raise QuantizationError(
            f"bits={text!r}: expected 4, 8, 16, 32, or an average above 4 and at most 32 such as '{AUTO}:4.5'"
        )
    return Quantization(bits=4, average=average)


def unknown_scheme(scheme: str | None, plugins: tuple[str, ...] = ()) -> QuantizationError:
    """Return the error for a scheme that neither zoo nor any installed plugin implements."""
    known = (*BUILTIN_SCHEMES, *plugins)
    return QuantizationError(
        f"no quantizer for scheme {scheme!r}: expected one of {', '.join(known)}.{did_you_mean(str(scheme), known)}"
    )
