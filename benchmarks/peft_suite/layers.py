"""Layers as PEFT's tests look at them: `layer.lora_A["default"].weight`, `layer.merged_adapters`.

zoo has no layers of its own: a view looks up at each use what the library's layer and its managed weights are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from zoo.methods.full import FullUpdate
from zoo.methods.rows import RowsUpdate
from zoo.weights.lazy_weight import LazyWeight
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.update import LowRankUpdate

STORE = "_store"
KEPT = ("modules_to_save", "trainable_tokens_delta", "trainable_tokens_original")  # empty when the last adapter is gone
STORED = re.compile(r"(?:(?P<layer>.+)\.)?(?P<attribute>\w+)_store\.(?P<rest>.+)")


class Missing(NotImplementedError):
    """zoo has no such operation."""


def stores(layer: nn.Module) -> dict[str, ManagedWeight]:
    """Return attribute → managed weight of one layer, those too that it shares with another layer."""
    lazy = {name: value for name, value in layer.__dict__.items() if isinstance(value, LazyWeight)}
    return {name: value._zoo_store for name, value in lazy.items()}


def peft_name(name: str, layers: dict[str, str], tables: set[str]) -> str:
    """Return PEFT's name of a parameter.

    Args:
        name: its name in zoo's module.
        layers: layer's path → what PEFT calls the layer below its wrapper.
        tables: paths of the embeddings.
    """
    match = STORED.fullmatch(name)
    if match is None:
        layer, _, attribute = name.rpartition(".")
        return f"{layer}.{layers[layer]}.{attribute}" if layer in layers else name
    layer, attribute, rest = match["layer"] or "", match["attribute"], match["rest"]
    if not rest.startswith("updates."):
        return f"{layer}.{layers.get(layer, 'base_layer')}.{attribute}" + rest.removeprefix("base")
    _, adapter, factor = rest.split(".", 2)
    if factor in ("A", "B"):
        if layer in tables:
            return f"{layer}.lora_embedding_{factor}.{adapter}"
        return f"{layer}.lora_{factor}.{adapter}.{attribute.replace('in_proj_weight', 'weight')}"
    if factor == "magnitude":
        return f"{layer}.lora_magnitude_vector.{adapter}.weight"
    if factor == "rows":
        return f"{layer}.token_adapter.trainable_tokens_delta.{adapter}"
    if factor == "weight":
        return f"{layer}.modules_to_save.{adapter}.{attribute}"
    return f"{layer}.{factor}.{adapter}"


def wrapped_layers(module: nn.Module) -> dict[str, str]:
    """Return layer's path → PEFT's name of the layer below the wrapper, for the layers with adapters."""
    found = {}
    for path, layer in module.named_modules():
        updates = [update for managed in stores(layer).values() for update in managed.updates.values()]
        if updates:
            whole = all(isinstance(update, FullUpdate) for update in updates)
            found[path] = "original_module" if whole else "base_layer"
    return found


class Factor(nn.Module):
    """One factor, which PEFT keeps in a layer of its own."""

    bias = None

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight


class Whole:
    """A module's copy for one adapter: its trained parameters, and its buffers."""

    def __init__(self, layer: nn.Module) -> None:
        self._layer = layer
        self._values: dict[str, nn.Parameter] = {}

    def __getattr__(self, name: str) -> Any:
        return self._values[name] if name in self._values else getattr(self._layer, name)

    @property
    def requires_grad(self) -> bool:
        (trains,) = {value.requires_grad for value in self._values.values()}
        return trains


class Container:
    """Adapter's name → its part of a layer, as it is at each use."""

    def __init__(self, layer: nn.Module, key: str) -> None:
        self._layer, self._key = layer, key

    def _now(self) -> dict[str, Any]:
        return contents(self._layer).get(self._key, {})

    def keys(self) -> Any:
        return self._now().keys()

    def values(self) -> Any:
        return self._now().values()

    def items(self) -> Any:
        return self._now().items()

    def __getitem__(self, name: str) -> Any:
        return self._now()[name]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._now()[name]

    def __contains__(self, name: object) -> bool:
        return name in self._now()

    def __iter__(self) -> Iterator[str]:
        return iter(self._now())

    def __len__(self) -> int:
        return len(self._now())


def contents(layer: nn.Module) -> dict[str, dict[str, Any]]:
    """Return PEFT's name of a container → adapter's name → its part of the layer."""
    found: dict[str, dict[str, Any]] = {}
    for attribute, managed in stores(layer).items():
        for adapter, update in managed.updates.items():
            for name, value in update.named_parameters():
                if isinstance(update, FullUpdate):
                    whole = found.setdefault("modules_to_save", {}).setdefault(adapter, Whole(layer))
                    whole._values[attribute] = value
                elif isinstance(update, RowsUpdate):
                    found.setdefault("trainable_tokens_delta", {})[adapter] = value
                    found.setdefault("trainable_tokens_original", {})[adapter] = managed
                elif isinstance(update, LowRankUpdate) and isinstance(layer, nn.Embedding) and name in ("A", "B"):
                    found.setdefault(f"lora_embedding_{name}", {})[adapter] = value
                elif isinstance(update, LowRankUpdate):
                    key = {"magnitude": "lora_magnitude_vector"}.get(name, f"lora_{name}")
                    found.setdefault(key, {})[adapter] = Factor(value)
                else:
                    found.setdefault(name, {})[adapter] = value
    return found


class View:
    """A layer of the model; what a view does not answer itself, the library's layer does."""

    def __init__(self, owner: Any, path: str, layer: nn.Module) -> None:
        self.__dict__.update(_owner=owner, _path=path, _layer=layer)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "bias" and self._trained_bias() is not None:
            return self._trained_bias()
        if name in KEPT or name in contents(self._layer):
            return Container(self._layer, name)
        value = getattr(self._layer, name)
        if isinstance(value, nn.ModuleList):
            return [view(self._owner, _join(self._path, f"{name}.{index}")) for index in range(len(value))]
        if isinstance(value, nn.Module) and not name.endswith(STORE):
            return view(self._owner, _join(self._path, name))
        return value

    def _trained_bias(self) -> nn.Parameter | None:
        """Return the bias that an active adapter trains, which in PEFT is the layer's own."""
        managed = stores(self._layer).get("bias")
        updates = [] if managed is None else [managed.updates[name] for name in managed.active]
        return updates[-1].weight if updates and isinstance(updates[-1], FullUpdate) else None

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._layer, name, value)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *contents(self._layer)]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._layer(*args, **kwargs)

    def __repr__(self) -> str:
        return repr(self._layer)

    def get_submodule(self, path: str) -> Any:
        return view(self._owner, _join(self._path, path))

    def named_modules(self) -> Iterator[tuple[str, Any]]:
        for path, layer in self._layer.named_modules():
            yield path, view(self._owner, _join(self._path, path)) if stores(layer) else layer


class Wrapped(View):
    """A layer with adapters."""

    @property
    def other_param_names(self) -> list[str]:
        return []

    @property
    def adapter_layer_names(self) -> list[str]:
        return [name for name in contents(self._layer) if name != "trainable_tokens_original"]

    @property
    def active_adapters(self) -> list[str]:
        return list(self._owner.active)

    @property
    def disable_adapters(self) -> bool:
        return self._owner.disabled

    @property
    def base_layer(self) -> Any:
        return Base(self._owner, self._path, self._layer)

    def get_base_layer(self) -> Any:
        return self.base_layer

    def set_adapter(self, names: str | list[str]) -> None:
        self._owner.set_active([names] if isinstance(names, str) else names)

    def enable_adapters(self, enabled: bool) -> None:
        raise Missing("zoo has no layer whose adapters are disabled alone")

    def merge(self, *args: Any, **kwargs: Any) -> None:
        raise Missing("zoo has no layer whose adapters are merged alone")

    def _names(self) -> set[str]:
        return {name for managed in stores(self._layer).values() for name in managed.updates}


class TunerLayer(Wrapped):
    """A layer with low-rank factors, or another kind's: PEFT's `BaseTunerLayer` and `LoraLayer`."""

    @property
    def merged_adapters(self) -> list[str]:
        return [name for name in self._owner.merged if name in self._names()]

    @property
    def merged(self) -> bool:
        return bool(self.merged_adapters)

    def _all_available_adapter_names(self) -> list[str]:
        return sorted(self._names())

    def get_delta_weight(self, name: str) -> Tensor:
        managed = stores(self._layer)["weight"]
        base = managed.base_tensor().detach()
        return managed.updates[name](base) - base


class AuxiliaryWrapper(Wrapped):
    """A layer that trains whole, or rows of it: PEFT's `AuxiliaryTrainingWrapper`."""

    @property
    def active_adapters(self) -> list[str]:
        return [name for name in self._owner.active if name in self._names()]

    @property
    def _adapters(self) -> set[str]:
        return self._names()


class SavedWrapper(AuxiliaryWrapper):
    """PEFT's `ModulesToSaveWrapper`."""

    @property
    def original_module(self) -> Any:
        return self.base_layer


class TokensWrapper(AuxiliaryWrapper):
    """PEFT's `TrainableTokensWrapper`, and the layer within it."""

    @property
    def token_adapter(self) -> Any:
        return self


class Base:
    """A layer without its adapters."""

    def __init__(self, owner: Any, path: str, layer: nn.Module) -> None:
        self.__dict__.update(_owner=owner, _path=path, _layer=layer)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        managed = stores(self._layer).get(name)
        if managed is not None:
            return managed.base_tensor()
        value = getattr(self._layer, name)
        return view(self._owner, _join(self._path, name)) if isinstance(value, nn.Module) else value


def view(owner: Any, path: str) -> View:
    """Return the layer at a path as PEFT's tests look at it."""
    layer = owner.module.get_submodule(path) if path else owner.module
    updates = [update for managed in stores(layer).values() for update in managed.updates.values()]
    kind: type[View] = View
    if any(not isinstance(update, FullUpdate | RowsUpdate) for update in updates):
        kind = TunerLayer
    elif any(isinstance(update, RowsUpdate) for update in updates):
        kind = TokensWrapper
    elif updates:
        kind = SavedWrapper
    return kind(owner, path, layer)


def _join(path: str, name: str) -> str:
    return ".".join(part for part in (path, name) if part)
