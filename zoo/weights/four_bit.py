"""nf4 and fp4: their codec, and quantization to them on the CPU with bitsandbytes' codes and scales, bit for bit.

Notation for shapes:
    N       values in the weight
    blocks  ⌈N / block_size⌉, each with a scale of its own
    n       rows to look up, or rows of x
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from zoo.weights.fused import cpu_product, cuda_product, keeps_copies
from zoo.weights.kernels import KERNEL_DTYPES, dynamic_map, kernels, require_finite
from zoo.weights.native import SHORT, Library, library_for, unpack_four_bit
from zoo.weights.products import Way, choose
from zoo.weights.quantized_tensor import Part
from zoo.weights.tiles import multiply, rows_of_tiles

PIECE = 1 << 16  # values quantized to 4 bit at once: a multiple of every block size, and small enough for the cache
SCALE_BLOCK = 256  # scales that share a second scale; fixed by bitsandbytes
LONGEST = 1024  # of a block on the CPU: bitsandbytes has no fast kernel for longer ones, repeated scales do the same


@dataclass(frozen=True)
class FourBit:
    """nf4 or fp4 in blocks.

    Tensors: packed uint8 (⌈N / 2⌉, 1), two codes per byte, and scales float32 (blocks,). With `double`: packed, scales
    uint8 (blocks,), scales2 float32 (⌈blocks / 256⌉,) and offset float32 (1,).
    """

    scheme: str
    block_size: int
    double: bool
    bits: int = 4

    def unpack(self, tensors: tuple[Tensor, ...], shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return the dense weight; see `Codec.unpack`."""
        library, packed, size = library_for(tensors), tensors[0], shape.numel()
        scales, block = self._kernel_scales(tensors, library)
        kernel_dtype = dtype if dtype in KERNEL_DTYPES else torch.float32
        values = packed.numel() * 2
        if library is None:
            # A flat, even length keeps the kernel on its fast path for any shape of the weight.
            dense = kernels().dequantize_4bit.default(packed, scales, block, self.scheme, (1, values), kernel_dtype)
            dense = dense.view(-1)
        else:
            sizes = shape if values == size else (values,)
            if kernel_dtype is torch.float32:
                dense = scales.new_empty(*sizes)  # twice as fast as with a torch.Size or a dtype
            else:
                dense = scales.new_empty(sizes, dtype=kernel_dtype)
            function = library.four_bit[self.scheme, kernel_dtype]
            if values <= SHORT:
                function(packed.data_ptr(), scales.data_ptr(), dense.data_ptr(), block, 1, values)
            else:
                addresses = packed.data_ptr(), scales.data_ptr(), dense.data_ptr()
                unpack_four_bit(function, *addresses, dense.itemsize, block, values)
        if dense.shape != shape:
            dense = (dense if values == size else dense[:size]).view(shape)
        return dense if kernel_dtype is dtype else dense.to(dtype)

    def product(
        self, tensors: tuple[Tensor, ...], shape: torch.Size, x: Tensor, flip: bool = False, bias: Tensor | None = None
    ) -> Tensor | None:
        """Return x @ W.T + bias, or with `flip` x @ W + bias, without the dense weight; see `Codec`."""
        y = self._fused(tensors, shape, x, flip, bias)
        if y is not None:
            return y
        step = rows_of_tiles(tensors, shape, x, self.block_size)
        library = library_for(tensors) if step else None
        if library is None:
            return None
        columns, (scales, block) = shape[1], self._kernel_scales(tensors, library)
        function, packed, scale = library.four_bit[self.scheme, torch.float32], tensors[0].data_ptr(), scales.data_ptr()

        def fill(tile: Tensor, start: int, stop: int) -> None:
            first, values = start * columns, (stop - start) * columns
            addresses = packed + first // 2, scale + first // block * 4, tile.data_ptr()
            unpack_four_bit(function, *addresses, 4, block, values)

        return multiply(fill, shape, step, x, flip, bias)

    def _fused(
        self, tensors: tuple[Tensor, ...], shape: torch.Size, x: Tensor, flip: bool, bias: Tensor | None
    ) -> Tensor | None:
        """Return the product by a fused kernel; None where none serves."""
        block, device = self.block_size, tensors[0].device
        inputs, (rows, columns) = x.shape[1], shape
        fits = columns % block == 0 and x.dtype in KERNEL_DTYPES and not (x.requires_grad and torch.is_grad_enabled())
        if device.type == "cuda":
            fused = fits and not flip and choose(device, x.dtype, x.shape[0], rows, columns, True) is Way.FUSED
            return cuda_product(tensors, self.scheme, block, shape, x, bias) if fused else None
        if not fits or inputs % 64 or choose(device, x.dtype, x.shape[0], rows, columns, True, flip) is not Way.FUSED:
            return None
        library = library_for(tensors)
        if library is None or self.scheme not in library.products or type(x) is not Tensor or not x.is_cpu:
            return None
        if not keeps_copies(tensors[0]):
            return None
        y = cpu_product(library, self.scheme, block, tensors, partial(self._scales, library=library), shape, x, flip)
        y = y if y.dtype is x.dtype else y.to(x.dtype)
        return y if bias is None else y.add_(bias)

    def scales(self, tensors: tuple[Tensor, ...]) -> Tensor:
        """Return the scales of the blocks, float32 (blocks,)."""
        return self._scales(tensors, library_for(tensors))

    def _scales(self, tensors: tuple[Tensor, ...], library: Library | None) -> Tensor:
        if not self.double:
            return tensors[1]
        _, scales8, scales2, offset = tensors
        if library is None:
            code = dynamic_map(scales8.device)
            scales: Tensor = kernels().dequantize_blockwise.default(scales8, scales2, code, SCALE_BLOCK, torch.float32)
            return scales + offset
        blocks = scales8.numel()
        scales = scales2.new_empty(blocks)
        library.dynamic8[torch.float32](
            library.map_address, scales8.data_ptr(), scales2.data_ptr(), scales.data_ptr(), SCALE_BLOCK, blocks
        )
        return scales.add_(offset)

    def _kernel_scales(self, tensors: tuple[Tensor, ...], library: Library | None) -> tuple[Tensor, int]:
        """Return scales and block size as the kernels take them."""
        scales, block = self._scales(tensors, library), self.block_size
        if block > LONGEST and scales.is_cpu:
            return scales.repeat_interleave(block // LONGEST), LONGEST
        return scales, block

    def rows(self, tensors: tuple[Tensor, ...], index: Tensor, width: int, dtype: torch.dtype) -> Tensor | None:
        """Return rows `index` (n,) of the weight seen as (rows, width), without dequantizing the others.

        Returns:
            (n, width); None if rows do not start at block boundaries.
        """
        if width % self.block_size:
            return None
        packed = tensors[0].view(-1, width // 2)[index].reshape(-1, 1)  # (n · width / 2, 1)
        blocks = width // self.block_size  # per row
        chosen = (index[:, None] * blocks + torch.arange(blocks, device=index.device)).view(-1)  # (n · blocks,)
        if self.double:
            _, scales8, scales2, offset = tensors
            scales = dynamic_map(packed.device)[scales8[chosen].int()] * scales2[chosen // SCALE_BLOCK] + offset
        else:
            scales = tensors[1][chosen]
        single = FourBit(self.scheme, self.block_size, False)
        return single.unpack((packed, scales), torch.Size((index.numel(), width)), dtype)

    def part(self, tensors: tuple[Tensor, ...], start: int, stop: int) -> Part:
        """Return the blocks that hold the values from `start` to `stop`; see `Codec`."""
        block, packed = self.block_size, tensors[0]
        first, last = start // block, -(-stop // block)  # blocks
        size = min(last * block, 2 * packed.numel()) - first * block
        packed = packed[first * block // 2 : (first * block + size + 1) // 2]
        codec = self
        if not self.double:
            tensors = (packed, tensors[1][first:last])
        elif first % SCALE_BLOCK == 0:
            group, end = first // SCALE_BLOCK, -(-last // SCALE_BLOCK)
            tensors = (packed, tensors[1][first:last], tensors[2][group:end], tensors[3])
        else:
            blocks = torch.arange(first, last, device=packed.device)
            scales = dynamic_map(packed.device)[tensors[1][first:last].int()] * tensors[2][blocks // SCALE_BLOCK]
            tensors, codec = (packed, scales + tensors[3]), FourBit(self.scheme, block, False)
        return Part(codec, tensors, start - first * block, size)


def quantize_four_bit(flat: Tensor, block: int, name: str) -> tuple[Tensor, Tensor]:
    """Compute bitsandbytes' `quantize_4bit` of a flat tensor on the CPU, bit for bit, about 20 times as fast.

    A value's code is the number of thresholds below it. Counting them one threshold after the other, on pieces that
    stay in the cache, beats a search per value; and numpy's comparisons, unlike torch's, write bytes at full speed.
    """
    import numpy as np

    limits, pairs = thresholds(name)  # type: ignore[misc]
    n, whole = flat.numel(), flat.numel() // block * block
    packed = torch.empty((n + 1) // 2, 1, dtype=torch.uint8)
    scales = torch.empty(-(-n // block), dtype=torch.float32)
    size = min(whole, PIECE)
    scaled, is_above = torch.empty(size), np.empty(size, dtype=np.bool_)
    counts = np.empty(size, dtype=np.uint8)
    for start in range(0, whole, PIECE):
        stop = min(start + PIECE, whole)
        part = flat[start:stop].float().view(-1, block)  # (blocks of the piece, block)
        largest = torch.amax(part.abs(), dim=1, out=scales[start // block : stop // block])  # (blocks of the piece,)
        require_finite(largest)
        target = scaled[: stop - start].view(-1, block)
        torch.mul(part, (1.0 / largest.clamp(min=1e-38)).unsqueeze(1), out=target)
        values, above, count = target.view(-1).numpy(), is_above[: stop - start], counts[: stop - start]
        count[:] = 0
        for threshold in limits:
            np.greater(values, threshold, out=above)
            np.add(count, above.view(np.uint8), out=count)
        # Two codes per byte, the first in the upper half.
        pair = count.view("<u2")
        joined = ((pair << 4) | (pair >> 8)).astype(np.uint8)
        packed[start // 2 : stop // 2, 0] = torch.from_numpy(joined if pairs is None else pairs.take(joined))
    if whole < n:  # bitsandbytes scales an incomplete last block in another way
        rest = flat[whole:].float()
        require_finite(rest)
        packed[whole // 2 :], scales[whole // block :] = kernels().quantize_4bit.default(rest, block, name, torch.uint8)
    return packed, scales


@functools.cache
def thresholds(name: str) -> tuple[Any, Any] | None:
    """Return the 15 ascending thresholds between a 4-bit type's values, and a map from a byte of ranks to one of codes.

    The map is None if ranks are codes (nf4). The result is None if bitsandbytes assigns another code to any
    threshold, or to one of the two values next to it.
    """
    import numpy as np

    ops = kernels()
    from bitsandbytes.functional import get_4bit_type

    code = get_4bit_type(name, device="cpu")
    order = torch.argsort(code)
    middle = (code[order[:-1]] + code[order[1:]]) / 2
    far = torch.full_like(middle, 2.0)
    probe = torch.cat([torch.ones(1), middle, torch.nextafter(middle, far), torch.nextafter(middle, -far)])
    probe = torch.nn.functional.pad(probe, (0, 64 - probe.numel()))
    expected, _ = ops.quantize_4bit.default(probe, 64, name, torch.uint8)
    ranks = (probe[:, None] > middle).sum(1)  # (64,)
    codes = order[ranks].to(torch.uint8)
    if not torch.equal(codes[::2] << 4 | codes[1::2], expected.view(-1)):
        return None
    identity = bool((order == torch.arange(16)).all())
    byte = np.arange(256)
    code_of = order.numpy().astype(np.uint8)  # (16,)
    return list(middle.numpy()), None if identity else code_of[byte >> 4] << 4 | code_of[byte & 15]
