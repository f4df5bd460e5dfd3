"""Walk over a module once: every parameter with all the places that share it, managed or not, and every buffer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from torch import Size, Tensor, nn

from zoo.errors import WeightError
from zoo.weights.layout import Layout, layout_of
from zoo.weights.lazy_weight import LazyWeight
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.offload import fetch, follow, is_offloaded, tied_identity
from zoo.weights.quantized_tensor import QuantizedTensor

SUFFIX = "_store"  # ends the name of the child module that is a managed weight; part of state dicts

# Modules that run another one in its place, by the names of their classes → the child that is the other one. It is at
# the wrapper's own path for us, as it was before somebody compiled or distributed it.
WRAPPERS = {
    "OptimizedModule": "_orig_mod",  # torch.compile
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "FullyShardedDataParallel": "_fsdp_wrapped_module",
    "ActivationWrapper": "_checkpoint_wrapped_module",  # torch's checkpoint_wrapper and offload_wrapper
    "DeepSpeedEngine": "module",
}
_LIBRARIES = ("torch", "deepspeed")


class ParameterRef(NamedTuple):
    """A place where a layer looks a parameter up.

    Attributes:
        path: The layer's path in the module, without `WRAPPERS`; "" for the module itself.
        layer: The layer.
        attribute: The layer's attribute.
        name: The parameter's name, as in `module.named_parameters()` without `WRAPPERS`.
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
            managed = value if isinstance(value, ManagedWeight) else self.managed(value)
            if managed is not value and value.is_meta:
                for ref in self.refs:
                    follow(managed, "base", ref.layer, ref.attribute)
            self.prepared = prepared = LazyWeight(managed)
        return prepared

    @property
    def layout(self) -> Layout:
        """How low-rank updates see the weight as a matrix."""
        return self.value.layout if isinstance(self.value, ManagedWeight) else self._layout(self.value.shape)

    def _layout(self, shape: Size) -> Layout:
        return layout_of([(ref.layer, ref.attribute) for ref in self.refs], shape)

    def managed(self, base: nn.Parameter | QuantizedTensor) -> ManagedWeight:
        """Return a managed weight with the base `base` for these places, without putting it there."""
        return ManagedWeight(base, self._layout(base.shape))  # a parameter that holds packed values has another

    def tensor(self) -> Tensor:
        """Return the parameter's values, also if they are offloaded; of a managed weight the dense weight."""
        if isinstance(self.value, ManagedWeight):
            return self.value.dense()
        for ref in self.refs if self.value.is_meta else ():
            if is_offloaded(ref.layer, ref.attribute):
                return fetch(ref.layer, ref.attribute, self.value)
        return self.value


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


def is_within(path: str, modules: Iterable[str]) -> bool:
    """Return whether a path is that of one of these modules, or of something in one of them."""
    return any(f"{path}.".startswith(f"{module}.") for module in modules)


def library_modules(module: nn.Module, remove_duplicate: bool = True) -> Iterator[tuple[str, nn.Module]]:
    """Yield `named_modules()` without managed weights and `WRAPPERS`: the modules that the library itself made.

    A wrapper with parameters or buffers of its own is given too, at the path of what it wraps and before it.

    Args:
        module: Where to begin.
        remove_duplicate: Whether a module registered under several names is given once, under the first.
    """
    seen: set[int] = set()

    def walk(path: str, layer: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        if id(layer) in seen or isinstance(layer, ManagedWeight):
            return
        seen.add(id(layer))
        wrapped = _wrapped_name(layer)
        if wrapped is None or layer._parameters or layer._buffers:
            yield path, layer
        for name, child in layer._modules.items():
            if child is not None:
                yield from walk(path if name == wrapped else f"{path}.{name}" if path else name, child)
        if not remove_duplicate:
            seen.discard(id(layer))  # so that only a module inside itself is skipped

    yield from walk("", module)


def _wrapped_name(layer: nn.Module) -> str | None:
    """Return the name of the child that a wrapper runs in its place, or None if the layer is no wrapper."""
    children = layer._modules
    if not children or children.keys().isdisjoint(WRAPPERS.values()):
        return None
    for base in type(layer).__mro__:
        name = WRAPPERS.get(base.__name__)
        if name in children and base.__module__.partition(".")[0] in _LIBRARIES:
            return name
    return None


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module that the library itself made: what is inside `WRAPPERS`, if `module` is one of them."""
    while (name := _wrapped_name(module)) is not None:
        module = module._modules[name]  # type: ignore[assignment]
    return module


def plain_names(module: nn.Module) -> Callable[[str], str]:
    """Return a function that takes the parts of `WRAPPERS` out of a name from the module's own listings."""
    inside = [
        (f"{path}.{name}." if path else f"{name}.", f"{path}." if path else "")
        for path, layer in module.named_modules(remove_duplicate=False)
        if (name := _wrapped_name(layer)) is not None
    ]
    inside.reverse()  # the innermost first

    def plain(name: str) -> str:
        for prefix, outside in inside:
            if name.startswith(prefix):
                name = outside + name[len(prefix) :]
        return name

    return plain


def named_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Return the module's buffers by each of their names, without `WRAPPERS`."""
    plain = plain_names(module)
    return {plain(name): buffer for name, buffer in module.named_buffers(remove_duplicate=False)}


def submodule(module: nn.Module, path: str) -> nn.Module:
    """Return the library's module at a path of `library_modules`.

    Raises:
        AttributeError: there is none.
    """
    layer = unwrapped(module)
    for name in path.split(".") if path else ():
        if name not in layer._modules or layer._modules[name] is None:
            raise AttributeError(f"{type(layer).__name__} has no module {name!r}")
        layer = unwrapped(layer._modules[name])  # type: ignore[arg-type]
    return layer


def index_module(module: nn.Module) -> ModuleIndex:
    """Walk over a module once.

    A layer under several names is a place under each of them, as in `state_dict()`.

    Raises:
        WeightError: a managed weight was replaced from outside.
    """
    groups: dict[Any, TiedGroup] = {}
    buffers: dict[str, BufferRef] = {}
    registered: set[int] = set()
    for path, layer in library_modules(module, remove_duplicate=False):
        for attribute, value in (*layer._parameters.items(), *_lazy_weights(layer)):
            if value is not None:
                ref = parameter_ref(path, layer, attribute)
                key = _identity(layer, attribute, value)
                if key in groups:
                    groups[key].refs.append(ref)
                else:
                    groups[key] = TiedGroup(value, [ref])
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


def _identity(layer: nn.Module, attribute: str, value: nn.Parameter | ManagedWeight) -> Any:
    """Return a key that is the same for all places of one weight."""
    tied = tied_identity(layer, attribute) if isinstance(value, Tensor) and value.is_meta else None
    return id(value) if tied is None else tied


def _lazy_weights(layer: nn.Module) -> list[tuple[str, ManagedWeight]]:
    """Return (attribute, managed weight) of a layer's own lazy weights."""
    return [
        (attribute, value._zoo_store)
        for attribute, value in layer.__dict__.items()
        if isinstance(value, LazyWeight) and isinstance(value._zoo_store, ManagedWeight) and not value._zoo_detached
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


def outdated(groups: list[TiedGroup]) -> bool:
    """Return whether the module has changed since the walk that found `groups`."""
    for group in groups:
        ref, value = group.refs[0], group.value
        current = ref.layer._parameters.get(ref.attribute)
        if current is None:
            current = getattr(ref.layer.__dict__.get(ref.attribute), "_zoo_store", None)
        if current is not value:
            return True
    return False
