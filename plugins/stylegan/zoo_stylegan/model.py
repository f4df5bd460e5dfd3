"""Build the module of an entry, read its weights, scale its adapters, and write it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from zoo import CheckpointError, ZooError, lora_update
from zoo.storage.model_folder import write_model
from zoo.torch_state.modes import seeded

from . import config as configs
from . import foreign
from .networks import Discriminator, StyleGAN2

if TYPE_CHECKING:
    from torch import Tensor

    from zoo import Entry, LoRA, Model, Update
    from zoo.weights.lazy_weight import LazyWeight


def construct(entry: Entry) -> StyleGAN2:
    """Return the module that the entry's files or configuration describe, in evaluation mode."""
    path = foreign.find(entry.folder)
    described = configs.with_classes(foreign.read(path).config if path else entry.config, entry)
    try:
        return StyleGAN2(configs.complete(described, str(path or entry.name))).eval()
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"the configuration of {entry.name} makes no StyleGAN2: {error}") from error


def checkpoint(entry: Entry) -> Iterator[tuple[str, Tensor]]:
    """Yield the checkpoint's tensors under the module's names.

    Raises:
        CheckpointError: there are no files; it says which are wanted.
    """
    if entry.folder is None:
        raise CheckpointError(
            f"{entry.name!r} has no Hub repository: get the network's .pkl (NVlabs) or .pt (rosinality) yourself, put "
            "it in a folder of its own, and give weights= that folder"
        )
    path = foreign.find(entry.folder)
    yield from _for_classes(entry, _own(entry) if path is None else foreign.read(path).tensors.items())
    if path is not None:
        yield "path_length", torch.zeros([])
        foreign.forget()


def _for_classes(entry: Entry, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors; embeddings of classes scaled so that their gain, 1 / √classes, is another without effect."""
    count = 0 if entry.head is None else entry.head.count
    for name, tensor in tensors:
        scaled = count and name.endswith("mapping.embed.weight")  # [w, classes]
        yield name, tensor.float() * math.sqrt(count / tensor.shape[1]) if scaled else tensor


def _own(entry: Entry) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of zoo's own files; also of a generator alone under its published names."""
    import zoo

    started = False
    for name, tensor in zoo.checkpoint.tensors(entry):
        started |= name == "path_length"
        if not name.endswith("resample_filter"):
            yield (foreign.G + name if name.startswith(("mapping.", "synthesis.")) else name), tensor
    if not started:
        yield "path_length", torch.zeros([])


def inject_adapter(name: str, weight: LazyWeight, config: LoRA) -> Update | None:
    """Return LoRA of the weight that takes effect, gain · W: an update of W of scale / gain; None if that is 1."""
    factor = gain(name, weight.shape)
    if config.kind != "lora" or factor is None:
        return None
    return lora_update(name, weight, config, gain=factor)


def gain(name: str, shape: torch.Size) -> float | None:
    """Return what a weight is multiplied by when it is used; None if it is no layer's weight.

    For demodulated convolutions, which normalise themselves, the gain of the same spread: 1 / √(inputs · kernel²).
    """
    if not name.endswith(".weight") or len(shape) not in (2, 4):
        return None
    multiplier = 0.01 if re.search(r"mapping\.fc\d+\.weight$", name) else 1.0
    return multiplier / math.sqrt(math.prod(shape[1:]))


def discriminator(model: Model) -> Discriminator:
    """Return the model's discriminator.

    Raises:
        ZooError: it has none; the message says what to do.
    """
    found = model.module.discriminator
    if found is None:
        raise ZooError(
            f"{model.entry.name} has a generator alone, and tuning needs a discriminator: load a checkpoint that holds "
            "one, or start one from scratch with zoo_stylegan.add_discriminator(model)"
        )
    return found


def add_discriminator(model: Model, seed: int = 0) -> None:
    """Give the model a discriminator with fresh weights, in full precision, all of which train beside the adapters.

    Call it after loading and after `add_adapter`, which would freeze it. It knows nothing yet: expect several hundred
    steps before the generator learns from it. It is no part of the adapter, so `save_adapter` leaves it out; tuning's
    own checkpoints and `model.save` hold it.
    """
    if model.module.discriminator is not None:
        raise ZooError(f"{model.entry.name} has a discriminator already: tune with it")
    with seeded(seed):
        made = model.module.new_discriminator()
    model.module.config = configs.complete({**model.module.config, "discriminator": True})
    model.module.discriminator = made.to(model.device, model.dtype)
    model.module.discriminator.requires_grad_(True).train(model.module.training)
    model.train_beside("discriminator")


def save(model: Model, folder: Path, state_dict: dict[str, Tensor]) -> bool:
    """Write config.json and model.safetensors."""
    write_model(Path(folder), {"_class_name": configs.CLASS_NAME, **model.module.config}, state_dict)
    return True
