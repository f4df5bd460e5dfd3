"""Building a U-Net, reading its weights under today's names, predicting the noise with it, and saving it.

Notation: x0 a clean image in [-1, 1], eps Gaussian noise, ᾱ the schedule's cumulative product at timestep t,
x_t = √ᾱ x0 + √(1-ᾱ) eps (arXiv 2006.11239, equation 4). Shapes: n images of c channels, h × w.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from diffusers import DDPMScheduler, UNet2DModel

from zoo import CheckpointError, DataError

from . import files

if TYPE_CHECKING:
    from torch import Tensor

    from zoo import Entry, Model

# Files written before diffusers 0.15 call the attention's projections by other names.
_OLD_ATTENTION = re.compile(r"(.*\battentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)")
_NEW_NAME = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def construct(entry: Entry) -> UNet2DModel:
    """The module that the entry's configuration describes, in evaluation mode."""
    config = {key: value for key, value in files.unet_config(entry).items() if key != files.CLASS_NAMES}
    try:
        return UNet2DModel.from_config(config).eval()
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"The configuration of {entry.name} does not make a UNet2DModel: {error}") from error


def checkpoint(entry: Entry) -> Iterator[tuple[str, Tensor]]:
    """The checkpoint's tensors under the module's names."""
    import zoo

    for name, tensor in zoo.checkpoint.tensors(dataclasses.replace(entry, folder=files.unet_folder(entry))):
        yield current_name(name), tensor


def current_name(name: str) -> str:
    """The name that today's diffusers gives to a checkpoint's parameter."""
    old = _OLD_ATTENTION.fullmatch(name)
    return f"{old[1]}.{_NEW_NAME[old[2]]}.{old[3]}" if old else name


def scheduler(entry: Entry) -> DDPMScheduler:
    """The checkpoint's noise schedule (its file may be another scheduler's: they share these settings)."""
    return DDPMScheduler.from_config(files.scheduler_config(entry))


def classes(model: Model) -> int:
    """How many classes the U-Net is conditioned on; 0 if none."""
    return model.module.config.num_class_embeds or 0


def check_labels(model: Model, labels: Tensor | None) -> Tensor | None:
    """The labels to train with: None for an unconditional U-Net. Raises `DataError` where they do not fit."""
    count = classes(model)
    if not count:
        return None
    if labels is None:
        raise DataError(
            f"{model.entry.name} draws {count} classes, so its data need labels: give a folder with one subfolder per "
            "class, or (images, labels)."
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < count:
        found = f"{int(labels.min())} to {int(labels.max())}"
        raise DataError(f"{model.entry.name} has the classes 0 to {count - 1}; the data have labels from {found}.")
    return labels


def predict(model: Model, noisy: Tensor, times: Tensor, labels: Tensor | None) -> Tensor:
    """What the U-Net says about x_t `[n, c, h, w]` at `times` `[n]`: float32 `[n, c or 2c, h, w]`."""
    options = {} if labels is None else {"class_labels": labels.to(model.device)}
    output = model.module(noisy.to(model.device, model.dtype), times.to(model.device), **options).sample
    return output.float()


def target(schedule: DDPMScheduler, images: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """What the U-Net should have said, by the schedule's prediction type. Raises `CheckpointError` for unknown ones."""
    kind = schedule.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "sample":
        return images
    if kind == "v_prediction":  # arXiv 2202.00512, appendix D: v = √ᾱ eps - √(1-ᾱ) x0
        return schedule.get_velocity(images, noise, times)
    raise CheckpointError(f"A schedule predicts epsilon, sample or v_prediction; got {kind!r}.")


def as_noise(schedule: DDPMScheduler, output: Tensor, noisy: Tensor, times: Tensor) -> Tensor:
    """The noise that a prediction of any type implies."""
    kind = schedule.config.prediction_type
    if kind == "epsilon":
        return output
    kept = schedule.alphas_cumprod.to(output.device)[times.to(output.device)].view(-1, 1, 1, 1)
    if kind == "sample":
        return (noisy - kept.sqrt() * output) / (1 - kept).sqrt()
    return kept.sqrt() * output + (1 - kept).sqrt() * noisy


def save(model: Model, folder: Path, state_dict: dict[str, Tensor]) -> bool:
    """Write config.json, scheduler_config.json and the weights as diffusers' `save_pretrained` lays them out."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model.module.save_config(folder)
    names = files.class_names(model.entry)
    if names:
        path = folder / "config.json"
        config = {**json.loads(path.read_text(encoding="utf-8")), files.CLASS_NAMES: names}
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    scheduler(model.entry).save_pretrained(folder)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}
    save_file(plain, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    return True
