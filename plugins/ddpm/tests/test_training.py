"""Losses, batches, metrics and tuning."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from diffusers import DDPMScheduler

import zoo
from zoo.data.letters import render

SANS = 0.0155  # README.md


@pytest.fixture(scope="module")
def letters():
    return zoo.load("ddpm", device="cpu")


def test_a_batch_holds_all_that_its_loss_needs(letters):
    batch = next(iter(letters.batches("letters:serif", batch_size=4, seed=1)))
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == {
        "images": (4, 1, 32, 32),
        "labels": (4,),
        "noise": (4, 1, 32, 32),
        "times": (4,),
    }
    assert batch["images"].min() == -1
    assert 0 <= batch["times"].min() <= batch["times"].max() < 1000
    loss = letters.loss(batch)
    assert loss.shape == ()
    assert torch.equal(loss, letters.loss(batch))
    again = next(iter(letters.batches("letters:serif", batch_size=4, seed=1)))
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    other = next(iter(letters.batches("letters:serif", batch_size=4, seed=2)))
    assert not torch.equal(batch["noise"], other["noise"])


def test_images_alone_make_a_batch(letters):
    torch.manual_seed(0)
    batch = {"images": torch.rand(2, 1, 32, 32) * 2 - 1, "labels": torch.tensor([0, 25])}
    first, second = letters.loss(batch), letters.loss(batch)
    assert first != second  # noise is drawn anew
    torch.manual_seed(0)
    torch.rand(2, 1, 32, 32)
    assert letters.loss(batch) == first


def test_timesteps_cover_the_schedule(letters):
    batches = islice(letters.batches("letters:sans", batch_size=50), 4)
    for batch in batches:
        assert batch["times"].div(20, rounding_mode="floor").sort().values.tolist() == list(range(50))


def test_other_splits_are_one_pass(letters):
    labels = torch.cat([batch["labels"] for batch in letters.batches(batch_size=100, split="test")])
    assert labels.bincount().tolist() == [20] * 26


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_the_loss_is_of_what_the_schedule_predicts(make, kind):
    unet, folder = make(scheduler={"prediction_type": kind, "beta_schedule": "squaredcos_cap_v2"})
    model = zoo.load(str(folder), device="cpu")
    batch = next(iter(model.batches(torch.rand(6, 3, 8, 8), batch_size=6)))
    images, noise, times = batch["images"], batch["noise"], batch["times"]
    # From the paper, in float64, and not from diffusers.
    shares = torch.linspace(0, 1, 101, dtype=torch.float64)
    curve = torch.cos((shares + 0.008) / 1.008 * torch.pi / 2) ** 2
    kept = torch.cumprod(1 - (1 - curve[1:] / curve[:-1]).clamp(max=0.999), 0)[times].view(-1, 1, 1, 1)
    a, b = kept.sqrt(), (1 - kept).sqrt()
    with torch.no_grad():
        output = unet((a * images + b * noise).float(), times).sample
    wanted = {"epsilon": noise, "sample": images, "v_prediction": a * noise - b * images}[kind]
    assert model.loss(batch).item() == pytest.approx((output - wanted).square().mean().item(), rel=1e-4)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_the_figure_is_the_noises_error_for_every_kind(make, kind):
    unet, folder = make(scheduler={"prediction_type": kind})
    model = zoo.load(str(folder), device="cpu")
    images = torch.rand(7, 3, 8, 8)
    ((name, figure),) = model.evaluate(images).items()
    assert name == "noise_mse"
    assert figure > 0
    # A module that knows the clean image makes no error, whatever it is asked to predict.
    schedule = DDPMScheduler(num_train_timesteps=100)
    clean = images * 2 - 1

    class Oracle(torch.nn.Module):
        config = unet.config

        def forward(self, noisy, times):
            kept = schedule.alphas_cumprod[times].view(-1, 1, 1, 1)
            noise = (noisy - kept.sqrt() * clean) / (1 - kept).sqrt()
            said = {"epsilon": noise, "sample": clean, "v_prediction": kept.sqrt() * noise - (1 - kept).sqrt() * clean}
            return type("Output", (), {"sample": said[kind]})

    model.adapter_set.module = Oracle()
    assert model.evaluate(zoo.Data(images, split="all"))["noise_mse"] < 1e-6


def test_a_learned_variance_is_left_out_of_the_loss(make):
    unet, folder = make(out_channels=6, scheduler={"variance_type": "learned_range"})
    model = zoo.load(str(folder), device="cpu")
    batch = next(iter(model.batches(torch.rand(4, 3, 8, 8), batch_size=4)))
    noisy = DDPMScheduler(num_train_timesteps=100).add_noise(batch["images"], batch["noise"], batch["times"])
    with torch.no_grad():
        output = unet(noisy, batch["times"]).sample[:, :3]
    assert model.loss(batch).item() == pytest.approx((output - batch["noise"]).square().mean().item(), rel=1e-4)
    for sampler in ("ddim", "ddpm"):
        assert model.sample(2, seed=0, sampler=sampler, steps=4).data.shape == (2, 3, 8, 8)


@pytest.mark.slow
def test_the_embedded_model_is_as_good_as_its_readme_says(letters):
    before = torch.get_rng_state()
    assert letters.evaluate() == pytest.approx({"noise_mse": SANS}, rel=0.02)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.slow
def test_four_bits_cost_little_and_learn_another_style(letters):
    sans, serif = (render(style, 104, seed=0, split="test") for style in ("sans", "serif"))
    assert letters.evaluate(sans)["noise_mse"] < 0.4 * letters.evaluate(serif)["noise_mse"]

    model = zoo.load("ddpm", bits=4, lora=8, device="cpu", seed=0)
    assert model.footprint().quantized_share > 0.985
    assert model.evaluate(sans)["noise_mse"] < 1.2 * letters.evaluate(sans)["noise_mse"]
    before = model.evaluate(serif)["noise_mse"]
    assert model.evaluate(serif)["noise_mse"] == before
    result = model.tune("letters:serif", steps=15, batch_size=16, lr=2e-3)
    assert len(result.losses) == 15
    assert model.evaluate(serif)["noise_mse"] < 0.85 * before
    model.deactivate()
    assert model.evaluate(serif)["noise_mse"] == pytest.approx(before, rel=1e-5)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (torch.rand(3, 1, 32, 32), "need labels"),
        ((torch.rand(3, 1, 32, 32), torch.tensor([26, 26, 26])), "labels from 26 to 26"),
        ("letters:gothic", "gothic"),
    ],
)
def test_data_that_do_not_fit_are_refused(letters, data, found):
    with pytest.raises(zoo.DataError, match=found):
        letters.batches(data, batch_size=2)


def test_folders_of_colour_images_serve_an_unconditional_model(make, tmp_path):
    import numpy as np
    from PIL import Image

    for i in range(12):
        Image.fromarray(np.random.randint(0, 256, (20, 14, 3), np.uint8)).save(tmp_path / f"{i}.png")  # noqa: NPY002
    _, folder = make()
    model = zoo.load(str(folder), lora=2, device="cpu")
    result = model.tune(str(tmp_path), steps=2, batch_size=4)
    assert all(loss > 0 for loss in result.losses)
    assert model.evaluate(str(tmp_path))["noise_mse"] > 0
