"""Walk over a module once: every parameter with all the places that share it, managed or not, and every buffer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import nn

from zoo.errors import WeightError
from zoo.weights.layout import layout_of
from zoo.weights.lazy_weight import LazyWeight
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.quantized_tensor import QuantizedTensor

SUFFIX = "_store"  # ends the name of the child module that is a managed weight; part of state dicts


class ParameterRef(NamedTuple):
    """A place where a layer looks a parameter up.

    Attributes:
        path: The layer's path in the module; "" for the module itself.
        layer: The layer.
        attribute: The layer's attribute.
        name: The parameter's name, as in `module.named_parameters()`.
    """

    path: str
    layer: nn.Module
    attribute: str
    name: str


def parameter_ref(path: str, layer: nn.Module, attribute: str) -> ParameterRef:
    """Return the place `attribute` of the layer at `path`."""
    return ParameterRef(path, layer, attribute, f"{path}.{attribute}" if path else attribute)


class TiedGroup:
    """One parameter, or the managed weight in its place, with all the places that share it.

    Attributes:
        value: The current parameter or managed weight.
        refs: The places, in module order.
        name: The name of the first place.
        prepared: The last result of `lazy`.
    """

    def __init__(self, value: nn.Parameter | ManagedWeight, refs: list[ParameterRef]) -> None:
        self.value = value
        self.refs = refs
        self.name = refs[0].name
        self.prepared: LazyWeight | None = None

    def lazy(self) -> LazyWeight:
        """Return the weight as its layers see it once it is managed. The module does not change."""
        value, prepared = self.value, self.prepared
        if prepared is None or (isinstance(value, ManagedWeight) and prepared._zoo_store is not value):
            prepared = LazyWeight(value if isinstance(value, ManagedWeight) else self.managed(value))
            self.prepared = prepared
        return prepared

    def managed(self, base: nn.Parameter | QuantizedTensor) -> ManagedWeight:
        """Return a managed weight with the base `base` for these places, without putting it there."""
        return ManagedWeight(base, layout_of([(ref.layer, ref.attribute) for ref in self.refs], base.shape))


class BufferRef(NamedTuple):
    """A place where a layer keeps a buffer.

    Attributes:
        layer: The layer.
        attribute: The layer's attribute.
        persistent: Whether the buffer is in the state dict.
    """

    layer: nn.Module
    attribute: str
    persistent: bool


class ModuleIndex(NamedTuple):
    """The result of a walk.

    Attributes:
        groups: The parameters, tied ones once.
        buffers: The buffers, by each of their names.
    """

    groups: list[TiedGroup]
    buffers: dict[str, BufferRef]


def library_modules(module: nn.Module, remove_duplicate: bool = True) -> Iterator[tuple[str, nn.Module]]:
    """Yield `named_modules()` without the managed weights: the modules that the library itself made.

    Args:
        module: Where to begin.
        remove_duplicate: Whether a module registered under several names is given once, under the first.
    """
    seen: set[int] = set()

    def walk(path: str, layer: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        if id(layer) in seen or isinstance(layer, ManagedWeight):
            return
        seen.add(id(layer))
        yield path, layer
        for name, child in layer._modules.items():
            if child is not None:
                yield from walk(f"{path}.{name}" if path else name, child)
        if not remove_duplicate:
            seen.discard(id(layer))  # so that only a module inside itself is skipped

    yield from walk("", module)


def index_module(module: nn.Module) -> ModuleIndex:
    """Walk over a module once.

    A layer under several names is a place under each of them, as in `state_dict()`.

    Raises:
        WeightError: a managed weight was replaced from outside.
    """
    groups: dict[int, TiedGroup] = {}
    buffers: dict[str, BufferRef] = {}
    registered: set[int] = set()
    for path, layer in library_modules(module, remove_duplicate=False):
        for attribute, value in (*layer._parameters.items(), *_lazy_weights(layer)):
            if value is not None:
                ref = parameter_ref(path, layer, attribute)
                if id(value) in groups:
                    groups[id(value)].refs.append(ref)
                else:
                    groups[id(value)] = TiedGroup(value, [ref])
        for attribute, buffer in layer._buffers.items():
            if buffer is not None:
                name = f"{path}.{attribute}" if path else attribute
                buffers[name] = BufferRef(layer, attribute, attribute not in layer._non_persistent_buffers_set)
        for name, child in layer._modules.items():
            if isinstance(child, ManagedWeight):
                registered.add(id(child))
                if id(child) not in groups:
                    raise _replaced(parameter_ref(path, layer, name.removesuffix(SUFFIX)))
    for group in groups.values():
        if isinstance(group.value, ManagedWeight) and id(group.value) not in registered:
            raise _replaced(group.refs[-1])
    return ModuleIndex(list(groups.values()), buffers)


def _lazy_weights(layer: nn.Module) -> list[tuple[str, ManagedWeight]]:
    """Return (attribute, managed weight) of a layer's own lazy weights."""
    return [
        (attribute, value._zoo_store)
        for attribute, value in layer.__dict__.items()
        if isinstance(value, LazyWeight) and not value._zoo_detached
    ]


def _replaced(ref: ParameterRef) -> WeightError:
    return WeightError(
        f"{ref.name}: it, or a weight tied to it, was replaced after it had been quantized or adapted, so that its "
        "adapters no longer reach it: change weights before zoo.wrap, or after model.unload()"
    )


def tied_groups(module: nn.Module) -> list[TiedGroup]:
    """Return each parameter or managed weight once, with all the places that share it."""
    return index_module(module).groups


def managed_weights(module: nn.Module) -> dict[str, ManagedWeight]:
    """Return the module's managed weights by the name of their first place."""
    return {group.name: group.value for group in tied_groups(module) if isinstance(group.value, ManagedWeight)}


def is_outdated(groups: list[TiedGroup]) -> bool:
    """Return whether the module has changed since the walk that found `groups`."""
    for group in groups:
        ref, value = group.refs[0], group.value
        current = ref.layer._parameters.get(ref.attribute)
        if current is None:
            current = getattr(ref.layer.__dict__.get(ref.attribute), "_zoo_store", None)
        if current is not value:
            return True
    return False
