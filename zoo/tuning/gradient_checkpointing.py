"""Gradient checkpointing (arXiv:1604.06174) of any module: blocks keep their inputs, and run again going backward.

A library's own switch is used where the module has one. Otherwise the blocks are found by structure, whatever they are:
layers of one class that are together in one list, each made of several layers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from zoo.errors import TuningError
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.walk import unwrapped

# What libraries call the methods that switch it on and off: transformers, diffusers, timm.
_SWITCHES: tuple[tuple[str, dict[str, Any], str, tuple[bool, ...]], ...] = (
    (
        "gradient_checkpointing_enable",
        {"gradient_checkpointing_kwargs": {"use_reentrant": False}},  # the other kind needs inputs with gradients
        "gradient_checkpointing_disable",
        (),
    ),
    ("enable_gradient_checkpointing", {}, "disable_gradient_checkpointing", ()),
    ("set_grad_checkpointing", {}, "set_grad_checkpointing", (False,)),
)
_ALREADY = ("is_gradient_checkpointing", "grad_checkpointing")
_LISTS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


@contextmanager
def gradient_checkpointing(module: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Compute a module's activations again in the backward pass, in the block; gradients are exactly the same.

    Dropout draws what it drew, and buffers such as running means change once.

    Args:
        module: any module.
        wanted: False does nothing.

    Raises:
        TuningError: it has no switch for it, and no blocks that repeat.
    """
    undo = switch_on(module) if wanted else None
    try:
        yield
    finally:
        if undo is not None:
            undo()


def switch_on(module: nn.Module) -> Callable[[], None]:
    """Do what `gradient_checkpointing` does from here on, and return what ends it.

    Raises:
        TuningError: as there.
    """
    inner = unwrapped(module)
    # A library runs a batch norm again like any other layer, so that its averages move twice.
    undo = None if any(_averages(layer) for layer in inner.modules()) else _by_library(inner)
    if undo is not None:
        return undo
    found = repeated_blocks(inner)
    if not found:
        raise TuningError(
            f"gradient_checkpointing: {type(inner).__name__} has no switch for it, and no blocks that repeat, layers "
            "of one class in a list: leave it out, and lower batch_size with more gradient_accumulation_steps"
        )
    before = [(block, block.__dict__.get("forward")) for block in found]
    for block in found:
        block.forward = _again(block, block.forward)

    def end() -> None:
        for block, forward in before:
            if forward is None:
                del block.__dict__["forward"]
            else:
                block.forward = forward

    return end


def repeated_blocks(module: nn.Module) -> list[nn.Module]:
    """Return the outermost layers of several layers each that have others of their class beside them.

    In a list of layers; in a module without such lists, anywhere.
    """
    return list(dict.fromkeys(_blocks(module, _LISTS) or _blocks(module, (nn.Module,))))


def _blocks(module: nn.Module, parents: tuple[type[nn.Module], ...]) -> list[nn.Module]:
    children = [child for child in module.children() if not isinstance(child, ManagedWeight)]
    alike = Counter(type(child) for child in children if _is_block(child)) if isinstance(module, parents) else {}
    found: list[nn.Module] = []
    for child in children:
        found += [child] if alike.get(type(child), 0) > 1 and _is_block(child) else _blocks(child, parents)
    return found


def _is_block(layer: nn.Module) -> bool:
    """Return whether a layer is called itself, is made of others, and has something to compute with."""
    parts = [child for child in layer.children() if not isinstance(child, ManagedWeight)]
    is_called = not isinstance(layer, nn.ModuleList | nn.ModuleDict)
    return is_called and bool(parts) and next(layer.parameters(), None) is not None


def _averages(layer: nn.Module) -> bool:
    return isinstance(layer, nn.modules.batchnorm._NormBase) and layer.track_running_stats


def _by_library(module: nn.Module) -> Callable[[], None] | None:
    """Switch it on by the library's method, and return what switches it off again; None if there is no method."""
    if any(getattr(module, name, None) is True for name in _ALREADY):
        return lambda: None
    for on, options, off, arguments in _SWITCHES:
        method = getattr(module, on, None)
        if callable(method):
            try:
                method(**options)
            except (ValueError, NotImplementedError, AssertionError):  # this class of the library cannot
                return None
            return lambda off=off, arguments=arguments: getattr(module, off)(*arguments)  # type: ignore[misc]
    return None


def _again(block: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a block's forward pass that keeps only its inputs."""
    moving = _Moving()

    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        state = _State(block, (args, kwargs))
        output = checkpoint(forward, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), state), **kwargs)
        state.forget_constant(moving)
        return output

    return checkpointed


class _Moving:
    """The buffers that a block's forward pass changes.

    Values are compared once: a batch norm does not count its writes to running means, and a GPU would wait each time.
    """

    def __init__(self) -> None:
        self.names: set[tuple[int, str]] = set()
        self.compared = False


class _State:
    """A context in which a block's buffers and its generators are what they were, and after which they are as before.

    torch's global generators are `checkpoint`'s own business.
    """

    def __init__(self, block: nn.Module, arguments: Any) -> None:
        generators = [one for one in tree_leaves(arguments) if isinstance(one, torch.Generator)]
        self._generators = [(one, one.get_state()) for one in generators]
        self._states: list[Tensor] = []
        self._before = [
            (layer, name, buffer, buffer._version, buffer.detach().clone())
            for layer in block.modules()
            for name, buffer in layer._buffers.items()
            if buffer is not None
        ]
        self._now: list[tuple[nn.Module, str, Tensor | None]] = []

    def forget_constant(self, moving: _Moving) -> None:
        """Let go of the copies of those that the forward pass does not change; the others are added to `moving`."""
        for layer, name, buffer, version, value in self._before:
            replaced = layer._buffers.get(name) is not buffer
            if replaced or buffer._version != version or not (moving.compared or torch.equal(buffer, value)):
                moving.names.add((id(layer), name))
        moving.compared = True
        self._before = [one for one in self._before if (id(one[0]), one[1]) in moving.names]

    def __enter__(self) -> None:
        self._now = [(layer, name, layer._buffers.get(name)) for layer, name, *_ in self._before]
        for layer, name, _, _, value in self._before:
            layer._buffers[name] = value.clone()
        self._states = [one.get_state() for one, _ in self._generators]
        for one, state in self._generators:
            one.set_state(state)

    def __exit__(self, *_: object) -> None:
        for layer, name, buffer in self._now:
            layer._buffers[name] = buffer
        for (one, _state), now in zip(self._generators, self._states, strict=True):
            one.set_state(now)
        self._now, self._states = [], []
