"""The state of a model with adapters as PEFT has it, and PEFT's tuner, which holds the module."""

from __future__ import annotations

from typing import Any

from layers import stores, view
from torch import nn

import zoo


class State:
    """A zoo model, and what PEFT remembers beside: whether the adapters are disabled, and which were active."""

    def __init__(self, model: zoo.Model) -> None:
        self.model = model
        self.disabled = False
        self.before: tuple[str, ...] = ()

    @property
    def module(self) -> nn.Module:
        return self.model.module

    @property
    def merged(self) -> tuple[str, ...]:
        return self.model.adapter_set.merged

    @property
    def active(self) -> tuple[str, ...]:
        """Adapters that are merged are still active in PEFT."""
        return self.before if self.disabled else tuple(dict.fromkeys((*self.model.active, *self.merged)))

    def set_active(self, names: list[str], inference_mode: bool = False) -> None:
        if self.disabled:
            self.before = tuple(names)
            return
        self.model.activate(*names)
        if inference_mode:
            self.train(names, False)

    def train(self, names: list[str], trains: bool) -> None:
        """Let these adapters train, or not."""
        for managed in self._managed():
            for name in names:
                if name in managed.updates:
                    managed.updates[name].requires_grad_(trains)

    def cast(self, name: str) -> None:
        """Give an adapter's factors the types of their weights."""
        for managed in self._managed():
            if name in managed.updates:
                for parameter in managed.updates[name].parameters():
                    parameter.data = parameter.data.to(managed.dtype)

    def _managed(self) -> list[Any]:
        return [one for layer in self.module.modules() for one in stores(layer).values()]


class Tuner(nn.Module):
    """PEFT's `LoraModel` and the like: `peft_model.base_model`."""

    def __init__(self, state: State, configs: dict[str, Any]) -> None:
        super().__init__()
        self.add_module("model", state.module)
        self.__dict__.update(state=state, peft_config=configs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "state" not in self.__dict__:
            return super().__getattr__(name)
        return view(self.state, "") if name == "model" else getattr(view(self.state, ""), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.state.model(*args, **kwargs)

    @property
    def active_adapters(self) -> list[str]:
        return list(self.state.active)

    @property
    def active_adapter(self) -> list[str]:
        return self.active_adapters

    def set_adapter(self, names: str | list[str], inference_mode: bool = False) -> None:
        self.state.set_active([names] if isinstance(names, str) else names, inference_mode)
