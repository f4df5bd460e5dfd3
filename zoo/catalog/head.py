"""The head that a model is to be given: its task and classes, and what images it is to take. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from zoo.errors import ZooError, did_you_mean

# What a head may be for → what `zoo info` calls it.
TASKS = {
    "classify": "one class for each item",
    "multilabel": "any number of classes for each item",
    "regress": "numbers for each item",
    "tokens": "one class for each token",
}
LARGEST = 1 << 20  # classes


@dataclass(frozen=True)
class Head:
    """What `zoo.load(classes=, task=, image_size=, channels=)` asks for.

    Attributes:
        task: one of `TASKS`; None: the checkpoint's own head stays.
        names: the classes' names in order, or those of the numbers that a regression gives; () where they have none.
        count: how many there are; 0 with the checkpoint's own head.
        image_size: (height, width) in pixels of the images that the model is to take; None: the checkpoint's.
        channels: of these images; None: the checkpoint's.
        modules: paths of the modules (or names of parameters) that are new, which train with every adapter; known once
            the model is loaded.
    """

    task: str | None = None
    names: tuple[str, ...] = ()
    count: int = 0
    image_size: tuple[int, int] | None = None
    channels: int | None = None
    modules: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The names, or numbers from 0 where the classes have none."""
        return self.names or tuple(map(str, range(self.count)))

    @property
    def key(self) -> str:
        """All that is asked for, in one line: equal for equal heads."""
        size = "" if self.image_size is None else "x".join(map(str, self.image_size))
        return f"{self.task or ''} {self.count} {list(self.names)} {size} {self.channels or ''}".strip()

    def __str__(self) -> str:
        shown = ", ".join(self.labels[:6]) + (f", … ({self.count})" if self.count > 6 else "")
        parts = [f"{self.task} ({shown if self.names else self.count})"] if self.task else []
        parts += [f"images of {self.image_size[0]} × {self.image_size[1]}"] if self.image_size else []
        parts += [f"{self.channels} channels"] if self.channels else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Heads:
    """What an architecture's plugin can do with `classes=`, as its hook `heads` returns it.

    Attributes:
        tasks: those of `TASKS` for which it makes a new head.
        own: the head that the checkpoint comes with, by its configuration; None where it has none.
        image_size: whether it takes other image sizes than the checkpoint's.
        channels: whether it takes other numbers of channels.
    """

    tasks: tuple[str, ...] = ()
    own: Head | None = None
    image_size: bool = False
    channels: bool = False


def as_head(classes: Any = None, task: str | None = None, image_size: Any = None, channels: Any = None) -> Head | None:
    """Return the head that the arguments of `zoo.load` ask for; None where they ask for nothing.

    Args:
        classes: names, or how many.
        task: one of `TASKS`; None: "classify", if there are classes.
        image_size: pixels of an edge, or (height, width).
        channels: of images.

    Raises:
        ZooError: a value cannot be.
    """
    if classes is None and task is None and image_size is None and channels is None:
        return None
    if task is not None and task not in TASKS:
        raise ZooError(
            f"task: expected one of {', '.join(map(repr, TASKS))}, got {task!r}.{did_you_mean(str(task), TASKS)}"
        )
    size, depth = _size(image_size), _whole("channels", channels)
    if classes is None and task is None:
        return Head(image_size=size, channels=depth)
    if classes is None and task != "regress":
        raise ZooError(f"task={task!r} needs classes: give classes=[…] with their names, or how many there are")
    names, count = _classes(1 if classes is None else classes)
    task = task or "classify"
    if task in ("classify", "tokens") and count < 2:
        raise ZooError(f"classes: expected at least two to tell apart, got {count}: give task='regress' for one number")
    return Head(task, names, count, size, depth)


def _classes(classes: Any) -> tuple[tuple[str, ...], int]:
    if isinstance(classes, int) and not isinstance(classes, bool):
        if not 1 <= classes <= LARGEST:
            raise ZooError(f"classes: expected names, or a number from 1 to {LARGEST}, got {classes}")
        return (), classes
    if isinstance(classes, str | bytes) or not isinstance(classes, Iterable):
        raise ZooError(f"classes: expected a list of names or a number, got {classes!r:.80}")
    names = tuple(classes)
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise ZooError(f"classes: expected a list of names or a number, got {list(names)!r:.80}")
    twice = [name for name in names if names.count(name) > 1] if len(set(names)) < len(names) else []
    if twice:
        raise ZooError(f"classes: expected each name once, got {twice[0]!r} twice")
    return names, len(names)


def _size(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    pair = tuple(value) if isinstance(value, list | tuple) else (value, value)
    if len(pair) != 2:
        raise ZooError(f"image_size: expected pixels of an edge, or (height, width), got {value!r:.80}")
    return tuple(_whole("image_size", edge) for edge in pair)  # type: ignore[return-value]


def _whole(name: str, value: Any) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1 << 16:
        raise ZooError(f"{name}: expected a whole number of at least 1, got {value!r:.80}")
    return value
