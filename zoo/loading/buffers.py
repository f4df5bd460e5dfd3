"""Buffers that a module computes in its `__init__` where its parameters are, which while loading is nowhere."""

from __future__ import annotations

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from zoo.catalog.entry import Entry
from zoo.loading.stream import parameters_as
from zoo.plugin import hooks
from zoo.weights.walk import ModuleIndex, index_module


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
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def hollow(parameter: nn.Parameter) -> nn.Parameter:
        if isinstance(parameter, FakeTensor):
            return parameter
        with mode:
            empty = torch.empty(parameter.shape, dtype=parameter.dtype)
        return nn.Parameter(empty, requires_grad=parameter.requires_grad)

    with parameters_as(hollow), torch.random.fork_rng(devices=[]):
        again = index_module(hooks.construct(entry)).buffers
    for name, (layer, attribute, _) in unfilled.items():
        ref = again.get(name)
        value = ref.layer._buffers[ref.attribute] if ref is not None else None
        if value is not None and not isinstance(value, FakeTensor) and not value.is_meta:
            layer._buffers[attribute] = value
