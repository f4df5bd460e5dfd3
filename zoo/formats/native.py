"""Export a model in its library's native format: state dict names and save folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from zoo.errors import OutputError
from zoo.formats import packed
from zoo.plugin import hooks
from zoo.storage import atomic
from zoo.storage.checkpoint import check_alone
from zoo.storage.model_folder import write_digests
from zoo.storage.sums import SUMS
from zoo.storage.to_host import to_host
from zoo.torch_state.modes import evaluating
from zoo.weights.walk import plain_names, tied_groups

if TYPE_CHECKING:
    from zoo.adapters.adapter_set import AdapterSet
    from zoo.plugin.contract import LoadedModel


@torch.no_grad()
def state_dict(module: nn.Module) -> dict[str, Tensor]:
    """Return the state dict under the library's names, dense; see `zoo.Model.state_dict`."""
    dense: dict[str, Tensor] = {}
    with evaluating(module):
        for group in tied_groups(module):
            dense |= dict.fromkeys((ref.name for ref in group.refs), group.tensor().detach())
        state = module.state_dict()
        buffers = {name for name, _ in module.named_buffers(remove_duplicate=False)}
        plain = plain_names(module)
    return dense | {plain(name): tensor for name, tensor in state.items() if name in buffers}


def save(model: LoadedModel, folder: Path, digests: bool = False, as_packed: AdapterSet | None = None) -> Path:
    """Write the model into a folder; see `zoo.Model.save`.

    Args:
        model: The model.
        folder: Where to.
        digests: Whether to write SHA256SUMS too.
        as_packed: The model's adapters, to write its weights as they are in memory; None for dense ones.

    Raises:
        OutputError: the model has no values, or the folder cannot be written or has other weights.
    """
    if model.device.type == "meta":
        raise OutputError("a model on 'meta' has no weights to save: load it on a device")
    with atomic.staged_folder(folder) as staged:
        if as_packed is not None:
            packed.write(model, as_packed, staged)
        else:
            _write_dense(model, staged)
        if digests or (folder / SUMS).is_file():  # those of other weights would make these look damaged
            write_digests(staged)
        check_alone(folder, staged)
    return folder


def _write_dense(model: LoadedModel, staged: Path) -> None:
    state = to_host(state_dict(model.module))
    if model.entry.plugin is None or not hooks.save(model, staged, state):
        if model.entry.config:
            atomic.write_json(staged / "config.json", model.entry.config)
        atomic.save_tensors(staged / "model.safetensors", state, {"format": "pt"})
