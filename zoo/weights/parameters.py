"""Replace a module's parameters by managed weights, and restore plain parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import StateDictError, WeightError
from zoo.torch_state.modes import evaluating
from zoo.torch_state.turns import turns_of
from zoo.weights.lazy_weight import LazyWeight
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.offload import HOOK, forget
from zoo.weights.quantized_tensor import QuantizedTensor
from zoo.weights.state_dicts import check_loading, is_own_name, stop_checking
from zoo.weights.walk import SUFFIX, ParameterRef, TiedGroup, tied_groups, unwrapped

ORDER = "_zoo_parameter_order"


def child_name(attribute: str) -> str:
    """Return the name under which a layer keeps the managed weight of its parameter `attribute`."""
    return attribute + SUFFIX


def replace_parameter(group: TiedGroup, packed: QuantizedTensor | None = None) -> ManagedWeight:
    """Put a managed weight in all places of a group; it becomes a child of the first place's layer.

    Args:
        group: The parameter and its places.
        packed: The quantized weight to hold; by default the group's own parameter, which then no longer trains.

    Raises:
        WeightError: the layer already has a child of the managed weight's name.
    """
    if packed is None:
        lazy = group.lazy() if group.prepared is None else group.prepared
        group.value.requires_grad_(False)
    else:
        lazy = LazyWeight(group.managed(packed))
    managed = lazy._zoo_store
    for number, ref in enumerate(group.refs):
        if ref.layer.__dict__.get(ref.attribute) is lazy:  # the same layer under another name
            continue
        if number == 0 and hasattr(ref.layer, child_name(ref.attribute)):
            raise WeightError(f"{ref.name}: the layer already has something called {child_name(ref.attribute)!r}")
        _put(ref, managed, lazy, register=number == 0)
    managed.train(group.refs[0].layer.training)
    group.value = managed
    return managed


def restore_parameter(group: TiedGroup, parameter: nn.Parameter) -> None:
    """Put a plain parameter in all places of a managed weight."""
    for ref in group.refs:
        layer, attribute = ref.layer, ref.attribute
        layer.__dict__.pop(attribute, None)
        layer._modules.pop(child_name(attribute), None)
        if not any(isinstance(value, LazyWeight) for value in layer.__dict__.values()):
            stop_checking(layer)
        setattr(layer, attribute, parameter)
        restore_order(layer)
    group.value = parameter


@contextmanager
def plain_parameters(module: nn.Module) -> Iterator[None]:
    """Make all parameters plain and dense within the context, active adapters included.

    For code that reads `module.state_dict()` itself. All weights are dense at once.
    """
    groups = [group for group in tied_groups(module) if isinstance(group.value, ManagedWeight)]
    original = [(group.value, [ref.layer.__dict__[ref.attribute] for ref in group.refs]) for group in groups]
    try:
        for group in groups:
            with torch.no_grad():
                dense = group.value.dense().clone()  # type: ignore[union-attr]
                restore_parameter(group, nn.Parameter(dense, requires_grad=False))
        yield
    finally:
        for group, (managed, lazy_weights) in zip(groups, original, strict=True):
            for number, (ref, lazy) in enumerate(zip(group.refs, lazy_weights, strict=True)):
                _put(ref, managed, lazy, register=number == 0)  # type: ignore[arg-type]


def save_pretrained(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Run the library's own `module.save_pretrained` with dense weights under the library's own names."""
    write = type(module).save_pretrained  # type: ignore[attr-defined]
    state = kwargs.get("state_dict")
    if state is not None and not any(is_own_name(name) for name in state):
        return write(module, *args, **kwargs)
    if state is not None:  # as accelerate's get_state_dict returns it
        present = module.state_dict()
        if any(name not in present or present[name].data_ptr() != tensor.data_ptr() for name, tensor in state.items()):
            raise StateDictError(
                "save_pretrained: expected a state dict of dense weights, got tensors of managed weights, which no "
                "library can load: leave out state_dict="
            )
        kwargs = {**kwargs, "state_dict": None}
    # Evaluation mode, because an adapter's dropout must not be saved; nobody else may see the plain parameters.
    with turns_of(module).changing(), evaluating(module), plain_parameters(module):
        return write(module, *args, **kwargs)


def _put(ref: ParameterRef, managed: ManagedWeight, lazy: LazyWeight, register: bool) -> None:
    """Put a lazy weight in a parameter's place.

    Its managed weight becomes a child module only at the first of the places that share it (`register`), because
    `functional_call` loses the tensors of a module that is registered under two names.
    """
    layer, attribute = ref.layer, ref.attribute
    layer.__dict__.setdefault(ORDER, tuple(layer._parameters))
    layer._parameters.pop(attribute, None)
    if HOOK in layer.__dict__:
        forget(layer, attribute)
    if register:
        layer.add_module(child_name(attribute), managed)
    if isinstance(getattr(type(layer), attribute, None), property):
        layer.__dict__[attribute] = lazy
    else:  # by setattr, so that layers that keep lists of their weights (nn.LSTM) update them
        setattr(layer, attribute, lazy)
    check_loading(layer)


def parameter_names(layer: nn.Module) -> list[str]:
    """Return the names of a layer's own parameters, managed or not, in the library's order of registration."""
    plain = [name for name, parameter in layer._parameters.items() if parameter is not None]
    lazy = [name for name, value in layer.__dict__.items() if isinstance(value, LazyWeight) and not value._zoo_detached]
    return _in_order(layer, [*plain, *lazy])


def _in_order(layer: nn.Module, names: list[str]) -> list[str]:
    order = layer.__dict__.get(ORDER, ())
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))


def restore_order(layer: nn.Module) -> None:
    """Restore the order of a layer's parameters, on which optimizers and their state dicts depend."""
    for name in _in_order(layer, list(layer._parameters)):
        layer._parameters[name] = layer._parameters.pop(name)
    if not any(isinstance(value, LazyWeight) for value in layer.__dict__.values()):
        layer.__dict__.pop(ORDER, None)


def set_parameter(group: TiedGroup, tensor: Tensor, requires_grad: bool = True) -> nn.Parameter:
    """Make `tensor` the parameter of all places of a group, shared."""
    parameter = nn.Parameter(tensor, requires_grad=requires_grad and tensor.is_floating_point())
    for ref in group.refs:
        ref.layer._parameters.pop(ref.attribute, None)
        setattr(ref.layer, ref.attribute, parameter)
    group.value = parameter
    return parameter


def find_parameter(module: nn.Module, name: str) -> Any:
    """Return `module.get_parameter(name)`; a managed weight is returned as its lazy weight.

    Libraries that look parameters up by name (transformers' `tie_weights`) get the same object as from `layer.weight`.
    """
    path, _, attribute = name.rpartition(".")
    layer = unwrapped(module.get_submodule(path))
    if isinstance(layer.__dict__.get(attribute), LazyWeight):
        return layer.__dict__[attribute]
    return type(module).get_parameter(module, name)
