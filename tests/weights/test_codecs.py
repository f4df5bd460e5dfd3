"""Quantized bytes, scales and dequantized values equal bitsandbytes'; errors; unsuitable weights; casts."""

from __future__ import annotations

import math
from collections.abc import Iterator

import bitsandbytes.functional as bnb
import pytest
import torch
from torch import Tensor

from zoo.errors import QuantizationError
from zoo.weights import codecs
from zoo.weights.codecs import pack
from zoo.weights.quantized_tensor import QuantizedTensor
from zoo.weights.scheme import BLOCK_SIZES, Quantization, as_quantization, unknown_scheme

SOURCES = [torch.float32, torch.bfloat16, torch.float16]
# Odd, shorter than a block, one more than blocks, several dimensions, longer than what is quantized at a time.
SHAPES = [(1,), (1, 2), (7, 9), (64,), (65,), (63, 65), (3, 4, 5, 5), (130, 127), (4096, 3), (1, 4097)]
ALL = [
    Quantization(bits, scheme, block, double)
    for bits, scheme, block, double in (
        (4, "nf4", 64, True),
        (4, "nf4", 4096, False),
        (4, "fp4", 256, True),
        (8, "int8", 64, True),
        (8, "dynamic8", 64, True),
        (16, "bf16", 64, True),
        (16, "fp16", 64, True),
        (32, "fp32", 64, True),
    )
]
ids = lambda one: f"{one.scheme}-{one.block_size}" if isinstance(one, Quantization) else str(one)  # noqa: E731


@pytest.fixture(autouse=True)
def uncompiled() -> Iterator[None]:
    """Skip bitsandbytes' compilation of its reference path for blocks of 2048 and more, which takes minutes."""
    with torch.compiler.set_stance("force_eager"):
        yield


def tensors(packed: QuantizedTensor) -> dict[str, Tensor]:
    return dict(zip(packed.names, packed.tensors(), strict=True))


def assert_equals_bitsandbytes(weight: Tensor, scheme: Quantization) -> None:
    found = pack(weight, scheme)
    expected, state = bnb.quantize_4bit(
        weight.contiguous(), blocksize=scheme.block_size, compress_statistics=scheme.double, quant_type=scheme.scheme
    )
    mine = tensors(found)
    assert torch.equal(mine["packed"].view(-1), expected.view(-1))
    assert torch.equal(mine["scales"], state.absmax)
    if scheme.double:
        assert mine["scales"].dtype == torch.uint8
        assert torch.equal(mine["scales2"], state.state2.absmax)
        assert torch.equal(mine["offset"].view(()), state.offset)
    unpacked = found()
    assert unpacked.shape == weight.shape
    assert unpacked.dtype == weight.dtype
    reference = bnb.dequantize_4bit(expected, state)
    # bitsandbytes' own shapes (a transposed single byte, flat tensors) do not matter.
    assert torch.equal(unpacked.view(-1), reference.reshape(-1)[: weight.numel()])


@pytest.mark.parametrize("source", SOURCES, ids=str)
@pytest.mark.parametrize("block", BLOCK_SIZES)
@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_four_bit_equals_bitsandbytes(name: str, block: int, source: torch.dtype) -> None:
    for double in (False, True):
        for shape in SHAPES:
            assert_equals_bitsandbytes(torch.randn(shape).to(source), Quantization(4, name, block, double))


@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_four_bit_equals_bitsandbytes_beyond_one_piece(name: str) -> None:
    # Weights are quantized piece by piece; a heavy tail and a change of scale from row to row.
    size = getattr(codecs, "PIECE", 1 << 18)
    for extra in (0, 1, 77, 4096 + 3):
        weight = torch.randn(2 * size + extra) ** 3 * torch.linspace(1e-3, 10, 2 * size + extra)
        assert_equals_bitsandbytes(weight, Quantization(4, name, 64))
    assert_equals_bitsandbytes(torch.randn(size + 5).bfloat16(), Quantization(4, name, 4096, double=False))


@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_values_on_the_thresholds_fall_as_in_bitsandbytes(name: str) -> None:
    code = bnb.get_4bit_type(name, device="cpu").sort().values
    middle = (code[1:] + code[:-1]) / 2
    far = torch.full_like(middle, 9.0)
    near = torch.cat([code, middle, torch.nextafter(middle, far), torch.nextafter(middle, -far), -middle, -code])
    for gain in (1.0, 3.0, 0.1, 1e-20, 1e20):
        top = torch.tensor([gain])
        weight = torch.cat([top, near[:63] * gain, near[-63:] * gain, -top])
        assert_equals_bitsandbytes(weight, Quantization(4, name, 64, double=False))


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_int8_equals_bitsandbytes(source: torch.dtype) -> None:
    for shape in ((5, 7), (64, 33), (300, 257)):
        weight = torch.randn(shape).to(source)
        found = tensors(pack(weight, Quantization(8)))
        values, scales, _ = bnb.int8_vectorwise_quant(weight.float())
        assert torch.equal(found["values"], values)
        assert torch.equal(found["scales"], scales)
        unpacked = pack(weight, Quantization(8), torch.float32)()
        torch.testing.assert_close(unpacked, bnb.int8_vectorwise_dequant(values, scales), rtol=1e-6, atol=0)
    # The first dimension that is longer than 1 makes the rows.
    assert tensors(pack(torch.randn(1, 6, 5, 3), Quantization(8)))["scales"].shape == (6,)


@pytest.mark.parametrize("source", SOURCES, ids=str)
@pytest.mark.parametrize("block", BLOCK_SIZES)
def test_dynamic8_equals_bitsandbytes(block: int, source: torch.dtype) -> None:
    for shape in SHAPES:
        weight = torch.randn(shape).to(source)
        packed = pack(weight, Quantization(8, "dynamic8", block))
        found = tensors(packed)
        values, state = bnb.quantize_blockwise(weight, blocksize=block)
        assert torch.equal(found["values"].view(-1), values.view(-1))
        assert torch.equal(found["scales"], state.absmax)
        assert torch.equal(packed(), bnb.dequantize_blockwise(values, state))


@pytest.mark.parametrize(
    ("scheme", "expected", "bits"),
    [
        (Quantization(4), 0.092, 4.127),
        (Quantization(4, double=False), 0.092, 4.5),
        (Quantization(4, block_size=256), 0.099, 4.032),
        (Quantization(4, "fp4"), 0.122, 4.127),
        (Quantization(8), 0.0079, 8.03),
        (Quantization(8, "dynamic8"), 0.0095, 8.5),
        (Quantization(8, "dynamic8", 4096), 0.013, 8.008),
    ],
    ids=ids,
)
def test_error_and_size_on_gaussian_weights(scheme: Quantization, expected: float, bits: float) -> None:
    weight = torch.randn(1024, 1024)
    packed = pack(weight, scheme)
    assert ((packed() - weight).norm() / weight.norm()).item() == pytest.approx(expected, rel=0.03)
    stored = sum(one.numel() * one.element_size() * 8 for one in packed.tensors()) / weight.numel()
    assert stored == pytest.approx(bits, rel=2e-3)


@pytest.mark.parametrize("scheme", ALL[:5], ids=ids)
def test_nan_and_inf_are_refused(scheme: Quantization) -> None:
    for source in SOURCES:
        for wrong in (math.nan, math.inf, -math.inf):
            for shape, where in (((9, 70), 0), ((9, 70), 629), ((3, 4096 * 3), 4096 * 9 - 1), ((1, 1), 0)):
                weight = torch.randn(shape).to(source)
                weight.view(-1)[where] = wrong
                with pytest.raises(QuantizationError, match="NaN or Inf"):
                    pack(weight, scheme)


def test_float64_beyond_float32_is_refused() -> None:
    for scheme in ALL[:7]:
        with pytest.raises(QuantizationError):
            pack(torch.tensor([[1.0, 1e200]], dtype=torch.float64), scheme)


def test_too_large_for_fp16_is_refused() -> None:
    weight = torch.tensor([[1.0, -1e5]])
    with pytest.raises(QuantizationError, match="bf16"):
        pack(weight, Quantization(16, "fp16"))
    assert torch.isfinite(pack(weight, Quantization(16))()).all()


@pytest.mark.parametrize("scheme", ALL, ids=ids)
def test_integers_are_refused(scheme: Quantization) -> None:
    for source in (torch.int64, torch.uint8, torch.bool, torch.complex64):
        with pytest.raises(QuantizationError, match="floating-point"):
            pack(torch.ones(3, 4, dtype=source), scheme)


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ({"bits": 3}, "4, 8, 16 or 32"),
        ({"bits": 5}, "quantizer plugin"),
        ({"bits": True}, "whole number"),
        ({"bits": 4.0}, "whole number"),
        ({"bits": "4"}, "whole number"),
        ({"bits": 8, "scheme": "nf4"}, "use 'int8' or 'dynamic8'"),
        ({"bits": 4, "scheme": "int8"}, "use 'nf4' or 'fp4'"),
        ({"bits": 3, "scheme": "nf4"}, "use bits=4"),
        ({"bits": 16, "scheme": "fp32"}, "use 'bf16' or 'fp16'"),
        ({"bits": 4, "scheme": ""}, "a name such as 'nf4'"),
        ({"bits": 4, "scheme": 4}, "a name such as 'nf4'"),
        ({"bits": 4, "block_size": 100}, "64, 128, 256, 512, 1024, 2048, 4096"),
        ({"bits": 4, "block_size": 32}, "64, 128"),
        ({"bits": 4, "block_size": 64.0}, "64, 128"),
        ({"bits": 8, "scheme": "dynamic8", "block_size": 0}, "64, 128"),
    ],
)
def test_impossible_quantizations(arguments: dict[str, object], advice: str) -> None:
    with pytest.raises(QuantizationError, match=advice):
        Quantization(**arguments)  # type: ignore[arg-type]


def test_what_bits_stand_for() -> None:
    assert [as_quantization(bits).scheme for bits in (4, 8, 16, 32)] == ["nf4", "int8", "bf16", "fp32"]  # type: ignore[union-attr]
    assert as_quantization(None) is None
    with pytest.raises(QuantizationError, match=r"Did you mean 'nf4'\?"):
        pack(torch.randn(3, 4), Quantization(4, "nf5"))
    assert "hqq" in str(unknown_scheme("other", ("hqq",)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("scheme", ALL, ids=ids)
def test_odd_weights(scheme: Quantization, dtype: torch.dtype) -> None:
    half_block = torch.cat([torch.zeros(64), torch.randn(64), torch.zeros(7)])
    weights = {
        "zeros": torch.zeros(5, 70),
        "zero blocks and rows": half_block.view(5, 27),
        "one value": torch.randn(1),
        "one value, more dimensions": torch.randn(1, 1, 1),
        "a scalar": torch.randn(()),
        "constant": torch.full((5, 70), -0.3),
        "tiny": torch.randn(5, 70) * 1e-30,
        "tinier": torch.randn(5, 70) * 1e-38,
        "not contiguous": torch.randn(70, 5).t(),
        "channels last": torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last),
        "expanded": torch.randn(5, 1).expand(5, 70),
    }
    for name, weight in weights.items():
        packed = pack(weight, scheme, dtype)
        unpacked = packed()
        assert unpacked.shape == weight.shape, name
        assert unpacked.dtype == dtype, name
        assert torch.isfinite(unpacked).all(), name
        assert all(one.is_contiguous() for one in packed.tensors()), name
        largest = weight.abs().max().item()
        smallest = 1e-30 if scheme.scheme != "fp16" and dtype != torch.float16 else 1e-7
        if largest > smallest:
            assert (unpacked.double() - weight).abs().max().item() < 0.2 * largest, name
        if not largest:
            assert not unpacked.any(), name


@pytest.mark.parametrize("scheme", ALL, ids=ids)
def test_no_values_at_all(scheme: Quantization) -> None:
    for shape in ((0,), (0, 5), (5, 0), (3, 0, 2)):
        packed = pack(torch.empty(shape), scheme)
        assert packed().shape == shape
        assert all(torch.isfinite(one.float()).all() for one in packed.tensors())


@pytest.mark.parametrize("scheme", ALL, ids=ids)
def test_big_values_in_fp16(scheme: Quantization) -> None:
    weight = (torch.randn(40, 300) * 15000).clamp(-60000, 60000).half()
    weight[0, 0], weight[3, 7] = 60000, -60000
    unpacked = pack(weight, scheme)()
    assert torch.isfinite(unpacked).all()
    assert (unpacked.float() - weight.float()).abs().max() < 0.25 * 60000


@pytest.mark.parametrize("scheme", ALL, ids=ids)
def test_casts_leave_what_is_stored(scheme: Quantization) -> None:
    weight = torch.randn(9, 6, 3, 3)
    packed = pack(weight, scheme)
    before = {name: one.detach().clone() for name, one in tensors(packed).items()}
    as_float = packed()
    for cast, dtype in (
        (lambda: packed.to(torch.bfloat16), torch.bfloat16),
        (packed.half, torch.float16),
        (packed.double, torch.float64),
        (lambda: packed.to(memory_format=torch.channels_last), torch.float64),
        (packed.float, torch.float32),
    ):
        cast()
        assert packed.dtype == dtype
        for name, one in tensors(packed).items():
            assert one.dtype == before[name].dtype
            assert torch.equal(one, before[name])
            assert one.is_contiguous()
            assert not one.requires_grad
        unpacked = packed()
        assert unpacked.dtype == dtype
        torch.testing.assert_close(
            unpacked.double(), as_float.double(), rtol=2 * torch.finfo(dtype).eps + 3e-7, atol=1e-7
        )
        # The same values are rounded once, without an intermediate dtype.
        if dtype in (torch.bfloat16, torch.float16):
            assert torch.equal(unpacked, as_float.to(dtype))


@pytest.mark.parametrize("scheme", ALL, ids=ids)
def test_very_small_values(scheme: Quantization) -> None:
    # Down to where float32 itself loses digits, the error stays relative to the largest value.
    for gain in (1e-30, 1e-35, 1e-36):
        weight = torch.randn(4, 64) * gain
        unpacked = pack(weight, scheme)()
        if scheme.scheme != "fp16":
            assert ((unpacked - weight).abs().max() / weight.abs().max()).item() < 0.25, gain


@pytest.mark.parametrize("scheme", ALL, ids=ids)
def test_what_comes_out_is_the_callers_own(scheme: Quantization) -> None:
    packed = pack(torch.randn(6, 64), scheme)
    first = packed()
    kept = first.clone()
    first.zero_()
    assert torch.equal(packed(), kept)
    weight = torch.randn(6, 64)
    packed = pack(weight, scheme)
    kept = packed()
    weight.zero_()
    assert torch.equal(packed(), kept)


@pytest.mark.parametrize("scheme", ALL, ids=ids)
def test_on_meta(scheme: Quantization) -> None:
    real = pack(torch.randn(9, 70), scheme)
    meta = pack(torch.empty(9, 70, device="meta"), scheme)
    for one, other in zip(real.tensors(), meta.tensors(), strict=True):
        assert other.is_meta
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
    assert meta().shape == (9, 70)
    assert meta().is_meta


@pytest.mark.parametrize("keep", ["lm_head", [""], [1]])
def test_what_to_keep_is_a_list_of_names(keep):
    with pytest.raises(QuantizationError, match="keep: expected suffixes"):
        Quantization(4, keep=keep)
    assert Quantization(4, keep=["lm_head"]) == Quantization(4, keep=("lm_head",))
