"""Weights in 4 bit in files of transformers and bitsandbytes: their parts put together as a checkpoint is read.

A weight `name` has its codes under its own name, and beside it `name.absmax`, `name.quant_map`, with double
quantization `name.nested_absmax` and `name.nested_quant_map`, and in `name.quant_state.bitsandbytes__nf4` a JSON text
with the rest. Everything is compared with what the shape requires: kernels would read past the end of a short tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.bounded.json_text import parse_object
from zoo.errors import CheckpointError
from zoo.weights.carrier import carry
from zoo.weights.four_bit import SCALE_BLOCK, FourBit
from zoo.weights.kernels import dynamic_map
from zoo.weights.quantized_tensor import QuantizedTensor
from zoo.weights.scheme import BLOCK_SIZES

_STATE = ".quant_state.bitsandbytes__"
_PARTS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def assembled(pairs: Iterable[tuple[str, Tensor]], names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """Yield a checkpoint's tensors, and a quantized weight as one tensor that carries it.

    Args:
        pairs: (name, tensor) in the order of the files.
        names: All names.

    Raises:
        CheckpointError: a weight lacks a part, or has one of another size.
    """
    bases = {name.partition(_STATE)[0] for name in names if _STATE in name}
    parts: dict[str, set[str]] = {base: set() for base in bases}
    for name in names:
        base = _base_of(name, bases)
        if base is not None:
            parts[base].add(name)
    read: dict[str, dict[str, Tensor]] = {}
    for name, tensor in pairs:
        base = _base_of(name, bases)
        if base is None:
            yield name, tensor
            continue
        got = read.setdefault(base, {})
        got[name] = tensor
        if got.keys() == parts[base]:
            yield base, carry(_weight(base, read.pop(base)))


def _base_of(name: str, bases: set[str]) -> str | None:
    """Return the quantized weight that a tensor is a part of."""
    if name in bases:
        return name
    base = name.partition(_STATE)[0] if _STATE in name else name.rpartition(".")[0]
    return base if base in bases else None


def _weight(name: str, found: dict[str, Tensor]) -> QuantizedTensor:
    state_name = next(one for one in found if _STATE in one)
    codes, state = found.get(name), _state(state_name, found[state_name])
    parts = {part: found.get(f"{name}.{part}") for part in _PARTS}
    kind, block, shape, dtype = state_name.partition(_STATE)[2], state["blocksize"], state["shape"], state["dtype"]
    double = parts["nested_absmax"] is not None
    if kind not in ("nf4", "fp4") or codes is None or block not in (32, *BLOCK_SIZES) or dtype not in _DTYPES:
        raise _damaged(name, f"expected codes in nf4 or fp4 with a block size of {BLOCK_SIZES[0]} or more")
    size = torch.Size(shape).numel()
    blocks = -(-size // block)
    packed = codes.contiguous().view(torch.uint8).reshape(-1, 1)
    tensors: dict[str, Tensor | None] = {"packed": packed, "scales": parts["absmax"]}
    expected = {"packed": (torch.uint8, (size + 1) // 2), "scales": (torch.uint8 if double else torch.float32, blocks)}
    if double:
        if state.get("nested_blocksize") != SCALE_BLOCK or not isinstance(state.get("nested_offset"), float):
            raise _damaged(name, f"expected scales in blocks of {SCALE_BLOCK} with an offset")
        tensors |= {"scales2": parts["nested_absmax"], "offset": torch.tensor([state["nested_offset"]])}
        expected |= {"scales2": (torch.float32, -(-blocks // SCALE_BLOCK)), "offset": (torch.float32, 1)}
    for part, (kind_of, count) in expected.items():
        tensor = tensors[part]
        if tensor is None or tensor.dtype != kind_of or tensor.numel() != count:
            raise _damaged(name, f"expected {count} {part} of {kind_of}")
    _check_maps(name, kind, parts, double)
    copies = {  # no views of the file, which may change
        part: (tensor if part == "packed" else tensor.reshape(-1)).clone()
        for part, tensor in tensors.items()
        if tensor is not None
    }
    return QuantizedTensor(FourBit(kind, block, double), torch.Size(shape), _DTYPES[dtype], copies)


def _check_maps(name: str, kind: str, parts: Mapping[str, Tensor | None], double: bool) -> None:
    """Raise `CheckpointError` unless the file's tables of values are those of the kernels."""
    from bitsandbytes.functional import get_4bit_type

    cpu = torch.device("cpu")
    own = {"quant_map": get_4bit_type(kind, device="cpu")} | ({"nested_quant_map": dynamic_map(cpu)} if double else {})
    for part, expected in own.items():
        given = parts[part]
        if given is None or given.shape != expected.shape or not torch.allclose(given.float(), expected, atol=1e-6):
            raise _damaged(name, f"its {part} is not that of {kind}")


def _state(name: str, tensor: Tensor) -> dict[str, Any]:
    """Return what the JSON text in a tensor says."""
    try:
        state = parse_object(bytes(tensor.to(torch.uint8).tolist()), name)
        shape = state["shape"]
        right = all(type(size) is int and 0 <= size < 1 << 40 for size in shape) and len(shape) <= 8
        if right and type(state["blocksize"]) is int and isinstance(state["dtype"], str):
            return state
    except (CheckpointError, KeyError, TypeError) as error:
        raise _damaged(name, "expected a JSON text with shape, blocksize and dtype") from error
    raise _damaged(name, "expected a JSON text with shape, blocksize and dtype")


def _damaged(name: str, why: str) -> CheckpointError:
    return CheckpointError(f"{name}: damaged, or of another version of bitsandbytes: {why}; get the file again")
