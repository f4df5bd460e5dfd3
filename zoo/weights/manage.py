"""Putting stores and stand-ins into a module, finding them, and taking them out again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoo.errors import WeightError
from zoo.weights.packed import Packed
from zoo.weights.standin import Weight
from zoo.weights.store import Store
from zoo.weights.update import Layout

SUFFIX = "_store"
ORDER = "_zoo_parameter_order"


class Site(NamedTuple):
    """A place where a layer looks a parameter up."""

    path: str  # of the layer in the module, "" for the module itself
    layer: nn.Module
    attribute: str

    @property
    def name(self) -> str:
        """The parameter's name, as ``module.named_parameters()`` would give it."""
        return f"{self.path}.{self.attribute}" if self.path else self.attribute


def child_name(attribute: str) -> str:
    """The name under which a layer keeps the store of its parameter ``attribute``."""
    return attribute + SUFFIX


def library_modules(module: nn.Module, remove_duplicate: bool = True) -> Iterator[tuple[str, nn.Module]]:
    """``named_modules()`` without the stores: the modules that the library itself made.

    remove_duplicate: a module registered under several names is given once, under the first; else under each.
    """
    seen: set[int] = set()

    def walk(path: str, layer: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        if id(layer) in seen or isinstance(layer, Store):
            return
        seen.add(id(layer))
        yield path, layer
        for name, child in layer._modules.items():
            if child is not None:
                yield from walk(f"{path}.{name}" if path else name, child)
        if not remove_duplicate:
            seen.discard(id(layer))  # only a module inside itself is passed over

    yield from walk("", module)


def parameter_sites(module: nn.Module) -> Iterator[tuple[Site, nn.Parameter | Store]]:
    """Every place of every parameter, managed (its store) or not, tied ones once per place, in module order.

    A layer under several names is a place under each of them, as in ``state_dict()``. Raises ``WeightError`` where
    a managed weight has been replaced behind its store's back.
    """
    registered, used = set(), {}
    for path, layer in library_modules(module, remove_duplicate=False):
        for attribute, parameter in layer._parameters.items():
            if parameter is not None:
                yield Site(path, layer, attribute), parameter
        for attribute, weight in list(layer.__dict__.items()):
            if isinstance(weight, Weight) and not weight._zoo_detached:
                site = Site(path, layer, attribute)
                used[id(weight._zoo_store)] = site
                yield site, weight._zoo_store
        for name, child in layer._modules.items():
            if isinstance(child, Store):
                registered.add(id(child))
                if id(child) not in used:
                    raise _replaced(Site(path, layer, name.removesuffix(SUFFIX)))
    for store, site in used.items():
        if store not in registered:
            raise _replaced(site)


def _replaced(site: Site) -> WeightError:
    return WeightError(
        f"{site.name}: it, or a weight tied to it, was replaced after it had been quantized or adapted, so that its "
        "adapters no longer reach it: change weights before zoo.wrap, or after model.unload()"
    )


def grouped_sites(module: nn.Module) -> list[tuple[nn.Parameter | Store, list[Site]]]:
    """Each parameter or store once, with all the places that share it."""
    groups: dict[int, tuple[nn.Parameter | Store, list[Site]]] = {}
    for site, held in parameter_sites(module):
        groups.setdefault(id(held), (held, []))[1].append(site)
    return list(groups.values())


def stores(module: nn.Module) -> dict[str, Store]:
    """The managed weights: the name of the first place → store."""
    return {sites[0].name: held for held, sites in grouped_sites(module) if isinstance(held, Store)}


def manage(sites: list[Site], base: nn.Parameter | Packed, layout: Layout = Layout()) -> Store:  # noqa: B008
    """Give all ``sites`` (the places of one tied parameter) one store, and the stand-in that speaks for it.

    The store is a child of the first place's layer.
    """
    if isinstance(base, nn.Parameter):
        base.requires_grad_(False)
    store = Store(base, layout)
    weight = Weight(store)
    for number, site in enumerate(sites):
        if site.layer.__dict__.get(site.attribute) is weight:  # the same layer under another name
            continue
        if number == 0 and hasattr(site.layer, child_name(site.attribute)):
            raise WeightError(f"{site.name}: the layer already has something called {child_name(site.attribute)!r}")
        _put(site, store, weight, register=number == 0)
    store.train(sites[0].layer.training)
    return store


def unmanage(sites: list[Site], parameter: nn.Parameter) -> None:
    """Put a plain parameter back where a store was."""
    for site in sites:
        layer, attribute = site.layer, site.attribute
        layer.__dict__.pop(attribute, None)
        layer._modules.pop(child_name(attribute), None)
        setattr(layer, attribute, parameter)
        _restore_order(layer)


@contextmanager
def plain_parameters(module: nn.Module) -> Iterator[None]:
    """Plain dense parameters inside, active adapters included; the stores are back afterwards.

    For code that reads ``module.state_dict()`` itself. All weights are dense at once.
    """
    groups = [(held, sites) for held, sites in grouped_sites(module) if isinstance(held, Store)]
    weights = [(sites, [site.layer.__dict__[site.attribute] for site in sites]) for _, sites in groups]
    try:
        for held, sites in groups:
            with torch.no_grad():
                unmanage(sites, nn.Parameter(held.dense().clone(), requires_grad=False))
        yield
    finally:
        for (held, _), (sites, standins) in zip(groups, weights, strict=True):
            for number, (site, standin) in enumerate(zip(sites, standins, strict=True)):
                _put(site, held, standin, register=number == 0)


def save_pretrained(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """A library's own ``module.save_pretrained``, writing the weights under its own names, dense."""
    write = type(module).save_pretrained  # type: ignore[attr-defined]
    if kwargs.get("state_dict") is not None:
        return write(module, *args, **kwargs)
    training = [(layer, layer.training) for layer in module.modules()]
    module.eval()  # an adapter's dropout must not be written
    try:
        with plain_parameters(module):
            return write(module, *args, **kwargs)
    finally:
        for layer, mode in training:
            layer.training = mode


def _put(site: Site, store: Store, weight: Weight, register: bool) -> None:
    """Put a stand-in where a parameter is; ``register``: its store too, at the first of the places that share it.

    One place only: ``functional_call`` loses the tensors of a module that is registered under two names.
    """
    layer, attribute = site.layer, site.attribute
    layer.__dict__.setdefault(ORDER, tuple(layer._parameters))
    layer._parameters.pop(attribute, None)
    if register:
        layer.add_module(child_name(attribute), store)
    # Through setattr, not __dict__, so that layers that keep lists of their weights (nn.LSTM) take note.
    setattr(layer, attribute, weight)


def parameter_names(layer: nn.Module) -> list[str]:
    """The names of a layer's own parameters, managed or not, in the order in which the library registered them."""
    plain = [name for name, parameter in layer._parameters.items() if parameter is not None]
    managed = [name for name, value in layer.__dict__.items() if isinstance(value, Weight) and not value._zoo_detached]
    return _in_order(layer, [*plain, *managed])


def _in_order(layer: nn.Module, names: list[str]) -> list[str]:
    order = layer.__dict__.get(ORDER, ())
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))


def _restore_order(layer: nn.Module) -> None:
    """Give a layer's parameters the order they had: optimizers and their saved states go by it."""
    for name in _in_order(layer, list(layer._parameters)):
        layer._parameters[name] = layer._parameters.pop(name)
    if not any(isinstance(value, Weight) for value in layer.__dict__.values()):
        layer.__dict__.pop(ORDER, None)


def set_parameter(sites: list[Site], tensor: Tensor, requires_grad: bool = True) -> nn.Parameter:
    """Make ``tensor`` the parameter of all ``sites``, shared."""
    parameter = nn.Parameter(tensor, requires_grad=requires_grad and tensor.is_floating_point())
    for site in sites:
        site.layer._parameters.pop(site.attribute, None)
        setattr(site.layer, site.attribute, parameter)
    return parameter


def matrix_like(shape: torch.Size) -> bool:
    """Whether a weight has two or more dimensions, and so is one that is adapted and quantized."""
    return len(shape) >= 2 and shape.numel() > 0


def find_parameter(module: nn.Module, name: str) -> Any:
    """``module.get_parameter(name)`` for a module with managed weights: those are given as their stand-in.

    Libraries that look parameters up by name (transformers' ``tie_weights``) find what ``layer.weight`` would give.
    """
    path, _, attribute = name.rpartition(".")
    layer = module.get_submodule(path)
    if isinstance(layer.__dict__.get(attribute), Weight):
        return layer.__dict__[attribute]
    return type(module).get_parameter(module, name)
