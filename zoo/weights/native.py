"""bitsandbytes' CPU kernels, called at their addresses: they write into memory of the caller.

The operators of `torch.ops.bitsandbytes` do the same, but allocate what they return and take 8 µs each before they
begin, longer than a small weight's arithmetic. The operators serve wherever something else than plain memory is meant:
on other devices, under torch.compile, functorch, dispatch modes and tensor subclasses.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._C import _are_functorch_transforms_active as transforms_active
from torch._C import _get_tracing_state as tracing_state
from torch._C import _len_torch_dispatch_stack as dispatch_modes

from zoo.weights.kernels import dynamic_map, kernels

VERSIONS = ("0.50.",)  # of bitsandbytes, whose functions were checked; with any other the operators serve
SHORT = 4096  # values up to which the number of calls counts, not their kind
Function = Callable[..., None]

_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_longlong


class Library(NamedTuple):
    """The functions by the dtype that they write. Tensors are given by their addresses.

    Attributes:
        four_bit: By scheme and dtype: (packed, scales, out, block_size, m, n) for m runs of n values, which torch's
            threads share. Whole blocks make up n, if m is not 1.
        dynamic8: By dtype: (map, values, scales, out, block_size, n).
        products: By scheme: (n, rows, columns, x, codes, scales, y, block_size, stride of x, stride of y), all in bf16
            and in the order of `zoo.weights.fused`; empty without AVX-512-BF16.
        map: The values of the dynamic 8-bit type, on the CPU.
        map_address: Where they are.
    """

    four_bit: dict[tuple[str, torch.dtype], Function]
    dynamic8: dict[torch.dtype, Function]
    products: dict[str, Function]
    map: Tensor
    map_address: int


_library: Library | None = None
_looked = False  # not functools.cache, which torch.compile would trace


def library() -> Library | None:
    """Return the functions; None if bitsandbytes has another version or no library for this machine."""
    global _library, _looked
    if not _looked:
        _library, _looked = _load(), True
    return _library


def _load() -> Library | None:
    kernels()
    import bitsandbytes
    from bitsandbytes import cextension

    path = getattr(getattr(cextension.lib, "_lib", None), "_name", None)
    if path is None or not bitsandbytes.__version__.startswith(VERSIONS):
        return None
    own = ctypes.CDLL(path)  # a handle of our own, whose argument types are not bitsandbytes'

    def function(name: str, pointers: int, sizes: int, first: int = 0) -> Function:
        found = getattr(own, name)
        found.argtypes, found.restype = [_SIZE] * first + [_POINTER] * pointers + [_SIZE] * sizes, None
        return found

    try:
        four_bit = {
            (scheme, dtype): function(f"cdequantize_blockwise_cpu_{scheme}_{name}", 3, 3)
            for dtype, name in _NAMES.items()
            for scheme in ("nf4", "fp4")
        }
        dynamic8 = {dtype: function(f"cdequantize_blockwise_cpu_{name}", 4, 2) for dtype, name in _NAMES.items()}
        schemes = ("nf4", "fp4") if own.has_avx512bf16_cpu() else ()
        products = {scheme: function(f"gemv_4bit_inference_cpu_{scheme}_bf16", 4, 3, 3) for scheme in schemes}
    except AttributeError:
        return None
    values = dynamic_map(torch.device("cpu"))
    return Library(four_bit, dynamic8, products, values, values.data_ptr())


def in_memory(tensors: tuple[Tensor, ...]) -> bool:
    """Return whether tensors are contiguous values in the CPU's memory and nothing else, so that addresses do."""
    if torch.compiler.is_compiling() or dispatch_modes() or transforms_active() or tracing_state() is not None:
        return False
    for tensor in tensors:
        kind = type(tensor)
        if (kind is not nn.Parameter and kind is not Tensor) or not tensor.is_cpu or not tensor.is_contiguous():
            return False
    return True


def library_for(tensors: tuple[Tensor, ...]) -> Library | None:
    """Return the functions if there are any, and they can read these tensors."""
    if not in_memory(tensors):
        return None
    return _library if _looked else library()


def unpack_four_bit(
    function: Function, packed: int, scales: int, out: int, itemsize: int, block: int, values: int
) -> None:
    """Dequantize from addresses to an address; one value more than told if their number is odd.

    The kernel has a slow path for lengths that 32 does not divide. Of a long run only the last values take it.

    Args:
        function: Of the scheme and of the dtype to write, from `Library.four_bit`.
        packed: Where the codes are.
        scales: Where the scales are, float32.
        out: Where to write.
        itemsize: Bytes of a written value.
        block: Values that share a scale.
        values: The number of values.
    """
    if values <= SHORT:
        function(packed, scales, out, block, 1, values + (values & 1))
        return
    whole = values - values % block
    if whole:
        function(packed, scales, out, block, whole // block, block)
    if whole < values:
        rest = values - whole
        function(packed + whole // 2, scales + whole // block * 4, out + whole * itemsize, block, 1, rest + (rest & 1))
