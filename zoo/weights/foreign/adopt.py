"""Find the weights of other libraries in a module, manage them, and give them back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import nn

from zoo.errors import QuantizationError, WeightError
from zoo.weights.foreign import flags
from zoo.weights.foreign.weight import RECORD, ForeignWeight, records_of, tensor_of
from zoo.weights.lazy_weight import LazyWeight
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.parameters import ORDER, child_name, replace_parameter, restore_order
from zoo.weights.quantized_tensor import QuantizedTensor
from zoo.weights.state_dicts import stop_checking
from zoo.weights.walk import TiedGroup, library_modules, parameter_ref, tied_groups

FORWARD_BEFORE = "_zoo_forward_before"  # a layer's own `forward` that was set on the object, not its class

# Returns what is known of a layer's weights, nothing for ordinary ones; the dtype is that of the module's other ones.
Reader = Callable[[nn.Module, torch.dtype], list[ForeignWeight]]


class Found(NamedTuple):
    """A layer of another library.

    Attributes:
        path: The layer's path in the module.
        layer: The layer.
        weight: Its weight.
    """

    path: str
    layer: nn.Module
    weight: ForeignWeight


def find(module: nn.Module, read: Reader) -> list[Found]:
    """Return the layers with a weight that another library quantized. Nothing changes.

    Raises:
        WeightError: two layers share one such weight.
    """
    dtype = _computing_dtype(module)
    found: list[Found] = []
    owners: dict[int, str] = {}
    for path, layer in library_modules(module):
        for weight in [] if records_of(layer) else read(layer, dtype):
            if weight.forward is not None and _replaced_forward(layer):
                reason = "another library has replaced the layer's forward pass: wrap the module before that"
                weight = replace(weight, packed=None, reason=reason)
            found.append(Found(path, layer, weight))
            stored = tensor_of(layer, weight.attribute) if weight.packed is not None else None
            if stored is not None and owners.setdefault(id(stored), path) != path:
                raise WeightError(
                    f"{path} and {owners[id(stored)]} share one weight ({weight.form}): expected a weight for each "
                    "layer, load the model without quantizing tied weights"
                )
    return found


def _replaced_forward(layer: nn.Module) -> bool:
    """Return whether a forward pass was set on the layer itself by others than accelerate, which keeps the old one.

    diffusers' casting of weights for each use does no harm: zoo dequantizes them at each use anyway.
    """
    if "forward" not in layer.__dict__ or "_old_forward" in layer.__dict__:
        return False
    hooks = getattr(getattr(layer, "_diffusers_hook", None), "hooks", None)
    return hooks is None or set(map(str, hooks)) != {"layerwise_casting"}


def _computing_dtype(module: nn.Module) -> torch.dtype:
    """Return the dtype of the module's first ordinary weight."""
    for parameter in module.parameters():
        ordinary = type(parameter) is nn.Parameter and parameter.dtype.is_floating_point
        if ordinary and parameter.dtype.itemsize > 1 and parameter.numel():
            return parameter.dtype
    return torch.get_default_dtype()


def check_usable(found: list[Found], bits: int | None) -> None:
    """Raise `QuantizationError` for a weight that could not be had in `bits` bits; None for as it is."""
    for path, _, weight in found:
        name = f"{path or 'the module'} ({weight.form})"
        if bits is not None and weight.packed is None:
            raise QuantizationError(f"{name}: cannot be quantized by zoo: {weight.reason}")
        if bits is not None and weight.packed.codec.bits != bits:  # type: ignore[union-attr]
            raise QuantizationError(
                f"{name}: expected a weight in full precision to store in {bits} bit, got one of "
                f"{weight.packed.codec.bits} bit: leave bits out, or load the model that it was made from"  # type: ignore[union-attr]
            )


def adopt_all(module: nn.Module, found: list[Found]) -> None:
    """Put managed weights in place of the layers' own storage, as far as zoo can use it."""
    for one in found:
        if one.weight.packed is not None:
            adopt(one)
    if found and all(one.weight.packed is not None for one in found):
        flags.hide(module)


def adopt(found: Found) -> ManagedWeight:
    """Put a managed weight in place of a layer's own storage."""
    path, layer, weight = found
    assert weight.packed is not None
    layer.__dict__.setdefault(ORDER, tuple(layer._parameters))
    give_back = weight.give_back
    if give_back is None:
        held = {name: tensor_of(layer, name) for name, _ in weight.holds}
        shapes = {name: tensor.shape for name, tensor in held.items() if tensor is not None}
        give_back = functools.partial(
            _give_back,
            holds=weight.holds,
            shapes=shapes,
            buffers=tuple(name for name in held if name in layer._buffers),
        )
    for name, _ in weight.holds:
        for place in (layer._parameters, layer._buffers, layer.__dict__):
            place.pop(name, None)
    if weight.take is not None:
        weight.take(layer)
    group = TiedGroup(nn.Parameter(torch.empty(0)), [parameter_ref(path, layer, weight.attribute)])
    managed = replace_parameter(group, weight.packed)
    layer.__dict__.setdefault(RECORD, {})[weight.attribute] = replace(weight, packed=None, give_back=give_back)
    if weight.forward is not None:
        name = _forward_name(layer)
        if name in layer.__dict__:
            layer.__dict__[FORWARD_BEFORE] = layer.__dict__[name]
        layer.__dict__[name] = functools.partial(weight.forward, layer)
    return managed


def _forward_name(layer: nn.Module) -> str:
    """Return the attribute with a layer's own forward pass: accelerate's hooks keep it as `_old_forward`."""
    return "_old_forward" if "_old_forward" in layer.__dict__ else "forward"


def _give_back(
    layer: nn.Module,
    packed: QuantizedTensor,
    *,
    holds: tuple[tuple[str, str], ...],
    shapes: dict[str, torch.Size],
    buffers: tuple[str, ...],
) -> None:
    """Put stored tensors back under the names, and in the shapes, that the layer has for them."""
    for name, stored in holds:
        tensor = packed._parameters[stored].detach().view(shapes[name])  # type: ignore[union-attr]
        if name in buffers:
            layer._buffers[name] = tensor
        else:
            layer._parameters[name] = nn.Parameter(tensor, requires_grad=False)


def give_back(group: TiedGroup) -> bool:
    """Give a layer its library's own storage back, bit for bit.

    Returns:
        Whether it was one of another library's, and has no adapter merged.
    """
    layer, managed = group.refs[0].layer, group.value
    record = records_of(layer).get(group.refs[0].attribute)
    if record is None or not isinstance(managed, ManagedWeight):
        return False
    if managed.packed is None or managed.merged is not None or managed.merged_packed is not None:
        return False
    attribute = record.attribute
    layer.__dict__.pop(attribute, None)
    layer._modules.pop(child_name(attribute), None)
    del layer.__dict__[RECORD][attribute]
    if not layer.__dict__[RECORD]:
        del layer.__dict__[RECORD]
    if record.forward is not None:
        name = _forward_name(layer)
        before = layer.__dict__.pop(FORWARD_BEFORE, None)
        if before is None:
            layer.__dict__.pop(name)
        else:
            layer.__dict__[name] = before
    if not any(isinstance(value, LazyWeight) for value in layer.__dict__.values()):
        stop_checking(layer)
    assert record.give_back is not None
    record.give_back(layer, managed.packed)
    restore_order(layer)
    return True


def give_all_back(module: nn.Module) -> None:
    """Give every layer its library's own storage back, bit for bit, but those with merged adapters."""
    for group in tied_groups(module):
        give_back(group)
    if not any(records_of(layer) for _, layer in library_modules(module)):
        flags.show(module)
