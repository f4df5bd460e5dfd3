"""PEFT's `PeftModel` over zoo's `Model`: each method is the few lines that a user of zoo would write."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from configs import fill_at_random, starts_at_random, to_zoo
from layers import Missing, TunerLayer, peft_name, stores, view, wrapped_layers
from peft import PeftConfig
from state import State, Tuner
from torch import Tensor, nn

import zoo

PREFIXES = {"LORA": "lora_", "LOHA": "hada_", "LOKR": "lokr_", "IA3": "ia3_", "TRAINABLE_TOKENS": "trainable_tokens_"}


def read_config(folder: str | Path) -> Any:
    """Return PEFT's configuration of a saved adapter, also of one that PEFT itself could not load."""
    fields = json.loads((Path(folder) / "adapter_config.json").read_text())
    fields["peft_type"] = fields["peft_type"].removeprefix("ZOO_")
    return PeftConfig.from_peft_type(**fields)


def _asked_by_torch() -> bool:
    """Return whether torch.distributed asks, which works on the modules themselves."""
    callers = [sys._getframe(depth).f_globals.get("__name__", "") for depth in (2, 3)]
    return any(caller.startswith("torch.distributed") for caller in callers)


class PeftModel(nn.Module):
    """PEFT's `PeftModel`."""

    def __init__(
        self,
        module: nn.Module,
        config: Any,
        adapter_name: str = "default",
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        if low_cpu_mem_usage:
            raise Missing("zoo has no adapter without values on a base that has them")
        self._start(zoo.wrap(module), config)
        self._add(adapter_name, config, autocast_adapter_dtype)

    def _start(self, model: zoo.Model, config: Any) -> None:
        state = State(model)
        self.__dict__.update(state=state, peft_config={}, prefix=PREFIXES.get(config.peft_type.value, "?"))
        self.base_model = Tuner(state, self.peft_config)

    def _add(self, name: str, config: Any, autocast: bool) -> None:
        model = self.state.model
        model.add_adapter(name, to_zoo(config, model.module), active=not self.peft_config)
        if starts_at_random(config):
            fill_at_random(model.module, name)
        self._added(name, config, autocast)

    def _added(self, name: str, config: Any, autocast: bool) -> None:
        if not autocast:
            self.state.cast(name)
        self.peft_config[name] = config

    @classmethod
    def from_pretrained(
        cls,
        module: nn.Module,
        folder: str | Path,
        adapter_name: str = "default",
        is_trainable: bool = False,
        config: Any = None,
        autocast_adapter_dtype: bool = True,
        ignore_mismatched_sizes: bool = False,
        low_cpu_mem_usage: bool = False,
        **options: Any,
    ) -> PeftModel:
        config = read_config(folder) if config is None else config
        self = cls.__new__(cls)
        nn.Module.__init__(self)
        self._start(zoo.wrap(module), config)
        options = {"is_trainable": is_trainable, "ignore_mismatched_sizes": ignore_mismatched_sizes, "config": config}
        self.load_adapter(folder, adapter_name, autocast_adapter_dtype=autocast_adapter_dtype, **options)
        return self.eval()

    def load_adapter(
        self,
        folder: str | Path,
        adapter_name: str,
        is_trainable: bool = False,
        autocast_adapter_dtype: bool = True,
        ignore_mismatched_sizes: bool = False,
        config: Any = None,
        **options: Any,
    ) -> Any:
        if ignore_mismatched_sizes:
            raise Missing("zoo has no loading of a part of an adapter")
        config = read_config(folder) if config is None else config
        config.inference_mode = not is_trainable
        self.state.model.add_adapter(adapter_name, str(folder), active=not self.peft_config)
        self._added(adapter_name, config, autocast_adapter_dtype)
        self.state.train([adapter_name], is_trainable)
        return SimpleNamespace(missing_keys=[], unexpected_keys=[])

    # The module

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "state" not in self.__dict__:
            return super().__getattr__(name)
        if name in self._modules:
            return self._modules[name]
        return getattr(self.base_model, name)

    def forward(self, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any) -> Any:
        if adapter_names is None or self.state.disabled:
            return self.state.model(*args, **kwargs)
        choice = [None if name == "__base__" else name for name in adapter_names]
        return self.state.model(*args, adapters=choice, **kwargs)

    def named_parameters(self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True) -> Iterator[Any]:
        rename = self._rename()
        for name, parameter in super().named_parameters(prefix, recurse, remove_duplicate):
            yield rename(name), parameter

    def get_parameter(self, name: str) -> nn.Parameter:
        return dict(self.named_parameters())[name]

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        rename = self._rename()
        return {rename(name): value for name, value in super().state_dict(*args, **kwargs).items()}

    def _rename(self) -> Callable[[str], str]:
        start, module = "base_model.model.", self.state.module
        layers = {start + path: name for path, name in wrapped_layers(module).items()}
        tables = {start + path for path, layer in module.named_modules() if isinstance(layer, nn.Embedding)}
        return lambda name: peft_name(name, layers, tables)

    def modules(self) -> Iterator[Any]:
        return (layer for _, layer in (super() if _asked_by_torch() else self).named_modules())

    def named_modules(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, Any]]:
        if args or kwargs or _asked_by_torch():
            return super().named_modules(*args, **kwargs)
        return self._views(super().named_modules(*args, **kwargs))

    def _views(self, named: Iterator[tuple[str, nn.Module]]) -> Iterator[tuple[str, Any]]:
        for path, layer in named:
            inner = path.removeprefix("base_model.model").removeprefix(".")
            yield path, view(self.state, inner) if stores(layer) else layer

    def get_submodule(self, path: str) -> Any:
        inner = path.removeprefix("base_model.model").removeprefix(".")
        return view(self.state, inner) if inner != path else super().get_submodule(path)

    @property
    def targeted_module_names(self) -> list[str]:
        named = self.state.module.named_modules()
        return [path for path, layer in named if isinstance(view(self.state, path), TunerLayer)]

    def get_base_model(self) -> nn.Module:
        return self.state.module

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in self.parameters()]
        return sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)

    # Adapters

    @property
    def active_adapters(self) -> list[str]:
        return self.base_model.active_adapters

    @property
    def active_adapter(self) -> str:
        (name,) = self.active_adapters
        return name

    @property
    def active_peft_config(self) -> Any:
        return self.peft_config[self.active_adapter]

    @property
    def has_active_enabled_adapter(self) -> bool:
        return bool(self.state.model.active)

    @property
    def modules_to_save(self) -> set[str] | None:
        named = [config.modules_to_save or () for config in self.state.model.adapters.values()]
        return {name for names in named for name in names} or None

    def add_adapter(self, adapter_name: str, peft_config: Any, autocast_adapter_dtype: bool = True, **_: Any) -> None:
        self._add(adapter_name, peft_config, autocast_adapter_dtype)

    def set_adapter(self, adapter_name: str, inference_mode: bool = False) -> None:
        self.base_model.set_adapter(adapter_name, inference_mode)

    def delete_adapter(self, adapter_name: str) -> None:
        self.state.model.remove_adapter(adapter_name)
        del self.peft_config[adapter_name]
        if not self.active_adapters and self.peft_config:  # PEFT activates the next one
            self.state.model.activate(next(iter(self.peft_config)))

    def set_requires_grad(self, adapter_names: str | list[str], requires_grad: bool = True) -> None:
        self.state.train([adapter_names] if isinstance(adapter_names, str) else adapter_names, requires_grad)

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        if self.state.disabled:
            yield
            return
        self.disable_adapter_layers()
        try:
            yield
        finally:
            self.enable_adapter_layers()

    def disable_adapter_layers(self) -> None:
        state = self.state
        before = state.active
        if state.merged:
            state.model.unmerge()
        state.model.deactivate()
        state.disabled, state.before = True, before

    def enable_adapter_layers(self) -> None:
        self.state.disabled = False
        self.state.model.activate(*self.state.before)

    def add_weighted_adapter(
        self,
        adapters: list[str],
        weights: list[float],
        adapter_name: str,
        combination_type: str = "svd",
        density: float | None = None,
        **_: Any,
    ) -> None:
        shares = dict(zip(adapters, weights, strict=True))
        prunes = not combination_type.startswith(("svd", "cat", "linear"))
        self.state.model.combine_adapters(adapter_name, shares, combination_type, density=density if prunes else None)
        self.peft_config[adapter_name] = self.peft_config[adapters[0]]

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        self.state.model.merge(*(adapter_names or ()))

    def unmerge_adapter(self) -> None:
        self.state.model.unmerge()

    def merge_and_unload(
        self, progressbar: bool = False, safe_merge: bool = False, adapter_names: list[str] | None = None
    ) -> nn.Module:
        names = [name for name in adapter_names or self.active_adapters if name not in self.state.merged]
        if names:
            self.state.model.merge(*names)
        return self.state.model.unload()

    def unload(self) -> nn.Module:
        return self.state.model.unload()

    # Files

    def save_pretrained(
        self,
        folder: str | Path,
        safe_serialization: bool = True,
        selected_adapters: list[str] | None = None,
        save_embedding_layers: Any = "auto",
        **_: Any,
    ) -> None:
        if not safe_serialization:
            raise Missing("zoo writes no pickles")
        if save_embedding_layers is True:
            raise Missing("zoo does not write the base's embeddings beside an adapter")
        for name in selected_adapters or self.peft_config:
            self.state.model.save_adapter(Path(folder) if name == "default" else Path(folder) / name, name)

    def push_to_hub(self, *args: Any, **kwargs: Any) -> None:
        raise Missing("no Hub here")
