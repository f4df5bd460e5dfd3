"""Persistent buffers, such as running statistics: what training changes beside parameters, for each adapter.

A batch norm's running mean, a spectral norm's vectors or a codebook belong to whatever was trained when they changed.
Nobody says when they change, so they are compared at every change of the active adapters and at every save. What has
changed belongs to the last adapter that has an effect, as a fully trained weight does. If none has, it is undone: the
base is frozen while it has adapters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoo.weights.readings import numbers
from zoo.weights.walk import is_within, library_modules


class _Place(NamedTuple):
    name: str
    layer: nn.Module
    attribute: str
    tensor: Tensor


class Buffers:
    """The persistent buffers of one module, under its adapters.

    Attributes:
        base: The values without any adapter, by the buffer's name; empty while there is none.
        own: By adapter the values that changed under it.
        watched: Set with the first adapter, when the buffers are as the base has them, until `reset`. Else the methods
            that change anything do nothing.
        ignored: Paths of modules that are part of neither the base nor an adapter.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.base: dict[str, Tensor] = {}
        self.own: dict[str, dict[str, Tensor]] = {}
        self._shown: dict[str, Tensor] = {}  # as they were when they were last looked at
        self._owner: str | None = None  # whose the next change is; None for the base's
        self.ignored: tuple[str, ...] = ()
        self.watched = False
        self._lent: dict[str, Tensor] | None = None  # while `lend` is in force, the module's own tensors

    def any(self) -> bool:
        """Return whether there are buffers that an adapter may have values of its own for."""
        return next(self._places(), None) is not None

    def notice(self) -> None:
        """Compare every buffer with what it was, and keep what has changed under an adapter."""
        compared = []
        for name, _, _, tensor in self._places():
            if name not in self.base:
                self.base[name] = self._shown[name] = tensor.detach().clone()
            elif self._owner is not None:
                compared.append((name, tensor))
        same = _equal([(tensor, self._shown[name]) for name, tensor in compared])
        for (name, tensor), unchanged in zip(compared, same, strict=True):
            if not unchanged:
                self.own.setdefault(self._owner, {})[name] = self._shown[name] = tensor.detach().clone()  # type: ignore[arg-type]

    def show(self, weights: Mapping[str, float]) -> None:
        """Give the buffers the values that they have under these adapters, in this order, with these weights.

        A weight between 0 and 1 lies between the values before and the adapter's own; others count as the nearer one.
        """
        self.notice()
        self._owner = next((name for name in reversed(tuple(weights)) if weights[name] != 0.0), None)
        values = [(place, self.value(place.name, weights)) for place in self._places()]
        for (place, value), same in zip(values, _equal([(one.tensor, own) for one, own in values]), strict=True):
            if not same:
                self._set(place, value)
            self._shown[place.name] = value

    def value(self, name: str, weights: Mapping[str, float]) -> Tensor:
        """Return a buffer's value under these adapters. It must not be written to."""
        value = self.base[name]
        for adapter, weight in weights.items():
            mine = self.own.get(adapter, {}).get(name)
            if mine is None or weight <= 0.0:
                continue
            blends = weight < 1.0 and value.is_floating_point() and value.shape == mine.shape
            value = torch.lerp(value.to(mine), mine, weight) if blends else mine
        return value

    def under(self, weights: Mapping[str, float]) -> dict[str, Tensor]:
        """Return the buffers whose values are an adapter's under these adapters, not the base's."""
        names = dict.fromkeys(name for adapter in weights for name in self.own.get(adapter, ()))
        return {name: self.value(name, weights) for name in names}

    def within(self, layer: nn.Module, adapter: str) -> dict[str, Tensor]:
        """Return all buffers of a layer and below, by their names in it, with their values under one adapter."""
        names = {(id(place.layer), place.attribute): place.name for place in self._places()}
        found = {}
        for path, below in library_modules(layer, remove_duplicate=False):
            for attribute in below._buffers:
                name = names.get((id(below), attribute))
                if name is not None:
                    found[f"{path}.{attribute}" if path else attribute] = self.value(name, {adapter: 1.0})
        return found

    def of_base(self) -> dict[str, Tensor]:
        """Return the base's values."""
        return dict(self.base) if self.watched else {place.name: place.tensor for place in self._all_places()}

    def reset(self) -> None:
        """Forget the base and all adapters; the buffers keep the values that they have now."""
        self.watched = False
        self.base, self.own, self._shown, self._owner = {}, {}, {}, None

    @torch.no_grad()
    def lend(self) -> None:
        """Put copies in the buffers' places until `give_back`, and a new one at every change of their values.

        So that several passes of the module with different adapters, before one backward pass, do not change tensors
        that the graph holds. Layers in training mode keep theirs: they write them and do not read them, and what they
        write belongs to the adapter that trains.
        """
        if self._lent is None:
            self.notice()
            places = [place for place in self._places() if not place.layer.training]
            self._lent = {place.name: place.tensor for place in places}
            for _, layer, attribute, tensor in places:
                layer._buffers[attribute] = tensor.clone()

    def give_back(self) -> None:
        """Put the module's own tensors back, with the present values."""
        places, lent, self._lent = list(self._places()), self._lent, None
        for place in places if lent else ():
            original = lent[place.name]  # type: ignore[index]
            place.layer._buffers[place.attribute] = original
            if not all(_equal([(original, place.tensor)])):
                self._set(place._replace(tensor=original), place.tensor)

    @torch.no_grad()
    def _set(self, place: _Place, value: Tensor) -> None:
        if self._lent is None and place.tensor.shape == value.shape and not place.tensor.is_inference():
            place.tensor.copy_(value)  # compiled code and other libraries hold the tensor
        else:
            same_type = place.tensor.dtype if place.tensor.is_floating_point() else value.dtype
            place.layer._buffers[place.attribute] = value.to(place.tensor.device, same_type, copy=True)

    def _places(self) -> Iterator[_Place]:
        """Yield every persistent buffer, while some are lent those; none if they are not watched."""
        if not self.watched or self._lent == {}:
            return
        yield from (place for place in self._all_places() if self._lent is None or place.name in self._lent)

    def _all_places(self) -> Iterator[_Place]:
        for path, layer in library_modules(self.module):  # without adapters, of which there may be many
            if not layer._buffers or is_within(path, self.ignored):
                continue
            for attribute, tensor in layer._buffers.items():
                persists = tensor is not None and attribute not in layer._non_persistent_buffers_set
                if persists and tensor.layout is torch.strided:  # type: ignore[union-attr]
                    yield _Place(f"{path}.{attribute}" if path else attribute, layer, attribute, tensor)  # type: ignore[arg-type]


def _equal(pairs: list[tuple[Tensor, Tensor]]) -> list[bool]:
    """Return which buffers have a value, up to a conversion of the whole module to another type; read together."""
    found: list[float | Tensor] = []
    for tensor, value in pairs:
        if tensor.shape != value.shape or tensor is value or tensor.is_meta or value.is_meta:
            found.append(float(tensor.shape == value.shape))
        elif tensor.device.type == "cpu":
            found.append(float(torch.equal(tensor, value.to(tensor.device, tensor.dtype))))
        else:
            found.append((tensor == value.to(tensor.device, tensor.dtype)).all())
    return [bool(one) for one in numbers(found)]
