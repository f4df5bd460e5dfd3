"""Draw images: ancestral (DDPM, arXiv 2006.11239, algorithm 2) or implicit (DDIM, arXiv 2010.02502)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler

from zoo import Samples, ZooError
from zoo.data.labels import class_captions
from zoo.samples.progress import track
from zoo.torch_state.spread import pieces, spread

from . import files
from .conditions import wanted
from .model import image_shape, predict

if TYPE_CHECKING:
    from torch import Tensor

    from zoo import Model, SampleRequest

_CHUNK = 64  # images in one call of the U-Net


def sample(model: Model, request: SampleRequest) -> Samples:
    """Return images [n, c, h, w] in [0, 1] with, for a conditional U-Net, the classes as captions.

    All random numbers are drawn on the CPU from the seed, so a seed gives the same images on every device, up to
    rounding. All else stays on the model's device, for which the loop never waits.

    Args:
        model: the model.
        request: its options are `sampler`, "ddim" (default) or "ddpm"; `steps` (default 50 for ddim, the schedule's own
            number for ddpm); `eta` from 0 (ddim, the default: no noise after the first) to 1 (as ddpm); `labels`, the
            classes as `zoo.data.labels.class_labels` takes them (default: all in turn); of a model that takes numbers
            or vectors (diffusers' class_embed_type "timestep" and "identity") these.

    Raises:
        ZooError: an option cannot be.
    """
    options = request.take()
    schedule, step_options = _schedule(model, **{name: options[name] for name in ("sampler", "steps", "eta")})
    names = files.class_names(model.entry)
    labels = wanted(model, options["labels"], request.n)  # [n], [n, d] or None
    if labels is not None and options["labels"] is None and request.seeds is not None:
        labels = labels[:1].expand_as(labels)  # as of one sample

    draws = request.draws()
    config = model.module.config
    (height, width), _ = image_shape(model)
    images = draws.normal((request.n, config.in_channels, height, width)).to(model.device)
    images = images * schedule.init_noise_sigma  # [n, c, h, w]
    conditions = None if labels is None else labels.to(model.device)
    for time in track(schedule.timesteps.tolist(), f"sampling {request.n}"):
        now = partial(_predicted, model, images, conditions, time)
        parts = spread(pieces(request.n, _CHUNK), now)
        output = torch.cat([part.to(model.device) for part in parts])  # [n, c or 2c, h, w]
        if isinstance(schedule, DDIMScheduler):
            output = output[:, : config.in_channels]
        images = schedule.step(output, time, images, generator=draws.generator, **step_options).prev_sample
    captions = class_captions(labels, names) if labels is None or not labels.is_floating_point() else None
    return Samples((images / 2 + 0.5).clamp(0, 1).cpu(), "image", captions)


def _schedule(
    model: Model, sampler: str, steps: Any, eta: float
) -> tuple[DDPMScheduler | DDIMScheduler, dict[str, float]]:
    """Return the scheduler with its timesteps set, and what its `step` takes besides."""
    config = files.scheduler_config(model.entry)
    if sampler == "ddpm" and eta:
        raise ZooError("eta belongs to the sampler 'ddim': leave it out, or use sampler='ddim'")
    schedule = (DDIMScheduler if sampler == "ddim" else DDPMScheduler).from_config(config)
    limit = schedule.config.num_train_timesteps
    if steps is None:
        steps = min(50, limit) if sampler == "ddim" else limit
    if not isinstance(steps, int) or isinstance(steps, bool) or not 1 <= steps <= limit:
        raise ZooError(f"expected a number of steps between 1 and {limit}, the schedule's own, got {steps!r}")
    schedule.set_timesteps(steps)
    return schedule, {"eta": eta} if sampler == "ddim" else {}


def _predicted(model: Model, images: Tensor, labels: Tensor | None, time: int, part: slice) -> Tensor:
    """Return what the U-Net says of some of the images, [n, c or 2c, h, w]."""
    times = torch.full((len(images[part]),), time, dtype=torch.int64, device=model.device)
    return predict(model, images[part], times, None if labels is None else labels[part])
