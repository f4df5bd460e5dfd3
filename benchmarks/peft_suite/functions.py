"""PEFT's functions over zoo's `Model`; with `PeftModel`, all that PEFT's tests call."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

from peft_model import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel

INJECTED: WeakKeyDictionary[nn.Module, PeftModel] = WeakKeyDictionary()  # by the module


def get_peft_model(module: nn.Module, config: Any, adapter_name: str = "default", **options: Any) -> PeftModel:
    options.pop("mixed", None)
    return PeftModel(module, config, adapter_name, **options)


def inject_adapter_in_model(config: Any, module: nn.Module, adapter_name: str = "default", **options: Any) -> nn.Module:
    INJECTED[module] = PeftModel(module, config, adapter_name, **options)
    return module


def get_peft_model_state_dict(model: nn.Module, adapter_name: str = "default", **_: Any) -> dict[str, Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(model, FullyShardedDataParallel):
            with FullyShardedDataParallel.summon_full_params(model):
                _peft_model(model.module).state.model.save_adapter(folder, adapter_name)
        else:
            _peft_model(model).state.model.save_adapter(folder, adapter_name)
        return load_file(Path(folder) / "adapter_model.safetensors")


def set_peft_model_state_dict(
    model: nn.Module, tensors: Mapping[str, Tensor], adapter_name: str = "default", **_: Any
) -> Any:
    peft_model = _peft_model(model)
    with tempfile.TemporaryDirectory() as folder:
        peft_model.state.model.save_adapter(folder, adapter_name)
        (Path(folder) / "zoo.json").unlink()  # has the digest of the other tensors
        save_file(dict(tensors), Path(folder) / "adapter_model.safetensors", {"format": "pt"})
        peft_model.state.model.swap_adapter(adapter_name, folder)
    return SimpleNamespace(missing_keys=[], unexpected_keys=[])


def get_base_model_state_dict(model: PeftModel) -> dict[str, Tensor]:
    with model.disable_adapter():
        return {name: value.detach().clone() for name, value in model.state.model.state_dict().items()}


def set_base_model_state_dict(model: PeftModel, tensors: Mapping[str, Tensor], strict: bool = True) -> Any:
    return model.state.module.load_state_dict(tensors, strict=strict)


def _peft_model(model: nn.Module) -> PeftModel:
    return model if isinstance(model, PeftModel) else INJECTED[model]
