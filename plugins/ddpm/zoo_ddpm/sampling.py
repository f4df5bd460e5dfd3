"""Drawing images: ancestral (DDPM, arXiv 2006.11239, algorithm 2) or implicit (DDIM, arXiv 2010.02502)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler

from zoo import Samples, ZooError

from . import files
from .model import classes, predict

if TYPE_CHECKING:
    from torch import Tensor

    from zoo import Model, SampleRequest

_CHUNK = 64  # images in one call of the U-Net


def sample(model: Model, request: SampleRequest) -> Samples:
    """Images `[n, c, h, w]` in [0, 1] with, for a conditional U-Net, the classes as captions.

    Options: `sampler` "ddim" (default) or "ddpm"; `steps` (default 50 for ddim, the schedule's own number for ddpm);
    `eta` from 0 (ddim, the default: no noise after the first) to 1 (as ddpm); `labels`: a class, a list of classes, or
    a string of one-letter classes, repeated to `n` (default: all classes in turn). All random numbers are drawn on the
    CPU from the seed, so a seed gives the same images on every device, up to rounding.
    """
    options = request.take(sampler="ddim", steps=None, eta=0.0, labels=None)
    schedule, step_options = _schedule(model, **{name: options[name] for name in ("sampler", "steps", "eta")})
    labels = _labels(model, options["labels"], request.n)

    generator = request.generator()
    config = model.module.config
    size = config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    images = (
        torch.randn((request.n, config.in_channels, height, width), generator=generator) * schedule.init_noise_sigma
    )
    for time in _progress(schedule.timesteps.tolist(), f"sampling {request.n}"):
        output = torch.cat(
            [
                predict(model, images[i : i + _CHUNK], _same(time, images[i : i + _CHUNK]), _part(labels, i))
                for i in range(0, request.n, _CHUNK)
            ]
        ).cpu()
        if isinstance(schedule, DDIMScheduler):
            output = output[:, : config.in_channels]
        images = schedule.step(output, time, images, generator=generator, **step_options).prev_sample
    return Samples((images / 2 + 0.5).clamp(0, 1), "image", _captions(model, labels))


def _schedule(
    model: Model, sampler: str, steps: Any, eta: float
) -> tuple[DDPMScheduler | DDIMScheduler, dict[str, float]]:
    """The scheduler with its timesteps set, and what its `step` takes besides."""
    config = files.scheduler_config(model.entry)
    if sampler not in ("ddim", "ddpm"):
        raise ZooError(f"The sampler is 'ddim' or 'ddpm'; got {sampler!r}.")
    if not 0 <= eta <= 1:
        raise ZooError(f"eta lies between 0 (no added noise) and 1 (as much as ddpm); got {eta}.")
    if sampler == "ddpm" and eta:
        raise ZooError("eta belongs to the sampler 'ddim'; leave it out, or use sampler='ddim'.")
    schedule = (DDIMScheduler if sampler == "ddim" else DDPMScheduler).from_config(config)
    limit = schedule.config.num_train_timesteps
    if steps is None:
        steps = min(50, limit) if sampler == "ddim" else limit
    if not isinstance(steps, int) or isinstance(steps, bool) or not 1 <= steps <= limit:
        raise ZooError(f"The number of steps lies between 1 and {limit}, the schedule's own; got {steps!r}.")
    schedule.set_timesteps(steps)
    return schedule, {"eta": eta} if sampler == "ddim" else {}


def _labels(model: Model, wanted: Any, n: int) -> Tensor | None:
    """One class per image `[n]`, or None for an unconditional U-Net."""
    count = classes(model)
    if not count:
        if wanted is not None:
            raise ZooError(f"{model.entry.name} knows no classes; leave out the option labels.")
        return None
    if wanted is None:
        chosen = list(range(count))
    elif isinstance(wanted, str):
        chosen = _named(model, wanted, count)
    elif isinstance(wanted, torch.Tensor):
        chosen = wanted.flatten().tolist()
    else:
        chosen = list(wanted) if isinstance(wanted, Iterable) else [wanted]
    if not chosen or not all(isinstance(label, int) and 0 <= label < count for label in chosen):
        raise ZooError(f"labels are classes from 0 to {count - 1}; got {wanted!r}.")
    return torch.tensor([chosen[i % len(chosen)] for i in range(n)])


def _named(model: Model, wanted: str, count: int) -> list[int]:
    """Classes written as text: "HELLO" by one-letter names, else numbers with commas."""
    names = files.class_names(model.entry)
    if wanted and all(letter in names for letter in wanted):
        return [names.index(letter) for letter in wanted]
    parts = [part.strip() for part in wanted.split(",")]
    if all(part in names or part.isdecimal() for part in parts):
        return [names.index(part) if part in names else int(part) for part in parts]
    known = f"names ({', '.join(names)}) or " if names else ""
    raise ZooError(f"labels are {known}numbers from 0 to {count - 1}, with commas between them; got {wanted!r}.")


def _captions(model: Model, labels: Tensor | None) -> list[str] | None:
    if labels is None:
        return None
    names = files.class_names(model.entry)
    return [names[label] if label < len(names) else str(label) for label in labels.tolist()]


def _same(time: int, images: Tensor) -> Tensor:
    return torch.full((len(images),), time, dtype=torch.int64)


def _part(labels: Tensor | None, start: int) -> Tensor | None:
    return None if labels is None else labels[start : start + _CHUNK]


def _progress(times: Sequence[int], title: str) -> Iterable[int]:
    """`times`, with a bar on stderr where that is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(times, title, console=console, transient=True, disable=not console.is_terminal)
