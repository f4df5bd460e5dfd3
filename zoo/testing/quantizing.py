"""Checks of a quantizer: how it stores a weight, and models whose weights it stores."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Iterator

import torch
from torch import Tensor

import zoo
from zoo.catalog.entry import Entry
from zoo.errors import QuantizationError
from zoo.plugin.manager import caller
from zoo.testing import example_modules
from zoo.testing.compare import perturb, random_state_untouched, same
from zoo.testing.failures import CheckFailed, require
from zoo.testing.promise import promise
from zoo.testing.subject import PluginUnderTest
from zoo.weights.footprint import stored_bytes
from zoo.weights.quantized_tensor import QuantizedTensor
from zoo.weights.scheme import Quantization
from zoo.weights.walk import managed_weights

WIDTHS = (8, 4, 3, 2)
SHAPES = {"2-D": (64, 32), "4-D": (16, 4, 3, 3), "an embedding's": (50, 32), "1×k": (1, 64), "odd": (7, 5)}
LARGE = (128, 128)
WORST = 4.0  # times 2^-bits: the relative error of a Gaussian weight that is too much; nf4's is 1.5
OVERHEAD = 2.0  # bits per value that scales may add


@promise(
    "quantize",
    f"zoo.QuantizedTensor for a weight of {LARGE} in some width, and zoo.QuantizationError for a width that it lacks",
    "return zoo.QuantizedTensor(codec, weight.shape, weight.dtype, {name: tensor}) if the scheme is yours",
    basic=True,
)
def packs(subject: PluginUnderTest) -> None:
    require(widths(subject), f"none of bits={subject.options.bits or WIDTHS} is taken")


@promise(
    "quantize",
    "the weight's own shape, type and device again, in any type that it computes in, as a fresh tensor",
    "in the codec's unpack, return a new tensor of the shape and dtype that it is given",
)
def unpacks_to_the_same_shape(subject: PluginUnderTest) -> None:
    for bits in widths(subject):
        for what, shape in SHAPES.items():
            for dtype in (torch.float32, torch.bfloat16):
                weight = example_modules.gaussian(*shape).to(dtype)
                packed = pack(subject, weight, bits)
                if isinstance(packed, Tensor):
                    require(torch.equal(packed, weight), f"another weight where it keeps a {what} one as it is")
                    continue
                require(tuple(packed.shape) == shape, f"shape {tuple(packed.shape)} for a {what} weight of {shape}")
                for wanted in (dtype, torch.float32, torch.float16):
                    got = packed(wanted)
                    require(tuple(got.shape) == shape, f"unpacked shape {tuple(got.shape)} for {shape}")
                    require(got.dtype == wanted, f"unpacked {got.dtype} for {wanted}")
                    require(got.device == weight.device, f"unpacked on {got.device} for {weight.device}")
                first = packed(torch.float32)
                kept = first.clone()
                first.add_(1)
                require(
                    torch.equal(packed(torch.float32), kept), "what unpack returned is still the store's own memory"
                )


@promise(
    "quantize",
    f"a relative error of weights below {WORST:g} · 2^-bits, smaller with more bits",
    "check the scales, the rounding, and the order in which values are packed",
)
def error_is_bounded(subject: PluginUnderTest) -> None:
    weight = example_modules.gaussian(*LARGE)
    errors = {}
    for bits in widths(subject):
        packed = large(subject, bits)
        errors[bits] = float((packed(torch.float32) - weight).norm() / weight.norm())
        bound = min(0.9, WORST * 2.0**-bits)
        require(errors[bits] < bound, f"{errors[bits]:.3f} in {bits} bit, where {bound:.3f} is much already")
    ordered = [errors[bits] for bits in sorted(errors)]
    require(ordered == sorted(ordered, reverse=True), f"{errors} by bits")
    zeros = pack(subject, torch.zeros(64, 64), widths(subject)[0])
    require(
        bool((zeros(torch.float32) == 0).all() if isinstance(zeros, QuantizedTensor) else True), "no zeros for zeros"
    )


@promise(
    "quantize",
    f"stored data of at most {OVERHEAD:g} bits more per value than the codec's bits, and fewer than 16",
    "pack several values into a byte, and let more values share a scale; let codec.bits say what is stored",
)
def stores_fewer_bytes(subject: PluginUnderTest) -> None:
    for bits in widths(subject):
        packed = large(subject, bits)
        stored = 8 * sum(t.numel() * t.element_size() for t in packed.parameters()) / packed.shape.numel()
        require(stored < 16, f"{stored:.1f} bits per value in {bits} bit")
        most = packed.codec.bits + OVERHEAD
        require(stored <= most, f"{stored:.1f} bits per value in {bits} bit, where codec.bits is {packed.codec.bits}")


@promise("quantize", "the same data for the same weight, drawn from nothing", "round deterministically")
def packs_the_same_again(subject: PluginUnderTest) -> None:
    weight = example_modules.gaussian(*LARGE)
    for bits in widths(subject):
        with random_state_untouched("draw nothing from the global generator"):
            packed = large(subject, bits, weight)
        again = large(subject, bits, weight)
        require(same(packed.tensors(), again.tensors()), f"other data in {bits} bit")
        require(
            torch.equal(weight, example_modules.gaussian(*LARGE)),
            "the weight itself is changed",
            "do not write into it",
        )


@promise(
    "quantize",
    "a codec that is hashable, and equal for equal weights",
    "make the codec a frozen dataclass of plain values, without tensors",
)
def codec_is_a_value(subject: PluginUnderTest) -> None:
    for bits in widths(subject):
        one, two = (large(subject, bits).codec for _ in range(2))
        require(one == two, f"{one} and {two}")
        hash(one)
        require(isinstance(one.bits, int) and isinstance(one.scheme, str), f"bits {one.bits!r}, scheme {one.scheme!r}")


@promise(
    "quantize",
    "data that casts leave alone (scales too), and that deepcopy, pickle and state_dict carry",
    "keep everything in the tensors given to zoo.QuantizedTensor and in the codec, and no data in an attribute; the "
    "codec's class must be importable",
)
def packed_travels(subject: PluginUnderTest) -> None:
    for bits in widths(subject):
        packed = large(subject, bits)
        expected = packed(torch.float32)
        for how, twin in _travelled(subject, packed, bits):
            require(torch.equal(twin(torch.float32), expected), f"other values after {how} in {bits} bit")
        cast = copy.deepcopy(packed).half()
        require(cast().dtype == torch.float16, f"{cast().dtype} after .half() in {bits} bit")


@promise(
    "quantize",
    "zoo.QuantizationError for a weight with NaN",
    "raise zoo.QuantizationError unless torch.isfinite(weight).all()",
)
def refuses_nan(subject: PluginUnderTest) -> None:
    weight = example_modules.gaussian(*LARGE)
    weight[3, 5] = torch.nan
    try:
        pack(subject, weight, widths(subject)[0])
    except QuantizationError:
        return
    raise CheckFailed("it was packed")


@promise(
    "quantize",
    "a model that computes with the unpacked weights, of any layer",
    "pack any shape, or return the weight itself to keep it in full precision",
)
def models_compute_with_it(subject: PluginUnderTest) -> None:
    for bits in widths(subject):
        model = zoo.wrap(example_modules.made(example_modules.Mixed), bits=Quantization(bits, scheme=subject.name))
        plain = example_modules.made(example_modules.Mixed)
        plain.load_state_dict(model.state_dict())
        with torch.no_grad():
            expected = plain(example_modules.tokens())
        require(
            torch.allclose(example_modules.output(model), expected, rtol=1e-3, atol=1e-4),
            f"another result in {bits} bit",
        )
        held = {
            name: store
            for name, store in managed_weights(model.module).items()
            if isinstance(store.packed, QuantizedTensor)
        }
        require("linear.weight" in held, f"linear.weight of shape (64, 16) is not packed in {bits} bit")
        for name, store in held.items():
            width = 8 * stored_bytes(store) / store.shape.numel()
            require(width < 32, f"{name} takes {width:.0f} bits per value in {bits} bit")


@promise(
    "quantize",
    "adapters that train on top, merge, and come out without a trace",
    "let unpack be a function of the stored tensors alone, without in-place changes and without a graph",
)
def adapters_train_on_it(subject: PluginUnderTest) -> None:
    for bits in widths(subject):
        lora = zoo.LoRA(rank=2, targets="all")
        model = zoo.wrap(
            example_modules.made(example_modules.Mixed), bits=Quantization(bits, scheme=subject.name), lora=lora, seed=0
        )
        base = example_modules.output(model)
        example_modules.error(model).backward()
        for name, store in managed_weights(model.module).items():
            factors = [factor.grad for factor in store.updates.parameters()]
            require(any(one is not None and bool(one.any()) for one in factors), f"no gradient for {name}'s adapter")
        perturb(model)
        learned = example_modules.output(model)
        model.merge()
        require(
            torch.allclose(example_modules.output(model), learned, rtol=1e-3, atol=1e-4), "another result when merged"
        )
        model.unmerge()
        model.deactivate()
        require(torch.equal(example_modules.output(model), base), "another base after unmerge")


def pack(subject: PluginUnderTest, weight: Tensor, bits: int) -> QuantizedTensor | Tensor:
    """Return the plugin's result for one weight. Raises `CheckFailed` if it is neither quantized nor a tensor."""
    scheme = Quantization(bits, scheme=subject.name)
    packed = caller("quantize", subject.name)(entry=Entry("toy", None), name="weight", weight=weight, scheme=scheme)
    require(isinstance(packed, QuantizedTensor | Tensor), f"{type(packed).__qualname__} for a weight in {bits} bit")
    return packed


def large(subject: PluginUnderTest, bits: int, weight: Tensor | None = None) -> QuantizedTensor:
    """Return a large weight, quantized: no quantizer has a reason to keep it in full precision."""
    packed = pack(subject, example_modules.gaussian(*LARGE) if weight is None else weight, bits)
    if not isinstance(packed, QuantizedTensor):
        raise CheckFailed(f"a weight of {LARGE} kept in full precision in {bits} bit")
    return packed


def widths(subject: PluginUnderTest) -> tuple[int, ...]:
    """Return the widths in bits that the quantizer takes."""
    return subject.remembered("widths", lambda: tuple(_widths(subject)))


def _widths(subject: PluginUnderTest) -> Iterator[int]:
    for bits in subject.options.bits or WIDTHS:
        try:
            large(subject, bits)
        except QuantizationError:
            if subject.options.bits:
                raise
            continue
        yield bits


def _travelled(subject: PluginUnderTest, packed: QuantizedTensor, bits: int) -> Iterator[tuple[str, QuantizedTensor]]:
    yield "deepcopy", copy.deepcopy(packed)
    held = io.BytesIO()
    pickle.dump(packed, held)
    yield "pickle", pickle.loads(held.getvalue())
    yield ".half()", copy.deepcopy(packed).half()
    yield ".to(bfloat16)", copy.deepcopy(packed).to(torch.bfloat16)
    other = large(subject, bits, example_modules.gaussian(*LARGE).flip(0))
    other.load_state_dict(packed.state_dict())
    yield "state_dict", other


CHECKS = (
    packs,
    unpacks_to_the_same_shape,
    error_is_bounded,
    stores_fewer_bytes,
    packs_the_same_again,
    codec_is_a_value,
    packed_travels,
    refuses_nan,
    models_compute_with_it,
    adapters_train_on_it,
)
