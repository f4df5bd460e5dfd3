"""A model in its library's own terms: weights under the library's names, and the folder that it loads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from zoo import files, host
from zoo.checkpoint import check_alone
from zoo.errors import OutputError
from zoo.modes import evaluating
from zoo.weights.manage import grouped_sites
from zoo.weights.store import Store

if TYPE_CHECKING:
    from zoo.model import Model


@torch.no_grad()
def state_dict(module: nn.Module) -> dict[str, Tensor]:
    """See ``zoo.Model.state_dict``."""
    dense: dict[str, Tensor] = {}
    with evaluating(module):
        for held, sites in grouped_sites(module):
            weight = held.dense() if isinstance(held, Store) else held
            for site in sites:
                dense[site.name] = weight.detach()
    raw = module.state_dict()
    buffers = {name for name, _ in module.named_buffers(remove_duplicate=False)}
    return dense | {name: tensor for name, tensor in raw.items() if name in buffers}


def save(model: Model, folder: Path) -> Path:
    """See ``zoo.Model.save``."""
    if model.device.type == "meta":
        raise OutputError("a model on 'meta' has no weights to save: load it on a device")
    with files.staged_folder(folder) as staged:
        state = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
        if model.entry.plugin is None or not host.save(model, staged, state):
            if model.entry.config:
                files.write_json(staged / "config.json", model.entry.config)
            files.save_tensors(staged / "model.safetensors", state, {"format": "pt"})
        check_alone(folder, staged)
    return folder
