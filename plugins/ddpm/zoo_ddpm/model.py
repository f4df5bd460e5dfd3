"""Build a U-Net, read its weights under today's names, predict the noise with it, and save it.

Notation: x0 a clean image in [-1, 1], eps Gaussian noise, ᾱ the schedule's cumulative product at timestep t,
x_t = √ᾱ x0 + √(1-ᾱ) eps (arXiv 2006.11239, equation 4). Shapes: n images of c channels, h × w.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from diffusers import DDPMScheduler, UNet2DModel

import zoo
from zoo import CheckpointError
from zoo.integrations.configured import without_code
from zoo.integrations.diffusers import current_name, save_library_model

from . import files
from .conditions import kind_of
from .process import check_process

if TYPE_CHECKING:
    from torch import Tensor

    from zoo import Entry, Model


def construct(entry: Entry) -> UNet2DModel:
    """Return the module that the entry's configuration describes, in evaluation mode.

    Raises:
        CheckpointError: it makes none, or it was trained by another process than DDPM's.
    """
    config = {key: value for key, value in files.unet_config(entry).items() if key != files.CLASS_NAMES}
    check_process(entry, config, files.scheduler_config(entry))
    try:
        return UNet2DModel.from_config(without_code(config, entry.name)).eval()
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"the configuration of {entry.name} does not make a UNet2DModel: {error}") from error


def checkpoint(entry: Entry) -> Iterator[tuple[str, Tensor]]:
    """Yield the checkpoint's tensors under the module's names."""
    for name, tensor in zoo.checkpoint.tensors(dataclasses.replace(entry, folder=files.unet_folder(entry))):
        yield current_name(name), tensor


def scheduler(entry: Entry) -> DDPMScheduler:
    """Return the checkpoint's noise schedule (its file may be another scheduler's: they share these settings)."""
    return DDPMScheduler.from_config(files.scheduler_config(entry))


def image_shape(model: Model) -> tuple[tuple[int, int], int]:
    """Return height and width in pixels, and the number of channels, of the model's images.

    Raises:
        CheckpointError: the configuration does not say the size.
    """
    config = model.module.config
    size = config.sample_size
    if size is None:
        raise CheckpointError(
            f"{model.entry.name}: expected sample_size, in pixels, in its config.json, got none: add it"
        )
    height, width = (size, size) if isinstance(size, int) else size
    return (height, width), config.in_channels


def predict(model: Model, noisy: Tensor, times: Tensor, labels: Tensor | None) -> Tensor:
    """Return the U-Net's prediction, float32 [n, c or 2c, h, w].

    Args:
        model: the model.
        noisy: x_t [n, c, h, w].
        times: timesteps [n].
        labels: classes or numbers [n], or vectors [n, d], or None for an unconditional U-Net.
    """
    options = {}
    if labels is not None:
        wanted = model.dtype if kind_of(model) == "vectors" else labels.dtype
        options = {"class_labels": labels.to(model.device, wanted)}
    output = model.module(noisy.to(model.device, model.dtype), times.to(model.device), **options).sample
    return output.float()


def target(schedule: DDPMScheduler, images: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """Return what the U-Net should have predicted, by the schedule's prediction type.

    Raises:
        CheckpointError: the prediction type is unknown.
    """
    kind = schedule.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "sample":
        return images
    if kind == "v_prediction":  # arXiv 2202.00512, appendix D: v = √ᾱ eps - √(1-ᾱ) x0
        return schedule.get_velocity(images, noise, times)
    raise CheckpointError(f"expected a schedule that predicts epsilon, sample or v_prediction, got {kind!r}")


def as_noise(schedule: DDPMScheduler, output: Tensor, noisy: Tensor, times: Tensor) -> Tensor:
    """Return the noise that a prediction of any type implies."""
    kind = schedule.config.prediction_type
    if kind == "epsilon":
        return output
    kept = schedule.alphas_cumprod.to(output.device)[times.to(output.device)].view(-1, 1, 1, 1)  # ᾱ [n, 1, 1, 1]
    if kind == "sample":
        return (noisy - kept.sqrt() * output) / (1 - kept).sqrt()
    return kept.sqrt() * output + (1 - kept).sqrt() * noisy


def save(model: Model, folder: Path, state_dict: dict[str, Tensor]) -> bool:
    """Write config.json, scheduler_config.json and the weights as diffusers' `save_pretrained` lays them out."""
    names = files.class_names(model.entry)
    save_library_model(model.module, Path(folder), state_dict, {files.CLASS_NAMES: names} if names else None)
    scheduler(model.entry).save_pretrained(folder)
    return True
