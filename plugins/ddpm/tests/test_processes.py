"""Whose process a U-Net was trained by, what it is conditioned on, and images of any shape and number of channels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

import zoo

_UNET = {
    "layers_per_block": 1,
    "block_out_channels": (16, 32),
    "norm_num_groups": 8,
    "down_block_types": ("DownBlock2D",) * 2,
    "up_block_types": ("UpBlock2D",) * 2,
}


def unet(folder: Path, scheduler: Any = None, channels: int = 3, **changes: Any) -> str:
    """Write a small U-Net, and a scheduler beside it."""
    arguments = {**_UNET, "in_channels": channels, "out_channels": channels, "sample_size": 16, **changes}
    diffusers.UNet2DModel(**arguments).save_pretrained(folder)
    if scheduler is not None:
        scheduler.save_pretrained(folder)
    return str(folder)


OURS = ("DDPM", "DDIM", "PNDM", "EulerDiscrete", "EulerAncestralDiscrete", "DPMSolverMultistep", "UniPCMultistep")
OTHERS = ("ScoreSdeVe", "KarrasVe", "CMStochasticIterative", "FlowMatchEulerDiscrete", "EDMEuler", "LCM")


@pytest.mark.parametrize("name", OURS)
def test_schedulers_that_share_the_noise_are_taken(name, tmp_path):
    scheduler = getattr(diffusers, f"{name}Scheduler")(beta_schedule="scaled_linear", num_train_timesteps=50)
    model = zoo.load(unet(tmp_path, scheduler))
    images, times = torch.rand(2, 3, 16, 16) * 2 - 1, torch.tensor([3, 40])
    batch = {"images": images, "noise": torch.randn(2, 3, 16, 16), "times": times}
    schedule = diffusers.DDPMScheduler.from_config(scheduler.config)
    noisy = schedule.add_noise(images, batch["noise"], times)
    expected = torch.nn.functional.mse_loss(model.module(noisy, times).sample, batch["noise"])
    assert torch.allclose(model.loss(batch), expected)


@pytest.mark.parametrize("name", OTHERS)
def test_another_process_is_refused_by_its_name(name, tmp_path):
    folder = unet(tmp_path, getattr(diffusers, f"{name}Scheduler")())
    with pytest.raises(zoo.CheckpointError, match=rf"another process than DDPM's, that of {name}Scheduler"):
        zoo.load(folder)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}, "timestep_type"),
        ({"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True}, "it matches flows"),
        ({"_class_name": "DDPMScheduler", "prediction_type": "flow_prediction"}, "flow_prediction"),
        ({"_class_name": "OwnScheduler"}, "no such scheduler"),
        ({"_class_name": "UNet2DModel"}, "no such scheduler"),
    ],
)
def test_a_setting_may_make_it_another_process(settings, says, tmp_path):
    folder = unet(tmp_path)
    (tmp_path / "scheduler_config.json").write_text(json.dumps(settings))
    with pytest.raises(zoo.CheckpointError, match=says):
        zoo.load(folder)


def test_times_that_are_logarithms_are_refused(tmp_path):
    with pytest.raises(zoo.CheckpointError, match="fourier"):
        zoo.load(unet(tmp_path, time_embedding_type="fourier"))


@pytest.mark.parametrize("channels", range(1, 9))
def test_one_to_eight_channels(channels, tmp_path):
    model = zoo.load(unet(tmp_path, channels=channels), lora=2)
    batch = next(iter(model.batches(torch.rand(20, channels, 16, 16), batch_size=2)))
    assert batch["images"].shape == (2, channels, 16, 16)
    assert model.loss(batch).isfinite()
    model.sample(2, seed=0, steps=2).save(tmp_path / "drawn.png")


def test_height_and_width(tmp_path):
    model = zoo.load(unet(tmp_path, sample_size=(16, 32)))
    images = torch.rand(20, 3, 16, 32)
    batch = next(iter(model.batches(images, batch_size=20)))
    rows = {tuple(image.flatten()[:5].tolist()) for image in images * 2 - 1}
    assert {tuple(image.flatten()[:5].tolist()) for image in batch["images"]} <= rows  # neither scaled nor cut
    assert next(iter(model.batches(torch.rand(20, 3, 40, 40), batch_size=2)))["images"].shape == (2, 3, 16, 32)
    assert model.sample(1, seed=0, steps=2).data.shape == (1, 3, 16, 32)
    assert model.evaluate(images)["noise_mse"] > 0


CONDITIONS = {"timestep": torch.randint(50, (20,)), "identity": torch.randn(20, 64), None: torch.randint(5, (20,))}


@pytest.mark.parametrize("kind", CONDITIONS)
def test_every_class_embed_type(kind, tmp_path):
    labels, images = CONDITIONS[kind], torch.rand(20, 3, 16, 16)
    model = zoo.load(unet(tmp_path, class_embed_type=kind, num_class_embeds=5 if kind is None else None), lora=2)
    batch = next(iter(model.batches((images, labels), batch_size=4)))
    assert batch["labels"].shape == (4, *labels.shape[1:])
    model.loss(batch).backward()
    assert model.evaluate((images, labels)) == model.evaluate((images, labels))
    drawn = model.sample(2, seed=0, steps=2, labels=labels[:2]).data
    assert drawn.shape == (2, 3, 16, 16)
    one = model.sample(1, seed=0, steps=2, labels=labels[:1]).data
    assert torch.allclose(one[0], model.sample(1, seed=0, steps=2, labels=labels[0]).data[0])
    with pytest.raises(zoo.DataError, match="labels"):
        model.batches(images, batch_size=2)


def test_what_conditions_cannot_be(tmp_path):
    model = zoo.load(unet(tmp_path, class_embed_type="identity"))
    for labels in (None, torch.randn(2, 63), torch.randint(5, (2,)), "A"):
        with pytest.raises(zoo.ZooError, match=r"labels|vector"):
            model.sample(2, seed=0, steps=1, labels=labels)
