"""Refuse what cannot be done while accelerate has a module's weights offloaded."""

from __future__ import annotations

from torch import nn

from zoo.errors import AdapterError
from zoo.weights.offload import Follower, offload_hook
from zoo.weights.walk import managed_weights


def refuse_offloaded(module: nn.Module, what: str, followed: bool = False) -> None:
    """Raise `AdapterError` if a weight is offloaded: a hook would not know the plain parameter in its place.

    Args:
        module: The module.
        what: What cannot be done.
        followed: Whether weights that were offloaded before zoo managed them are all right.
    """
    for name, managed in managed_weights(module).items():
        hooks = [offload_hook(managed), managed.packed and offload_hook(managed.packed)]
        if any(hook and not (followed and isinstance(hook, Follower)) for hook in hooks):
            raise AdapterError(
                f"{name} is offloaded, so that zoo cannot {what}: take accelerate's hooks off first, "
                "accelerate.hooks.remove_hook_from_submodules(model.module)"
            )
