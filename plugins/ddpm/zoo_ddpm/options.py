"""What can be chosen when images are drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo import Option

from . import files

if TYPE_CHECKING:
    from zoo import Entry

STEPS = 50  # of DDIM; DDPM takes as many as its schedule has
SCHEDULE = 1000  # steps of training, where no file says


def sample_kinds(entry: Entry) -> list[str]:
    """Return that samples are pictures."""
    return ["image"]


def sample_options(entry: Entry) -> list[Option]:
    """Return the sampler and its steps, and the classes of a conditional U-Net."""
    config = files.unet_config(entry)
    most = int(files.scheduler_config(entry).get("num_train_timesteps") or SCHEDULE)
    names = files.class_names(entry)
    conditional = bool(config.get("num_class_embeds") or config.get("class_embed_type"))
    labels = Option(
        "labels",
        None,
        "the classes to draw, repeated to n" if conditional else "the model has no classes",
        type="classes",
        choices=tuple(names),
        each=True,
    )
    return [
        Option("sampler", "ddim", "ddim in few steps, or ddpm in all of them", choices=("ddim", "ddpm")),
        Option("steps", None, f"denoising steps: {min(STEPS, most)} for ddim, {most} for ddpm", "int", 1, most),
        Option("eta", 0.0, "noise added in each step: 0 none, 1 as much as ddpm", low=0, high=1),
        labels,
    ]
