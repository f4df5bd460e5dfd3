"""Run a module without values: its parameters have shapes, types and a graph, and take no memory.

Batches and buffers keep their values, and what is computed from them alone is computed, so that masks, indices and
edges of a graph are what they are. Whatever a parameter takes part in has no values (torch's FakeTensor).
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from zoo.weights.kernels import dynamic_map
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.parameters import set_parameter
from zoo.weights.walk import index_module

_aten = torch.ops.aten
_DEVICE = torch.ops.prim.device.default
_SMALL = 1 << 16  # values; smaller tensors that are made of nothing are real: libraries keep tables of them


def hollow(module: nn.Module) -> FakeTensorMode:
    """Give a module on `meta` parameters that say they are on the CPU, and return the mode that they belong to."""
    dynamic_map(torch.device("cpu"))  # a table that zoo keeps, and which has to have values
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def empty(tensor: Tensor) -> Tensor:
        with mode:
            return torch.empty(tensor.shape, dtype=tensor.dtype)

    index = index_module(module)
    for group in index.groups:
        if isinstance(group.value, ManagedWeight):
            for layer in group.value.modules():
                for name, parameter in layer._parameters.items():
                    if parameter is not None and parameter.is_meta:
                        layer._parameters[name] = nn.Parameter(empty(parameter), parameter.requires_grad)
                for name, buffer in layer._buffers.items():
                    if buffer is not None and buffer.is_meta:
                        layer._buffers[name] = torch.zeros(buffer.shape, dtype=buffer.dtype)
        elif group.value.is_meta:
            set_parameter(group, empty(group.value), group.value.requires_grad)
    for ref in index.buffers.values():
        found = ref.layer._buffers[ref.attribute]
        if found is not None and found.is_meta:
            ref.layer._buffers[ref.attribute] = empty(found)
    return mode


class Meter(TorchDispatchMode):
    """Run the block's operations without values, and count the bytes that they make and what they compute.

    Args:
        mode: That of the module's parameters, from `hollow`.

    Attributes:
        live: Bytes that the block has made and that are still used.
        peak: The most of them at once.
        flops: Floating-point operations of products and convolutions: two for each multiplication with an addition.
    """

    def __init__(self, mode: FakeTensorMode) -> None:
        super().__init__()
        self.live = self.peak = self.flops = 0
        self._mode = mode
        self._seen: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation, and count what it makes."""
        if func is _DEVICE:
            return args[0].fake_device
        kwargs = kwargs or {}
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        for each in given:
            self._seen.setdefault(each.untyped_storage(), 0)  # it was there before the block
        if any(isinstance(each, FakeTensor) for each in given) or (not given and _values(args) > _SMALL):
            if func in (_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default):
                args = (args[0], _without_masks(args[1]), *args[2:])
            with self._mode:
                made = func(*args, **kwargs)
        else:
            made = func(*args, **kwargs)
        for each in tree_leaves(made):
            if isinstance(each, Tensor):
                self._add(each)
        count = _FLOPS.get(func._overloadpacket)
        if count is not None:
            self.flops += count(*args, **kwargs, out_val=made)
        return made

    def _add(self, tensor: Tensor) -> None:
        """Count a tensor's bytes from now on until nothing uses them."""
        storage = tensor.untyped_storage()
        if storage in self._seen:
            return
        size = self._seen[storage] = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, size).atexit = False

    def _free(self, size: int) -> None:
        self.live -= size


def _values(args: Sequence[Any]) -> int:
    """Return how many values an operation makes that is given a shape and no tensor; 0 for others."""
    first = args[0] if args else None
    sizes = isinstance(first, list | tuple) and all(type(size) is int for size in first)
    return math.prod(first) if sizes else 0  # type: ignore[arg-type]


def _without_masks(indices: Sequence[Any]) -> list[Any]:
    """Return indices with the places of what a mask chooses, whose number is known where the mask has values."""
    found: list[Any] = []
    for index in indices:
        real = isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)
        found += index.nonzero().unbind(1) if real and not isinstance(index, FakeTensor) else [index]
    return found


def _attention(query: Any, key: Any, value: Any, *rest: Any, out_val: Any = None, **more: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _attention_backward(
    grad: Any, query: Any, key: Any, value: Any, *rest: Any, out_val: Any = None, **more: Any
) -> int:
    return sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape)


# torch's own counts, and attention on the CPU, which it leaves out.
_FLOPS: dict[Any, Any] = {
    **flop_registry,
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
