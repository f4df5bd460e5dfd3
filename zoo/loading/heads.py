"""Give a model another head, or another input, than its checkpoint has: which parameters are new, and their values.

What is new is found by names and shapes: the module with the head is compared with the one without it, and with one
that has a class more. No plugin says it, and none needs to.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from zoo.catalog.entry import RANDOM, Entry
from zoo.catalog.head import TASKS, Head
from zoo.errors import AdapterError, CheckpointError, ZooError
from zoo.formats import heads as saved_heads
from zoo.hub.adapters import resolve_path
from zoo.integrations.initial import initial_values
from zoo.loading.buffers import construct
from zoo.plugin import hooks
from zoo.plugin.quantize import Plan
from zoo.torch_state.modes import seeded
from zoo.weights.carrier import carried
from zoo.weights.walk import ModuleIndex, index_module

_SEED = 0  # of new values where the user gives none: the same for everyone who loads the model
_LOG = logging.getLogger("zoo")


def with_head(entry: Entry, asked: Head | None, adapters: Mapping[str, Any]) -> Entry:
    """Return the entry with the head that is asked for, or that saved adapters were trained with.

    Args:
        entry: the model's.
        asked: from the arguments of `zoo.load`.
        adapters: as `lora=` names them; those that are the places of saved ones say themselves which head they have.

    Raises:
        AdapterError: two of these differ.
        ZooError: the plugin makes no such head.
    """
    unsaid = None
    for name, place in adapters.items():
        if isinstance(place, str | os.PathLike):
            path = resolve_path(place)
            theirs = saved_heads.head_of(path)
            asked = theirs if asked is None else _agreed(asked, theirs, name)
            unsaid = unsaid or saved_heads.task_of(path)
    if asked is None and unsaid is None:
        return entry
    can = hooks.heads(entry)
    if unsaid in can.tasks and can.own is None and (asked is None or asked.task is None):
        raise AdapterError(
            f"the adapter brings a head for the task {unsaid!r} and does not say its classes, and {entry.name} has "
            f"no such head: give classes=[…], their names in order or how many{_also(unsaid)}"
        )
    if asked is None:
        return entry
    if asked.task is not None and asked.task not in can.tasks:
        able = f"makes heads for {', '.join(map(repr, can.tasks))}" if can.tasks else "makes no new heads"
        raise ZooError(
            f"{entry.name}: classes= and task= ask for {TASKS[asked.task]} (task={asked.task!r}), and the architecture "
            f"{entry.plugin!r} {able}: leave them out, or load a model that can"
        )
    for argument, possible in (("image_size", can.image_size), ("channels", can.channels)):
        if getattr(asked, argument) is not None and not possible:
            raise ZooError(f"{entry.name}: the architecture {entry.plugin!r} takes no {argument}=: leave it out")
    own = can.own
    if own is not None and (asked.task, asked.count) == (own.task, own.count) and asked.names in ((), own.names):
        _LOG.info("%s has the head %s already, which stays", entry.name, own)
        asked = replace(asked, task=None, names=(), count=0)
    if asked == Head():
        return entry
    return replace(entry, head=replace(asked, modules=()))


def _also(task: str | None) -> str:
    return "" if task == "classify" else f", with task={task!r}"


def _agreed(asked: Head, own: Head | None, name: str) -> Head:
    """Return the head of a saved adapter, of which the user may have said a part too.

    Raises:
        AdapterError: the user said something else.
    """
    if own is None:
        return asked
    task = asked.task in (None, own.task)
    classes = not asked.count or (asked.names or own.names, asked.count) == (own.names, own.count)
    size = asked.image_size in (None, own.image_size) and asked.channels in (None, own.channels)
    if not (task and classes and size):
        raise AdapterError(
            f"adapter {name!r} was trained with the head {own}, and {asked} is asked for: leave classes and task out, "
            "or load it without this adapter"
        )
    return own


class NewHead:
    """What of a module is new, because its entry has a head.

    Args:
        entry: The model's, with a head.
        index: The walk over its module, on `meta`.

    Attributes:
        names: The parameters (by the name of their first place) that may be new, on top of those in `classes`.
        classes: Parameters of which one dimension is the classes → that dimension, if the checkpoint's own head goes.
        gone: Names of the module without the head, which the module with it lacks.
        new: The parameters that are new, once the checkpoint has been read.
    """

    def __init__(self, entry: Entry, module: nn.Module, index: ModuleIndex) -> None:
        head = entry.head
        assert head is not None
        self.entry, self.module, self.index = entry, module, index
        self.names: set[str] = set()
        self.classes: dict[str, int] = {}
        self.gone: set[str] = set()
        self.new: set[str] = set()
        self._rows: list[int | None] | None = None
        if head.task is None:
            return
        shapes = {ref.name: tuple(group.value.shape) for group in index.groups for ref in group.refs}
        kept = replace(head, task=None, names=(), count=0)
        before = _as_part(_shapes(replace(entry, head=kept if kept != Head() else None)), module, shapes)
        larger = _shapes(replace(entry, head=replace(head, names=(), count=head.count + 1)))
        for name, shape in shapes.items():
            more = larger.get(name, shape)
            if more != shape:
                self.classes[name] = next(at for at, size in enumerate(shape) if more[at] != size)
            elif before.get(name) != shape:
                self.names.add(name)
        if not self.classes:
            raise CheckpointError(
                f"{entry.name}: none of its parameters depends on how many classes there are, so it has no head to give"
            )
        self.gone = before.keys() - shapes.keys()
        own = hooks.heads(entry).own
        if own is not None and own.names and own.task == head.task:
            rows = [own.names.index(name) if name in own.names else None for name in head.names]
            self._rows = rows if any(row is not None for row in rows) else None
        self._count = 0 if own is None else own.count

    def filled(self, tensors: Iterable[tuple[str, Tensor]], chosen: Plan, seed: int | None) -> Iterator[Any]:
        """Yield (name, tensor) of a checkpoint without its old head, and the new one's first values.

        What is new is taken out of the plan `chosen`, so that it stays in full precision.

        Args:
            tensors: the checkpoint's, under the names of the module.
            chosen: how each weight is to be quantized.
            seed: of the first values.
        """
        tensors = self._checked(tensors)
        if self.entry.head is None or self.entry.head.task is None:
            yield from tensors
            return
        first = {ref.name: group.name for group in self.index.groups for ref in group.refs}
        random, seen = self.entry.weights == RANDOM, set()
        old: dict[str, Tensor] = {}
        for name, tensor in tensors:
            if random:
                yield name, tensor
            elif name in self.classes:
                if self._rows is not None and tensor.dim() > self.classes[name]:
                    packed = carried(tensor)
                    old[first[name]] = tensor if packed is None else packed()
            elif name not in self.gone or name in first:
                seen.add(first.get(name, name))
                yield name, tensor
        missing = {first[name] for name in self.names} - seen
        self.new = {first[name] for name in self.classes} | missing
        for name in self.new:
            chosen.pop(name, None)
        if random:
            return
        with seeded(_SEED if seed is None else seed):
            values = initial_values(self.module, self.modules())
        for name in sorted(self.new):
            yield name, self._with_rows(name, values[name], old.get(name))
        yield from self._new_buffers(seen)

    def _checked(self, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors; raise `CheckpointError` for one that other images than the checkpoint's do not fit."""
        head = self.entry.head
        groups = {ref.name: group for group in self.index.groups for ref in group.refs}
        for name, tensor in tensors:
            wanted = tuple(groups[name].value.shape) if name in groups else tuple(tensor.shape)
            other = wanted != tuple(tensor.shape) and name not in self.classes
            if other and head is not None and (head.image_size or head.channels):
                asked = f"image_size={head.image_size}" if head.image_size else f"channels={head.channels}"
                raise CheckpointError(
                    f"{self.entry.name}: {asked}: {name} has shape {tuple(tensor.shape)} in the checkpoint and "
                    f"{wanted} for such images, and cannot be resized: leave {asked.partition('=')[0]} out"
                )
            yield name, tensor

    def planned(self, chosen: Plan) -> None:
        """Take what may be new out of a plan, for a module that is not filled."""
        first = {ref.name: group.name for group in self.index.groups for ref in group.refs}
        self.new = {first[name] for name in (*self.classes, *self.names)}
        for name in self.new:
            chosen.pop(name, None)

    def _with_rows(self, name: str, value: Tensor, old: Tensor | None) -> Tensor:
        """Return new values with those of the checkpoint's classes of the same names in their places."""
        at = self.classes.get(name, 0)
        if old is None or self._rows is None or old.dim() != value.dim() or old.shape[at] != self._count:
            return value
        if any(old.shape[other] != value.shape[other] for other in range(value.dim()) if other != at):
            return value
        kept = [(new, row) for new, row in enumerate(self._rows) if row is not None]
        value = value.to(old.dtype) if old.is_floating_point() else value
        here, there = (torch.tensor(rows) for rows in zip(*kept, strict=True))
        return value.index_copy(at, here, old.index_select(at, there))

    def _new_buffers(self, seen: set[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield the buffers of new modules, which are real from the start."""
        inside = tuple(f"{path}." for path in self.modules())
        for name, (layer, attribute, persistent) in self.index.buffers.items():
            buffer = layer._buffers[attribute]
            if persistent and buffer is not None and name not in seen and name.startswith(inside):
                yield name, buffer.clone()

    def modules(self) -> tuple[str, ...]:
        """Return the largest modules of which every parameter is new, and single new parameters of other modules."""
        places = {ref.name: group.name in self.new for group in self.index.groups for ref in group.refs}
        mixed = {path for name, new in places.items() if not new for path in _above(name)}
        found = {
            next((path for path in _above(name) if path not in mixed), name) for name, new in places.items() if new
        }
        return tuple(sorted(found))

    def finished(self) -> Entry:
        """Return the entry, whose head says what is new."""
        head = self.entry.head
        assert head is not None
        modules = self.modules()
        if head.task is not None:
            own = hooks.heads(self.entry).own
            kept = [name for name, row in zip(head.names, self._rows or (), strict=False) if row is not None]
            gone = f"in the place of {own}" + (f", of which {', '.join(kept)} stay" if kept else "") if own else ""
            _LOG.info("%s: new head %s (%s) %s", self.entry.name, head, ", ".join(modules), gone)
        return replace(self.entry, head=replace(head, modules=modules))


def _shapes(entry: Entry) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter of an entry's module, under each of its names."""
    groups = index_module(construct(entry)).groups
    return {ref.name: tuple(group.value.shape) for group in groups for ref in group.refs}


def _as_part(
    body: dict[str, tuple[int, ...]], module: nn.Module, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Return a body's names as they are in a module of which the body is a child; unchanged for another module."""
    if sum(name in shapes for name in body) > len(body) / 2:
        return body
    for child, _ in module.named_children():
        if sum(f"{child}.{name}" in shapes for name in body) > len(body) / 2:
            return {f"{child}.{name}": shape for name, shape in body.items()}
    return body


def _above(name: str) -> list[str]:
    """Return the paths of the modules that a parameter is in, the outermost first."""
    parts = name.split(".")[:-1]
    return [".".join(parts[: end + 1]) for end in range(len(parts))]
