"""Classes that a user asks for, the captions of their samples, and the labels of training data."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import TYPE_CHECKING, Any

from zoo.errors import DataError, ZooError

if TYPE_CHECKING:
    from torch import Tensor


def class_labels(wanted: Any, n: int, *, count: int, names: Sequence[str] = ()) -> Tensor | None:
    """Return the class of each of `n` samples, int64 [n]; None for a model without classes.

    Args:
        wanted: None (all classes in turn), a class by number or name, a list, tuple, range, array or tensor of such
            classes, or a text: one-letter names without spaces ("HELLO"), else names or numbers with commas ("3,1").
            What is given is repeated to `n`.
        n: the number of samples.
        count: the number of classes; 0: the model has none.
        names: what the classes are called, in order, where they have names.

    Raises:
        ZooError: a class does not exist, or the model has no classes.
    """
    import torch

    if not count:
        if wanted is not None:
            raise ZooError(f"labels: expected none, as the model has no classes, got {wanted!r}: leave the option out")
        return None
    chosen = list(range(count)) if wanted is None else _classes(wanted, count, names)
    if not chosen or None in chosen:
        known = f"names ({', '.join(names)}) or " if names else ""
        raise ZooError(
            f"labels: expected classes as {known}numbers from 0 to {count - 1}, got {wanted!r}: "
            "give one, a list of them, or a text with commas"
        )
    return torch.tensor([chosen[i % len(chosen)] for i in range(n)])  # [n]


def class_captions(labels: Tensor | None, names: Sequence[str] = ()) -> list[str] | None:
    """Return what each sample shows: the name of its class, or the class's number where it has none.

    Args:
        labels: int64 [n], or None for samples without classes, which have no captions.
        names: what the classes are called, in order.
    """
    if labels is None:
        return None
    return [names[label] if label < len(names) else str(label) for label in labels.tolist()]


def check_labels(labels: Tensor | None, *, count: int, model: str) -> Tensor | None:
    """Return the labels to train with; None for a model without classes, whatever the data have.

    Args:
        labels: int64 [n] as the data have them, or None where they have none.
        count: the number of classes; 0: the model has none.
        model: what an error calls the model.

    Raises:
        DataError: the data have no labels, or some that are none of the model's classes.
    """
    if not count:
        return None
    if labels is None:
        raise DataError(
            f"{model} has {count} classes, so its data need labels: give a folder with one subfolder per class, or "
            "(images, labels)"
        )
    if labels.device.type not in ("cpu", "mps"):  # which nobody waits for: the device itself says so, later
        import torch

        inside = ((labels >= 0) & (labels < count)).all()
        torch._assert_async(inside, f"expected labels from 0 to {count - 1}, the classes of {model}, got others")
        return labels
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < count:
        found = f"{int(labels.min())} to {int(labels.max())}"
        raise DataError(f"expected labels from 0 to {count - 1}, the classes of {model}, got labels from {found}")
    return labels


def _classes(wanted: Any, count: int, names: Sequence[str]) -> list[int | None]:
    """Return the number of each class in `wanted`; None for what is no class."""
    if isinstance(wanted, str):
        if wanted and all(letter in names for letter in wanted):
            return [names.index(letter) for letter in wanted]
        return [_number(part.strip(), count, names) for part in wanted.split(",")]
    if hasattr(wanted, "tolist"):  # a tensor or an array
        wanted = wanted.flatten().tolist() if getattr(wanted, "ndim", 0) else [wanted.tolist()]
    items = list(wanted) if isinstance(wanted, list | tuple | range) else [wanted]
    return [_number(item, count, names) for item in items]


def _number(item: Any, count: int, names: Sequence[str]) -> int | None:
    if isinstance(item, str):
        if item in names:
            return list(names).index(item)
        item = int(item) if item.isdecimal() else None
    try:
        number = index(item)
    except TypeError:
        return None
    # True is an int to Python, and hardly what was meant.
    return number if not isinstance(item, bool) and 0 <= number < count else None
