"""Construct a module without values, whatever its `__init__` does: buffers made where parameters are, forward passes.

On `meta` a parameter is nowhere, and what a constructor computes beside it is nowhere too, or an error. A hollow
parameter says that it is on the CPU, and has no values either.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from zoo.catalog.entry import Entry
from zoo.loading.empty import meta_parameters, parameters_as
from zoo.plugin import hooks
from zoo.torch_state.budget import is_over_budget
from zoo.torch_state.modes import seeded
from zoo.weights.walk import ModuleIndex, index_module

# Constructors of libraries change what belongs to the process, such as torch's functions of initial values.
_one_at_a_time = threading.RLock()


def constructed(entry: Entry) -> nn.Module:
    """Return the module of an entry as the plugin makes it, one at a time in the process."""
    with _one_at_a_time:
        return hooks.construct(entry)


def construct(entry: Entry) -> nn.Module:
    """Return the module of an entry with parameters on `meta`, and buffers real where they could be made.

    Constructors that run a forward pass, to see a shape, are given hollow parameters.
    """
    # Constructors draw values that are never used.
    with seeded(0):
        try:
            with meta_parameters():
                return constructed(entry)
        except Exception as error:
            if is_over_budget(error):
                raise
            try:
                with hollow_parameters():
                    module = constructed(entry)
            except Exception:
                raise error from error.__cause__
    _empty(module)
    return module


@contextmanager
def hollow_parameters() -> Iterator[None]:
    """Create hollow parameters in the block; buffers are real."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def hollow(parameter: nn.Parameter) -> nn.Parameter:
        if isinstance(parameter, FakeTensor):
            return parameter
        with mode:
            empty = torch.empty(parameter.shape, dtype=parameter.dtype)
        return nn.Parameter(empty, requires_grad=parameter.requires_grad)

    with parameters_as(hollow):
        yield


def _empty(module: nn.Module) -> None:
    """Put what is hollow in a module on `meta`; what was shared stays shared."""
    made: dict[int, torch.Tensor] = {}
    for layer in module.modules():
        for tensors in (layer._parameters, layer._buffers):
            for name, tensor in tensors.items():
                if not isinstance(tensor, FakeTensor):
                    continue
                if id(tensor) not in made:
                    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
                    made[id(tensor)] = (
                        nn.Parameter(empty, tensor.requires_grad) if tensors is layer._parameters else empty
                    )
                tensors[name] = made[id(tensor)]  # type: ignore[assignment]


def make_real(entry: Entry, index: ModuleIndex) -> None:
    """Compute the buffers that are on `meta` and in no checkpoint, because they were made on their parameters' device.

    The module is constructed once more, with parameters that are said to be on the CPU and still have no values: a
    buffer that is computed from values stays as it is, and is reported when the module has been filled.

    Args:
        entry: the model's entry.
        index: the module's buffers; those that could be computed are replaced.
    """
    unfilled = {
        name: ref
        for name, ref in index.buffers.items()
        if not ref.persistent and ref.layer._buffers[ref.attribute].is_meta  # type: ignore[union-attr]
    }
    if not unfilled:
        return
    with hollow_parameters(), seeded(0):
        again = index_module(constructed(entry)).buffers
    for name, (layer, attribute, _) in unfilled.items():
        ref = again.get(name)
        value = ref.layer._buffers[ref.attribute] if ref is not None else None
        if value is not None and not isinstance(value, FakeTensor) and not value.is_meta:
            layer._buffers[attribute] = value
