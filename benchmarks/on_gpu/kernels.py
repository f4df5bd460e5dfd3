"""How long a product with a packed weight takes, by its ways and sizes: what the thresholds should be set by."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from on_gpu.clock import in_turns, release
from on_gpu.kernels_right import four_bit
from on_gpu.parts import Row, Setup
from on_gpu.record import failed
from zoo.weights.codecs import pack
from zoo.weights.quantized_tensor import QuantizedTensor
from zoo.weights.scheme import Quantization
from zoo.weights.triton.paths import enabled, torch_only

SHAPES = ((4096, 4096), (14336, 4096), (4096, 14336), (1024, 1024), (32000, 4096))
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
TURN = 256 << 20  # bytes of weights that take turns: more than a card's cache


def rows(setup: Setup) -> Iterator[Row]:
    """Yield the times of each way, for each size of the weight and number of rows; then those of the other kernels."""
    device = torch.device(setup.device, 0 if setup.device == "cuda" else None)
    for shape in ((64, 128),) if setup.quick else SHAPES:
        size = shape[0] * shape[1]
        copies = 2 if setup.quick else min(32, max(2, TURN // (size // 2)))
        first = pack(torch.randn(shape, device=device, dtype=torch.bfloat16), Quantization(bits=4)).to(device)
        weights = [first] + [
            QuantizedTensor(first.codec, first.shape, first.dtype, {n: t.clone() for n, t in first.named_parameters()})
            for _ in range(copies - 1)
        ]
        dense = [one(torch.bfloat16) for one in weights[: max(2, copies // 4)]]
        for m in (1, 3) if setup.quick else ROWS:
            row = {"weight": f"{shape[0]} × {shape[1]}", "rows": m}
            try:
                times = _times(setup, weights, dense, torch.randn(m, shape[1], device=device, dtype=torch.bfloat16))
            except Exception as trouble:
                yield failed(row, trouble)
                continue
            best = min(value for name, value in times.items() if name != "dense")
            micro = {name: value * 1e6 for name, value in times.items()}
            yield {**row, **micro, "GB/s": size / 2 * (1 + 1 / 32) / best / 1e9}
        del weights, dense
        release(setup.device)
    yield from _others(setup, device)


def _times(setup: Setup, weights: list[QuantizedTensor], dense: list[Tensor], x: Tensor) -> dict[str, float]:
    device, shape = x.device, weights[0].shape
    turn, other = itertools.cycle(weights), itertools.cycle(dense)
    calls: dict[str, Callable[[], object]] = {"dense": lambda: x @ next(other).t()}
    arguments = {id(one): four_bit(one, device) for one in weights}

    def unpacked() -> Tensor:
        with torch_only():
            return x @ next(turn)(torch.bfloat16).t()

    calls["unpack, torch"] = unpacked
    if enabled(device):
        ops = torch.ops.zoo
        nothing = (None, None, None, 1.0)
        calls["fused"] = lambda: ops.four_bit_product(x, *arguments[id(next(turn))], *nothing, *shape, 64, False)
        calls["unpack, triton"] = lambda: (
            x @ ops.unpack_four_bit(*arguments[id(next(turn))], list(shape), 64, torch.bfloat16, False).t()
        )
    if (gemv := _library(weights, x)) is not None:
        calls["bitsandbytes"] = gemv
    for call in calls.values():
        call()
    repeats = 1 if setup.quick else 20
    return in_turns(calls, 2 if setup.quick else 7, setup.device, repeats)


def _library(weights: list[QuantizedTensor], x: Tensor) -> Callable[[], object] | None:
    """Return bitsandbytes' own product, scales dequantized as its layers do; None where it has none."""
    if x.device.type != "cuda":
        return None
    import bitsandbytes.functional as bnb

    from zoo.weights.kernels import dynamic_map

    code = dynamic_map(x.device)
    states = []
    for one in weights:
        packed, scales, scales2, offset = one.tensors()
        second = bnb.QuantState(absmax=scales2, blocksize=256, code=code, dtype=torch.float32)
        state = bnb.QuantState(
            absmax=scales, shape=one.shape, dtype=x.dtype, blocksize=64, quant_type="nf4", state2=second,
            offset=offset.squeeze(), code=bnb.get_4bit_type("nf4", device=x.device),
        )  # fmt: skip
        states.append((packed.data, state))
    turn = itertools.cycle(states)
    import bitsandbytes

    def call() -> Tensor:
        packed, state = next(turn)
        return bitsandbytes.matmul_4bit(x, packed.t(), quant_state=state)

    return call


def _others(setup: Setup, device: torch.device) -> Iterator[Row]:
    """Yield LoRA's two products, and unpacking a convolution's weight, by the kernels and by torch."""
    if not enabled(device):
        return
    kind = {"device": device, "dtype": torch.bfloat16}
    for m in (3,) if setup.quick else (1, 16, 256, 2048, 8192):
        width = 64 if setup.quick else 4096
        x, y = torch.randn(m, width, **kind), torch.randn(m, width, **kind)
        down, up = torch.randn(width, 16, **kind), torch.randn(16, width, **kind)
        calls: dict[str, Callable[[], object]] = {
            "fused": lambda: torch.ops.zoo.add_low_rank(y, x, down, up, 0.01),  # noqa: B023 - called at once
            "torch": lambda: y.addmm_(x @ down, up, alpha=0.01),  # noqa: B023
        }
        for call in calls.values():
            call()
        times = in_turns(calls, 2 if setup.quick else 9, setup.device, 1 if setup.quick else 20)
        yield {"weight": f"LoRA {width}, rank 16", "rows": m} | {name: value * 1e6 for name, value in times.items()}
    shape = (8, 4, 3, 3) if setup.quick else (512, 512, 3, 3)
    weight = pack(torch.randn(shape, device=device), Quantization(bits=4)).to(device)
    arguments = four_bit(weight, device)

    def by_torch() -> Tensor:
        with torch_only():
            return weight(torch.bfloat16).contiguous(memory_format=torch.channels_last)

    calls = {
        "fused": lambda: torch.ops.zoo.unpack_four_bit(*arguments, list(shape), 64, torch.bfloat16, True),
        "torch": by_torch,
    }
    for call in calls.values():
        call()
    times = in_turns(calls, 2 if setup.quick else 9, setup.device, 1 if setup.quick else 20)
    yield {"weight": "channels last " + " × ".join(map(str, shape))} | {n: value * 1e6 for n, value in times.items()}
