"""HQQ: what is stored, how close it is, and models whose weights are all stored so."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hqq.core.quantize import Quantizer

import zoo
from zoo.testing import conformance
from zoo_hqq.codec import pack

BITS = (2, 3, 4, 8)


def weight(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def error(packed: zoo.QuantizedTensor, w: torch.Tensor) -> float:
    return float((packed(torch.float64) - w.double()).norm() / w.double().norm())


def stored_bits(packed: zoo.QuantizedTensor) -> float:
    return 8 * sum(t.numel() * t.element_size() for t in packed.tensors()) / packed.shape.numel()


def codes(packed: torch.Tensor, bits: int) -> np.ndarray:
    """The codes of a packed tensor, taken apart bit by bit: the first group of rows in the highest bits."""
    words = packed.numpy().astype(np.int64)
    per = {2: 4, 3: 10, 4: 2, 8: 1}[bits]
    return np.concatenate([words >> bits * (per - 1 - n) & (1 << bits) - 1 for n in range(per)])


@pytest.mark.parametrize("bits", BITS)
def test_a_weight_is_its_codes_less_the_zero_times_the_scale(bits):
    w = weight(96, 50) * 0.03
    packed = pack(w, bits, 64, double=False)
    stored, scale, zero = packed.tensors()
    groups = -(-w.numel() // 64)
    expected = (codes(stored, bits)[:groups] - zero.double().numpy()[:, None]) * scale.double().numpy()[:, None]
    expected = torch.from_numpy(expected.reshape(-1)[: w.numel()].reshape(w.shape))
    torch.testing.assert_close(packed(torch.float64), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(packed(), expected.float(), rtol=1e-6, atol=1e-7)
    assert packed(torch.bfloat16).dtype == torch.bfloat16
    # Every value has the nearest code.
    full = w.numel() // 64
    nearest = (w.view(-1)[: full * 64].view(full, 64) / scale[:full, None] + zero[:full, None]).round()
    assert np.array_equal(codes(stored, bits)[:full], nearest.clamp(0, 2**bits - 1).numpy().astype(np.int64))


@pytest.mark.parametrize("bits", BITS)
def test_it_is_as_close_as_the_librarys_own_layer(bits):
    w = weight(256, 512)
    quantized, meta = Quantizer.quantize(w, nbits=bits, group_size=64, axis=1, device="cpu")
    peer = Quantizer.dequantize(quantized, {**meta, "compute_dtype": torch.float32})
    theirs = float((peer - w).norm() / w.norm())
    assert error(pack(w, bits, 64, double=False), w) < 1.02 * theirs
    assert error(pack(w, bits, 64, double=True), w) < 1.04 * theirs


def test_at_four_bits_it_is_closer_than_nf4_and_the_sizes_are_what_they_are_said_to_be():
    from zoo.weights.codecs import pack as own

    w = weight(1024, 512)
    assert error(pack(w, 4, 64, double=True), w) < 0.95 * error(own(w, zoo.Quantization(4)), w)
    for bits, size in {2: 2.27, 3: 3.47, 4: 4.27, 8: 8.27}.items():
        assert stored_bits(pack(w, bits, 64, double=True)) == pytest.approx(size, abs=0.01)
        # One scale and zero in float32 for every 64 values; ten 3-bit codes take 32 bits.
        assert stored_bits(pack(w, bits, 64, double=False)) == pytest.approx(size + 0.734, abs=0.01)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("shape", [(7, 5), (1, 1), (1, 4, 24), (10, 6, 3, 3), (3, 2, 2, 3, 3), (130, 64), (300, 70)])
def test_weights_of_any_shape(bits, double, shape):
    w = weight(*shape)
    packed = pack(w, bits, 32, double)
    assert packed().shape == w.shape
    assert error(packed, w) < {2: 0.5, 3: 0.25, 4: 0.12, 8: 0.01}[bits]
    on_meta = pack(torch.empty(shape, device="meta"), bits, 32, double)
    assert [(t.shape, t.dtype) for t in on_meta.tensors()] == [(t.shape, t.dtype) for t in packed.tensors()]


@pytest.mark.parametrize("double", [False, True])
def test_rows_of_every_size_keep_their_relative_precision(double):
    sizes = torch.tensor([1.0, 1e-7, 30.0, 1e-3, 1e-12]).repeat(40)[:, None]
    w = weight(200, 128) * sizes
    unpacked = pack(w, 4, 64, double)()
    errors = (unpacked - w).norm(dim=1) / w.norm(dim=1)
    assert errors.max() < (0.35 if double else 0.13)


@pytest.mark.parametrize("double", [False, True])
def test_constant_rows_and_zeros_stay_what_they_are(double):
    w = torch.cat([torch.zeros(4, 64), torch.full((4, 64), 0.7), torch.full((4, 64), -3.0), weight(4, 64)])
    unpacked = pack(w, 4, 64, double)()
    assert unpacked[:4].abs().max() < 1e-2
    torch.testing.assert_close(unpacked[4:12], w[4:12], rtol=0.02, atol=0)
    assert pack(torch.zeros(8, 64), 3, 64, double)().abs().max() < 1e-20


def test_what_cannot_be_stored_is_an_error():
    w = weight(8, 64)
    for bits in (1, 5, 6):
        with pytest.raises(zoo.QuantizationError, match=f"stores 2, 3, 4, 8 bits, got bits={bits}"):
            pack(w, bits, 64, True)
    with pytest.raises(zoo.QuantizationError, match="block_size"):
        pack(w, 4, 4, True)
    with pytest.raises(zoo.QuantizationError, match="NaN or Inf"):
        pack(w.index_fill(0, torch.tensor([3]), float("nan")), 4, 64, True)
    with pytest.raises(zoo.QuantizationError, match="floating-point"):
        pack(torch.ones(8, 64, dtype=torch.int32), 4, 64, True)
    module = torch.nn.Linear(64, 64)
    with pytest.raises(zoo.QuantizationError, match="weight: scheme 'hqq' stores 2, 3, 4, 8 bits"):
        zoo.wrap(module, bits=zoo.Quantization(bits=5, scheme="hqq"))
    assert isinstance(module.weight, torch.nn.Parameter)


def test_casts_leave_the_scales_and_copies_are_equal():
    model = zoo.wrap(torch.nn.Sequential(torch.nn.Linear(64, 32)), bits=zoo.Quantization(3, "hqq"), lora=4, seed=0)
    x = weight(5, 64)
    y = model(x)
    assert torch.equal(copy.deepcopy(model)(x), y)
    half = copy.deepcopy(model).module.to(torch.bfloat16)
    torch.testing.assert_close(half(x.bfloat16()).float(), y, rtol=0.05, atol=0.05)
    held = {name: t.dtype for name, t in half.named_parameters() if "scale_range" in name}
    assert set(held.values()) == {torch.float32}
    compiled = torch.compile(model.module, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), y)


# Attention vectors of three dimensions; modulated convolutions.
@pytest.mark.parametrize(("name", "bits"), [("gat", 3), ("stylegan", 4)])
def test_a_model_samples_learns_merges_and_is_saved(name, bits, tmp_path):
    scheme = zoo.Quantization(bits=bits, scheme="hqq")
    model = zoo.load(name, bits=scheme, lora=zoo.LoRA(rank=4, targets="all"), device="cpu", seed=0)
    assert model.footprint().quantized_share >= 0.985
    assert min(info.bits for info in model.weights()) < bits + 0.6  # scales and zeros included
    first, again = model.sample(2, seed=0).data, model.sample(2, seed=0).data
    assert torch.equal(first, again) if isinstance(first, torch.Tensor) else first == again
    model.tune(steps=2, batch_size=2, seed=0)
    model.eval()
    model.save_adapter(tmp_path / "adapter")
    reloaded = zoo.load(name, bits=scheme, lora=str(tmp_path / "adapter"), device="cpu")
    dense = model.state_dict()
    for key, tensor in reloaded.state_dict().items():
        torch.testing.assert_close(tensor, dense[key], rtol=1e-6, atol=1e-7)
    model.merge()
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, dense[key], rtol=1e-5, atol=1e-6)
    model.save(tmp_path / "model")
    full = zoo.load(name, weights=str(tmp_path / "model"), device="cpu")
    for key, tensor in full.state_dict().items():
        torch.testing.assert_close(tensor, dense[key], rtol=1e-5, atol=1e-6)


test_promise = conformance("hqq")
