"""bitsandbytes' fused kernels: values against float64, copies that are never outdated, contracts on a GPU."""

from __future__ import annotations

import copy
import gc
import io
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

import zoo
from zoo.weights import fused, native
from zoo.weights.codecs import pack
from zoo.weights.lazy_weight import LazyWeight
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.products import Way, choose
from zoo.weights.quantized_tensor import QuantizedTensor
from zoo.weights.scheme import Quantization

ROUNDED = 6e-3  # relative: x, scales and the result have 8 bits of mantissa
library = native.library()
needs_kernel = pytest.mark.skipif(library is None or not library.products, reason="the CPU has no AVX-512-BF16")


@pytest.fixture
def allowed() -> Iterator[None]:
    zoo.allow_bf16_products()
    yield
    zoo.allow_bf16_products(False)


def off(y: Tensor, expected: Tensor) -> float:
    return ((y.double() - expected).norm() / expected.norm()).item()


def multiplied(packed: QuantizedTensor, x: Tensor, flip: bool = False) -> Tensor:
    weight = LazyWeight(ManagedWeight(packed))
    return x @ weight if flip else F.linear(x, weight)  # type: ignore[arg-type, operator, no-any-return]


@needs_kernel
@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize("scheme", ["nf4", "fp4"])
def test_values(scheme: str) -> None:
    for block, double in ((64, True), (64, False), (256, True), (4096, False)):
        # Rows that 32 does not divide are padded; a flipped weight needs inputs that 64 divides.
        for rows, columns in ((100, 4096), (128, 4096), (64, 8192)):
            packed = pack(torch.randn(rows, columns), Quantization(4, scheme, block, double))
            dense, bias = packed().double(), torch.randn(max(rows, columns))
            for n in (1, 3, 16):
                for flip in (False, True):
                    x = torch.randn(n, rows if flip else columns)
                    own = bias[: columns if flip else rows]
                    y = packed.codec.product(packed.tensors(), packed.shape, x, flip, own)  # type: ignore[attr-defined]
                    expected = x.double() @ (dense if flip else dense.t()) + own
                    assert y.dtype is torch.float32
                    assert y.is_contiguous()
                    assert off(y, expected) < ROUNDED
                    is_there = (id(packed.tensors()[0]), flip) in fused._copies
                    assert is_there == (not flip or rows % 64 == 0)


@needs_kernel
def test_the_order_is_bitsandbytes() -> None:
    import bitsandbytes.functional as bnb

    codes, state = bnb.quantize_4bit(torch.randn(96, 128), blocksize=64, quant_type="nf4")
    expected, _ = bnb._convert_weight_packed_for_cpu(codes.clone(), copy.deepcopy(state))
    assert torch.equal(fused.in_kernel_order(codes.view(96, 64)), expected)


@needs_kernel
def test_only_where_it_is_allowed() -> None:
    packed = pack(torch.randn(256, 512), Quantization(4))
    x, dense = torch.randn(2, 512), packed().double()
    assert off(multiplied(packed, x), x.double() @ dense.t()) < 1e-6
    assert not fused.copied_bytes(packed.tensors()[0])
    torch.set_float32_matmul_precision("medium")
    try:
        assert off(multiplied(packed, x), x.double() @ dense.t()) > 1e-4
    finally:
        torch.set_float32_matmul_precision("highest")
    half = pack(torch.randn(256, 512).bfloat16(), Quantization(4))
    y, exact = multiplied(half, x.bfloat16()), x.bfloat16().double() @ half(torch.float32).double().t()
    assert fused.copied_bytes(half.tensors()[0])  # a bf16 model needs no leave
    assert off(y, exact) < ROUNDED


@needs_kernel
@pytest.mark.usefixtures("allowed")
def test_gradients_with_an_adapter() -> None:
    model = zoo.wrap(nn.Sequential(nn.Linear(256, 512), nn.Tanh(), nn.Linear(512, 256)), bits=4, lora=zoo.LoRA(rank=4))
    for name, parameter in model.module.named_parameters():
        if name.endswith(".B"):
            nn.init.normal_(parameter, std=0.1)
    x = torch.randn(3, 256, requires_grad=True)
    y = model(x)
    wanted = [x, *(one for one in model.module.parameters() if one.requires_grad)]
    g = torch.randn_like(y)
    found = torch.autograd.grad(y, wanted, g)
    zoo.allow_bf16_products(False)
    exact = torch.autograd.grad(model(x), wanted, g)
    assert off(y, model(x).double()) < ROUNDED
    for one, other in zip(found, exact, strict=True):
        assert 0 < off(one, other.double()) < 3 * ROUNDED


@needs_kernel
@pytest.mark.usefixtures("allowed")
def test_a_changed_weight_has_no_outdated_copy() -> None:
    def check(packed: QuantizedTensor) -> None:
        for flip in (False, True):
            x = torch.randn(2, 256 if flip else 512)
            assert (
                off(multiplied(packed, x, flip), x.double() @ (packed().t() if not flip else packed()).double())
                < ROUNDED
            )

    packed = pack(torch.randn(256, 512), Quantization(4))
    other = pack(3 * torch.randn(256, 512), Quantization(4))
    check(packed)
    packed.load_state_dict(other.state_dict())
    check(packed)
    packed.load_state_dict(pack(torch.randn(256, 512), Quantization(4)).state_dict(), assign=True)
    check(packed)
    for mine, theirs in zip(packed.parameters(), other.parameters(), strict=True):
        mine.data = theirs.data.clone()
    check(packed)
    with torch.no_grad():
        packed.offset.add_(0.1)  # type: ignore[operator, union-attr]
    check(packed)
    twin = copy.deepcopy(packed)
    with torch.no_grad():
        twin.packed.bitwise_not_()  # type: ignore[operator, union-attr]
    check(twin)
    check(packed)
    before = set(packed.state_dict())
    stream = io.BytesIO()
    torch.save(packed, stream)
    assert stream.tell() < 1.5 * sum(one.nbytes for one in packed.tensors()) + 10_000
    check(torch.load(io.BytesIO(stream.getvalue()), weights_only=False))
    assert set(packed.state_dict()) == before


@needs_kernel
@pytest.mark.usefixtures("allowed")
def test_copies_are_counted_and_freed() -> None:
    model = zoo.wrap(nn.Sequential(nn.Linear(512, 256)), bits=4)
    before = model.footprint().bytes
    model(torch.randn(1, 512))
    size = 256 * 512
    assert model.footprint().bytes == before + size // 2 + 2 * size // 64
    model.module.to(torch.float32)
    assert model.footprint().bytes == before
    model(torch.randn(1, 512))
    gc.collect()
    kept = set(fused._copies)
    del model
    gc.collect()
    assert len(kept - set(fused._copies)) == 1


@needs_kernel
@pytest.mark.usefixtures("allowed")
def test_what_is_no_parameter_is_not_copied() -> None:
    packed = pack(torch.randn(256, 512), Quantization(4))
    gathered = tuple(one.detach() for one in packed.tensors())
    x, kept = torch.randn(1, 512), len(fused._copies)
    y = packed.codec._fused(gathered, packed.shape, x, False, None)  # type: ignore[attr-defined]
    assert y is None
    assert len(fused._copies) == kept


@pytest.mark.no_strict_device
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_gpu_gets_the_operator(double: bool, dtype: torch.dtype) -> None:
    made = pack(torch.randn(96, 128), Quantization(4, double=double))
    calls = []
    with FakeTensorMode() as mode:
        tensors = tuple(torch.empty(one.shape, dtype=one.dtype, device="cuda") for one in made.tensors())
        x, bias = torch.empty(5, 128, dtype=dtype, device="cuda"), torch.empty(96, dtype=dtype, device="cuda")

        class Seen(torch.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
                calls.append(str(func))
                return func(*args, **(kwargs or {}))

        with pytest.MonkeyPatch.context() as patch, Seen():
            patch.setattr(fused, "dynamic_map", lambda device: torch.empty(256, device=device))
            y = made.codec.product(tensors, made.shape, x, False, bias)  # type: ignore[attr-defined]
            flipped = made.codec.product(tensors, made.shape, x[:, :96], True, None)  # type: ignore[attr-defined]
    assert mode is not None
    assert "bitsandbytes.gemm_4bit.default" in calls  # whose fake checks types and shapes of all arguments
    assert (y.shape, y.dtype, y.device.type) == ((5, 96), dtype, "cuda")
    assert flipped is None


def test_gemm_of_the_operator_is_the_same_product() -> None:
    # The operator's own route on the CPU, with the arguments that a GPU gets.
    for double in (True, False):
        packed = pack(torch.randn(96, 128), Quantization(4, double=double))
        x, bias = torch.randn(3, 128), torch.randn(96)
        y = fused.cuda_product(packed.tensors(), "nf4", 64, packed.shape, x, bias)
        assert off(y, x.double() @ packed().double().t() + bias) < 1e-6


def test_the_way() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert choose(cuda, torch.bfloat16, 1, 64, 64, fused=True) is Way.FUSED
    assert choose(cpu, torch.bfloat16, 1, 768, 768, fused=True) is Way.FUSED
    assert choose(cpu, torch.float16, 1, 768, 768, fused=True) is Way.TILES  # bf16 has fewer digits
    assert choose(cpu, torch.float32, 1, 768, 768, fused=True) is Way.TILES
    assert choose(cpu, torch.bfloat16, 64, 768, 768, fused=True, flip=True) is Way.DENSE
    assert choose(cpu, torch.bfloat16, 1, 64, 64, fused=True) is Way.DENSE
