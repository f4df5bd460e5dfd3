"""Checkpoints of `transformers.Trainer` on a managed module: the adapters only, as for PEFT's models.

The Trainer saves through the module's own `save_pretrained` and comes back through `load_state_dict(strict=False)` with
what it finds in model.safetensors. So a checkpoint has the adapters in PEFT's format, for `lora=`, and in
model.safetensors what trains under the module's own names, which restores it bit for bit.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from zoo.adapters.adapter_set import AdapterSet
from zoo.formats import saved
from zoo.storage import atomic
from zoo.weights import parameters
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.walk import unwrapped

WEIGHTS = "model.safetensors"


def save_pretrained(adapters: AdapterSet, *args: Any, **kwargs: Any) -> Any:
    """Run the module's own `save_pretrained` on dense weights; for a Trainer, write the adapters instead.

    Adapters that are merged are in the dense weights, and those are then written for a Trainer too.
    """
    folder = args[0] if args else kwargs.get("save_directory")
    trains = adapters.configs and not adapters.merged and kwargs.get("state_dict") is None
    if trains and isinstance(folder, str | os.PathLike) and _is_trainer(sys._getframe(1).f_locals.get("self")):
        return save_checkpoint(adapters, Path(folder)) if kwargs.get("is_main_process", True) else None
    return parameters.save_pretrained(unwrapped(adapters.module), *args, **kwargs)


def save_checkpoint(adapters: AdapterSet, folder: Path) -> None:
    """Write the adapters, and the tensors with which `module.load_state_dict` restores them, into a folder.

    Raises:
        AdapterError: as `zoo.Model.save_adapter`.
        OutputError: as `zoo.Model.save_adapter`.
    """
    if len(adapters.configs) == 1:
        saved.save(adapters, folder, next(iter(adapters.configs)))
    else:
        saved.save_all(adapters, folder)
    atomic.save_tensors(folder / WEIGHTS, trained_tensors(unwrapped(adapters.module)), {"format": "pt"})


def trained_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return what training changes, under the names in `module.state_dict()`: adapters, active or not, and buffers."""
    state = module.state_dict()
    stores = [path for path, layer in module.named_modules() if isinstance(layer, ManagedWeight)]
    inside = tuple(f"{path}.updates." for path in stores)
    buffers = {name for name, _ in module.named_buffers(remove_duplicate=False)}
    return {name: tensor.cpu() for name, tensor in state.items() if name.startswith(inside) or name in buffers}


def _is_trainer(caller: Any) -> bool:
    """Return whether the object whose method saves is a Trainer; the module itself is not told who saves it."""
    library = sys.modules.get("transformers.trainer")
    return library is not None and isinstance(caller, library.Trainer)
