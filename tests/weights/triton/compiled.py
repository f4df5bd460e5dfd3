"""Run by `test_triton.py` in a process without TRITON_INTERPRET: every kernel becomes machine code for an H100."""

from __future__ import annotations

from typing import Any

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from zoo.weights.triton import eight_bit, four_bit, low_rank, unpacking

SIZES = ("M", "rows", "columns", "rank", "size", "inner", "kernel", "outputs", "inputs", "part")
STRIDES = ("up_rank_stride", "up_stride", "input_stride", "output_stride", "down_stride", "down_rank_stride")
TYPES = dict.fromkeys((*SIZES, *STRIDES), "i32") | {"scale": "fp32", "low_rank_scale": "fp32"}
TYPES |= {"packed": "*u8", "scales": "*u8", "values": "*i8"} | dict.fromkeys(
    ("scales2", "offset", "table", "levels"), "*fp32"
)
FOUR = {"block": 64, "DOUBLE": True, "ALIGNED": True}
ALL = {"BIAS": True, "LOW_RANK": True, "BLOCK_RANK": 16}
DOT = {"BLOCK_M": 16, "BLOCK_N": 32, "BLOCK_K": 32, "UPCAST": False, "PRECISION": "ieee", "BLOCK_RANK": 16}
KERNELS: list[tuple[Any, dict[str, object]]] = [
    (four_bit.row_product, FOUR | ALL | {"BLOCK_ROWS": 8, "GROUPS": 16, "HALF": 32}),
    (four_bit.tile_product, FOUR | ALL | DOT),
    (four_bit.flipped_tile_product, FOUR | ALL | DOT | {"ALIGNED": False}),
    (unpacking.unpack_pairs, {"block": 64, "DOUBLE": True, "BLOCK": 1024}),
    (unpacking.unpack_channels_last, {"block": 64, "DOUBLE": True, "BLOCK": 1024}),
    (unpacking.unpack_rows, {"CHANNELS_LAST": True, "BLOCK": 1024}),
    (eight_bit.row_product, ALL | {"BLOCK_ROWS": 8, "BLOCK_K": 512}),
    (eight_bit.tile_product, ALL | DOT | {"FLIP": True}),
    (low_rank.add_low_rank, DOT),
]


@pytest.mark.parametrize(("kernel", "constants"), KERNELS)
def test_compiles(kernel: Any, constants: dict[str, object]) -> None:
    names = kernel.arg_names
    types = TYPES | ({} if "packed" in names else {"scales": "*fp32"})
    signature = {name: "constexpr" if name in constants else types.get(name, "*bf16") for name in names}
    source = ASTSource(
        fn=kernel, signature=signature, constexprs={(names.index(name),): value for name, value in constants.items()}
    )
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4, "num_stages": 3})
    assert len(made.asm["cubin"]) > 1000
