"""Losses, batches, metrics and tuning."""

from __future__ import annotations

import math

import pytest
import torch

import zoo
from zoo.data.letters import render

LOSS, ERROR = 0.0326, 0.0339  # README.md


@pytest.fixture(scope="module")
def letters():
    return zoo.load("vae", device="cpu")


def test_a_batch_holds_all_that_its_loss_needs(letters):
    batch = next(iter(letters.batches("letters:serif", batch_size=4, seed=1)))
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == {
        "images": (4, 1, 32, 32),
        "noise": (4, 8, 2, 2),
    }
    assert batch["images"].min() == -1
    loss = letters.loss(batch)
    assert loss.shape == ()
    assert torch.equal(loss, letters.loss(batch))
    again = next(iter(letters.batches("letters:serif", batch_size=4, seed=1)))
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    other = next(iter(letters.batches("letters:serif", batch_size=4, seed=2)))
    assert not torch.equal(batch["noise"], other["noise"])
    bare = {"images": batch["images"]}
    torch.manual_seed(0)
    first, second = letters.loss(bare), letters.loss(bare)
    assert first != second  # noise is drawn anew
    torch.manual_seed(0)
    assert letters.loss(bare) == first


@pytest.mark.parametrize("weight", [1e-6, 0.3])
def test_loss_and_figures_are_those_of_torchs_distributions(make, weight):
    vae, folder = make(kl_weight=weight)
    model = zoo.load(str(folder), device="cpu")
    batch = next(iter(model.batches(zoo.Data(torch.rand(6, 3, 16, 16), split="all"), batch_size=6)))
    images, noise = batch["images"], batch["noise"]
    with torch.no_grad():
        found = vae.encode(images).latent_dist
        posterior = torch.distributions.Normal(found.mean, found.std)
        kl = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum((1, 2, 3)).mean()
        decoded = vae.decode(found.mean + found.std * noise).sample
        log_likelihood = torch.distributions.Normal(decoded, math.sqrt(weight)).log_prob(images).sum((1, 2, 3)).mean()
    elbo = (log_likelihood - kl).item()
    values = images[0].numel()
    constant = 0.5 * values * math.log(2 * math.pi * weight)
    assert model.loss(batch).item() == pytest.approx(weight * (-elbo - constant) / values, rel=1e-4)

    noise = torch.randn(noise.shape, generator=torch.Generator().manual_seed(0))
    metrics = model.evaluate(zoo.Data(images, split="all"))
    whole = model.loss({"images": images, "noise": noise}).item()
    assert metrics["loss"] == pytest.approx(whole, rel=1e-5)
    assert metrics["kl"] == pytest.approx(kl.item(), rel=1e-5)
    assert metrics["elbo"] == pytest.approx(-whole * values / weight - constant, rel=1e-4)
    with torch.no_grad():
        error = (vae.decode(found.mean).sample - images).square().mean().item()
    assert metrics["reconstruction_mse"] == pytest.approx(error, rel=1e-5)


def test_bits_and_likeness_of_reconstructions(make):
    vae, folder = make(kl_weight=0.5)
    model = zoo.load(str(folder), device="cpu")
    images = torch.rand(6, 3, 16, 16)
    found = model.evaluate(zoo.Data(images, split="all"), metrics=["psnr", "ssim", "fid"], samples=5)
    values = images[0].numel()
    # A density at a value, times the width of one of 256 levels in [-1, 1], is its probability.
    probability = found["elbo"] + values * math.log(2 / 255)
    assert found["bits_per_dim"] == pytest.approx(-probability / values / math.log(2), rel=1e-6)
    with torch.no_grad():
        again = vae.decode(vae.encode(images * 2 - 1).latent_dist.mean).sample
    errors = ((again / 2 + 0.5).clamp(0, 1) - images).square().flatten(1).mean(1)
    assert found["psnr"] == pytest.approx((-10 * errors.log10()).mean().item(), rel=1e-4)
    assert [found.count(name) for name in ("loss", "psnr", "fid")] == [6, 6, 5]


def test_a_weight_of_nothing_is_a_plain_autoencoder(make):
    model = zoo.load(str(make(kl_weight=0)[1]), device="cpu")
    assert set(model.evaluate(torch.rand(2, 3, 16, 16))) == {"loss", "reconstruction_mse", "kl"}


def test_the_embedded_model_is_as_good_as_its_readme_says(letters):
    before = torch.get_rng_state()
    metrics = letters.evaluate()
    assert list(metrics) == ["loss", "reconstruction_mse", "kl", "elbo", "bits_per_dim"]
    assert metrics["loss"] == pytest.approx(LOSS, rel=0.02)
    assert metrics["reconstruction_mse"] == pytest.approx(ERROR, rel=0.02)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.slow
def test_four_bits_cost_little_and_learn_another_style(letters):
    sans, serif = (render(style, 52, seed=0, split="test") for style in ("sans", "serif"))
    assert letters.evaluate(sans)["loss"] < 0.7 * letters.evaluate(serif)["loss"]

    model = zoo.load("vae", bits=4, lora=8, device="cpu", seed=0)
    assert model.footprint().quantized_share > 0.985
    assert model.evaluate(sans)["loss"] < 1.2 * letters.evaluate(sans)["loss"]
    before = model.evaluate(serif)["loss"]
    assert model.evaluate(serif)["loss"] == before
    result = model.tune("letters:serif", steps=12, batch_size=8, lr=2e-3)
    assert len(result.losses) == 12
    assert model.evaluate(serif)["loss"] < 0.95 * before
    model.deactivate()
    assert model.evaluate(serif)["loss"] == pytest.approx(before, rel=1e-5)


@pytest.mark.parametrize("lora", [None, 4])
@pytest.mark.parametrize("bits", [None, 32, 16, 8, 4])
def test_every_combination_does_everything(make, tmp_path, bits, lora):
    import copy

    _, folder = make(kl_weight=1.0)
    config = zoo.LoRA(rank=lora, targets="all") if lora else None
    model = zoo.load(str(folder), bits=bits, lora=config, device="cpu", seed=0)
    images = torch.rand(8, 3, 16, 16)
    assert torch.isfinite(model.sample(2, seed=0).data).all()
    loss = model.loss(next(iter(model.batches(images, batch_size=8))))
    assert torch.isfinite(loss)
    if not any(parameter.requires_grad for parameter in model.module.parameters()):
        assert lora is None  # quantized weights train through adapters alone
        assert bits < 32
        return
    before = model.evaluate(zoo.Data(images, split="all"))["loss"]
    model.tune(images, steps=5, batch_size=8, lr=2e-3)
    assert model.evaluate(zoo.Data(images, split="all"))["loss"] < before
    twin = copy.deepcopy(model.module)
    with torch.no_grad():
        wanted = model.module(images).sample
        assert torch.equal(twin(images).sample, wanted)
    if lora is None:
        return
    saved = model.save_adapter(tmp_path / "adapter")
    again = zoo.load(str(folder), bits=bits, lora=str(saved), device="cpu")
    with torch.no_grad():
        assert torch.equal(again.module(images).sample, wanted)
        model.merge()
        torch.testing.assert_close(model.module(images).sample, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_forward_compiles(make):
    one = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
    _, folder = make(block_out_channels=(8,), **one)
    model = zoo.load(str(folder), bits=4, lora=zoo.LoRA(rank=2, targets="all"), device="cpu")
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        compiled = torch.compile(model.module, backend="eager")
        torch.testing.assert_close(compiled(images).sample, model.module(images).sample, rtol=1e-5, atol=1e-5)
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("data", "found"),
    [("letters:gothic", "gothic"), (torch.rand(3, 2, 32, 32), "channels")],
)
def test_data_that_do_not_fit_are_refused(letters, data, found):
    with pytest.raises(zoo.DataError, match=found):
        letters.batches(data, batch_size=2)
