"""Weights that accelerate has offloaded: the module holds placeholders on `meta`, and a hook knows the values.

accelerate's hooks put a layer's own tensors in place for the time of its `forward`. Nothing calls a managed weight's
`forward`, so that its tensors are fetched from the hook's map whenever they are used. accelerate itself is never
imported: its hooks are recognised by their attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from zoo.errors import WeightError

HOOK = "_hf_hook"
SAMPLES = 64  # values by which tied weights are recognised
R = TypeVar("R")


def offload_hook(module: nn.Module) -> Any:
    """Return the hook that keeps the values of a module's own tensors; None if they are not offloaded."""
    hook = module.__dict__.get(HOOK)
    for one in () if hook is None else getattr(hook, "hooks", (hook,)):
        if getattr(one, "offload", False) and getattr(one, "weights_map", None) is not None:
            return one
    return None


def is_offloaded(module: nn.Module, name: str) -> bool:
    """Return whether a tensor of the module is a placeholder whose values a hook keeps."""
    tensor = module._parameters.get(name)
    if tensor is None or not tensor.is_meta:
        return False
    hook = offload_hook(module)
    return hook is not None and name in hook.weights_map


def device_of(module: nn.Module, tensor: Tensor) -> torch.device:
    """Return the device on which a tensor of the module is used."""
    hook = offload_hook(module) if tensor.is_meta else None
    return tensor.device if hook is None else torch.device(hook.execution_device)


def fetch(module: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """Return a module's tensor `name` with its values, where it is used; `tensor` itself if it is not offloaded.

    Raises:
        WeightError: its values are nowhere.
    """
    if hasattr(tensor, "full_tensor"):
        from zoo.weights.gathering import gathered

        return gathered(tensor)
    hook = offload_hook(module) if tensor.is_meta else None
    if hook is None or torch.device(hook.execution_device).type == "meta":
        return tensor
    try:
        value = hook.weights_map[name]
    except KeyError:
        raise WeightError(
            f"{name} has no values: accelerate offloaded the module before zoo changed it, in a form that zoo cannot "
            "follow: take its hooks off, accelerate.hooks.remove_hook_from_submodules(module), and offload afterwards"
        ) from None
    value = value.detach().to(hook.execution_device)
    if value.is_floating_point() and value.dtype != tensor.dtype:
        value = value.to(tensor.dtype)
    return _Fetched.apply(tensor, value) if tensor.requires_grad else value


def tied_identity(layer: nn.Module, attribute: str) -> tuple[Any, ...] | None:
    """Return what a layer's offloaded parameter has in common with those that it was tied to; None if it was not.

    accelerate puts a placeholder of its own in every place. Values in memory are still one tensor; of others
    `dispatch_model` remembers which were tied, not to what, and equal shapes and values say that. `disk_offload`
    remembers nothing, and unties them for good.
    """
    hook = offload_hook(layer)
    if hook is None or attribute not in hook.weights_map:
        return None
    value = hook.weights_map[attribute]
    if value is hook.weights_map[attribute] and value.numel():  # kept in memory, not read afresh at each access
        return (value.data_ptr(), *value.shape)
    if attribute not in getattr(hook, "tied_params_names", ()):
        return None
    flat = value.detach().reshape(-1)
    chosen = torch.linspace(0, max(flat.numel() - 1, 0), min(flat.numel(), SAMPLES), dtype=torch.float64).long()
    return (*value.shape, *flat[chosen.to(flat.device)].tolist())


class _Fetched(torch.autograd.Function):
    """The values of a placeholder that trains: they can be used, and refuse to be trained."""

    @staticmethod
    def forward(ctx: Any, placeholder: Tensor, value: Tensor) -> Tensor:
        return value.detach()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        raise WeightError(
            "an adapter that accelerate has offloaded cannot train: take its hooks off, "
            "accelerate.hooks.remove_hook_from_submodules(module), or add the adapter after offloading"
        )


@contextmanager
def present(module: nn.Module) -> Iterator[None]:
    """Put a module's own offloaded tensors in place for the block."""
    placeholders = dict(module._parameters)
    try:
        for name, tensor in placeholders.items():
            if tensor is not None and (tensor.is_meta or hasattr(tensor, "full_tensor")):
                module._parameters[name] = fetch(module, name, tensor)  # type: ignore[assignment]
        yield
    finally:
        module._parameters.update(placeholders)


def call(module: nn.Module, method: Callable[..., R], *args: Any) -> R:
    """Return `method(*args)` of a module, with its own tensors in place."""
    if HOOK not in module.__dict__:
        return method(*args)
    with present(module):
        return method(*args)


class _Renamed(Mapping[str, Tensor]):
    """One value of a hook's map under another name."""

    def __init__(self, source: Mapping[str, Tensor], old: str, new: str) -> None:
        self.source, self.old, self.new = source, old, new

    def __getitem__(self, name: str) -> Tensor:
        if name != self.new:
            raise KeyError(name)
        return self.source[self.old]

    def __iter__(self) -> Iterator[str]:
        return iter((self.new,))

    def __len__(self) -> int:
        return 1


class Follower:
    """The hook of a managed weight whose base a layer's hook had offloaded, with the attributes of accelerate's."""

    offload = True

    def __init__(self, hook: Any, attribute: str, name: str) -> None:
        self.weights_map = _Renamed(hook.weights_map, attribute, name)
        self.execution_device = hook.execution_device
        self.name = name

    def detach_hook(self, module: nn.Module) -> nn.Module:
        """Put the values in place for good, as accelerate's hooks do when they are removed."""
        tensor = module._parameters[self.name]
        if tensor is not None:
            value = fetch(module, self.name, tensor)
            module._parameters[self.name] = nn.Parameter(value.detach(), requires_grad=tensor.requires_grad)
        return module


def follow(managed: nn.Module, name: str, layer: nn.Module, attribute: str) -> None:
    """Let the tensor `name` of a managed weight have the values that the layer's hook keeps for `attribute`."""
    if is_offloaded(layer, attribute):
        managed.__dict__[HOOK] = Follower(offload_hook(layer), attribute, name)


def forget(layer: nn.Module, attribute: str) -> None:
    """Tell a layer's hook that a parameter is no longer the layer's."""
    hook = offload_hook(layer)
    if hook is not None:
        getattr(hook, "original_devices", {}).pop(attribute, None)
