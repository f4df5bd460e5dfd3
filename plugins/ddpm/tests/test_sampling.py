"""Samplers: the reference's images, one seed one result, options that are refused with a reason."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler

import zoo


@pytest.fixture(scope="module")
def letters():
    return zoo.load("ddpm", device="cpu")


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize(("sampler", "eta"), [("ddim", 0.0), ("ddim", 0.7), ("ddpm", 0.0)])
def test_images_are_those_of_diffusers_pipelines(make, kind, sampler, eta):
    unet, folder = make(scheduler={"prediction_type": kind, "variance_type": "fixed_large"})
    options = {"eta": eta} if sampler == "ddim" else {}
    got = zoo.load(str(folder), device="cpu").sample(3, seed=5, sampler=sampler, steps=6, **options)
    scheduler = (DDIMScheduler if sampler == "ddim" else DDPMScheduler).from_pretrained(folder)
    pipeline = (DDIMPipeline if sampler == "ddim" else DDPMPipeline)(unet, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    wanted = pipeline(
        batch_size=3, generator=torch.Generator().manual_seed(5), num_inference_steps=6, output_type="np", **options
    ).images
    torch.testing.assert_close(got.data, torch.from_numpy(wanted).permute(0, 3, 1, 2), rtol=1e-4, atol=1e-4)


def test_the_schedule_is_the_checkpoints_own(make):
    images = []
    for variance in ("fixed_small", "fixed_large"):
        torch.manual_seed(0)
        _, folder = make(scheduler={"variance_type": variance})
        images.append(zoo.load(str(folder), device="cpu").sample(1, seed=0, sampler="ddpm", steps=10).data)
    assert not torch.allclose(images[0], images[1], atol=1e-3)


def test_a_seed_gives_the_same_images_and_leaves_the_global_state_alone(letters):
    before = torch.get_rng_state()
    first = letters.sample(3, seed=7, steps=4, eta=0.5)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(5)
    assert torch.equal(first.data, letters.sample(3, seed=7, steps=4, eta=0.5).data)
    assert not torch.equal(first.data, letters.sample(3, seed=8, steps=4, eta=0.5).data)
    assert not torch.equal(letters.sample(1, steps=2).data, letters.sample(1, steps=2).data)


def test_many_images_are_drawn_in_parts(make):
    _, folder = make(sample_size=4)
    model = zoo.load(str(folder), device="cpu")
    assert model.sample(130, seed=0, steps=2).data.shape == (130, 3, 4, 4)


@pytest.mark.parametrize(
    ("labels", "n", "captions"),
    [
        (None, 3, "ABC"),
        (None, 28, "ABCDEFGHIJKLMNOPQRSTUVWXYZAB"),
        ("ZOO", 3, "ZOO"),
        ("ZOO", 5, "ZOOZO"),
        (25, 2, "ZZ"),
        ([3, 1], 3, "DBD"),
        ("3, 1", 2, "DB"),
        (torch.tensor([4]), 1, "E"),
    ],
)
def test_labels_choose_the_letter(letters, labels, n, captions):
    samples = letters.sample(n, seed=0, steps=1, labels=labels)
    assert "".join(samples.captions) == captions
    assert samples.data.shape == (n, 1, 32, 32)
    assert 0 <= samples.data.min() <= samples.data.max() <= 1


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"stesp": 3}, "Did you mean 'steps'"),
        ({"steps": 0}, "from 1 to 1000"),
        ({"steps": 2.5}, "from 1 to 1000"),
        ({"steps": 1001}, "from 1 to 1000"),
        ({"sampler": "euler"}, "'ddim', 'ddpm'"),
        ({"eta": 2.0}, "from 0 to 1"),
        ({"sampler": "ddpm", "eta": 0.5}, "belongs to"),
        ({"labels": 26}, "0 to 25"),
        ({"labels": "a"}, "names"),
        ({"labels": ""}, "names"),
        ({"labels": []}, "0 to 25"),
        ({"labels": [0.5]}, "0 to 25"),
        ({"labels": True}, "names .*numbers from 0 to 25, got True"),
    ],
)
def test_options_that_do_not_fit_are_refused(letters, options, found):
    with pytest.raises(zoo.ZooError, match=found):
        letters.sample(1, seed=0, **options)


def test_an_unconditional_model_takes_no_labels(make):
    model = zoo.load(str(make()[1]), device="cpu")
    assert model.sample(1, seed=0, steps=1).captions is None
    with pytest.raises(zoo.ZooError, match="no classes"):
        model.sample(1, labels=[0])


@pytest.mark.parametrize("bits", [None, 4])
def test_the_embedded_models_letters_can_be_read(bits):
    """A nearest-neighbour reader, which reads 9 of 10 true letters, names most of the drawn ones."""
    from zoo.data.letters import render

    model = zoo.load("ddpm", bits=bits, device="cpu")
    samples = model.sample(26, seed=0, steps=12)
    known, names = render("sans", 2600, seed=0)
    read = names[torch.cdist(samples.data.flatten(1), known.flatten(1)).argmin(1)]
    right = (read == torch.arange(26)).float().mean().item()
    assert right > 0.6, right


def test_facts_name_image_schedule_and_classes():
    from zoo.plugin import hooks

    facts = hooks.describe(zoo.load("ddpm", device="meta").entry)
    assert facts["image"] == "1 × 32 × 32"
    assert "1000 steps" in facts["noise schedule"]
    assert facts["classes"].startswith("26")
