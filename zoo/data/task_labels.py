"""Labels of a task as numbers: classes by name, numbers to be predicted, sets of classes, classes of words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

from zoo.data.classes import are_names, bind_classes
from zoo.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100  # label of what counts in no loss


def label_tensor(task: str, values: Sequence[Any], names: Sequence[str], *, model: str) -> Tensor:
    """Return the labels of n examples as the task's loss takes them.

    Args:
        task: "classify" (int64 [n]), "regress" (float32 [n, c]) or "multilabel" (float32 [n, c] of zeros and ones).
        values: for "classify" a name or number each; for "regress" a number, or c of them; for "multilabel" a list of
            names, names with commas, or zeros and ones for all c classes.
        names: the names of the c classes or numbers, in order.
        model: what errors call the model.

    Raises:
        DataError: a label is none of these.
    """
    import torch

    if task == "classify":
        return torch.tensor(class_numbers(values, names, model=model), dtype=torch.int64)
    if task == "regress":
        return torch.tensor([_numbers(value, len(names)) for value in values], dtype=torch.float32).view(-1, len(names))
    return torch.tensor([_several(value, names, model) for value in values]).view(-1, len(names))


def class_numbers(values: Sequence[Any], names: Sequence[str], *, model: str) -> list[int]:
    """Return the number of the class that each value names: by name where it is a name.

    Raises:
        DataError: a value is no class.
    """
    plain = [_plain(value) for value in values]
    found = sorted({value for value in plain if isinstance(value, str)})
    if found and names and not are_names(names):  # "0", "LABEL_1"
        known: dict[str, int] = {name: number for number, name in enumerate(names)}
        known |= {str(number): number for number in range(len(names))}
        bound = known if all(name in known for name in found) else None
    else:
        bound = None
    if bound is None and found:
        bound = dict(zip(found, bind_classes(found, names, model=model)[0], strict=True))
    numbers = []
    for value, given in zip(plain, values, strict=True):
        number = (bound or {})[value] if isinstance(value, str) else value
        if not isinstance(number, int) or not 0 <= number < len(names):
            listed = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
            raise DataError(f"expected a label from 0 to {len(names) - 1} or one of {listed}, got {given!r:.80}")
        numbers.append(number)
    return numbers


def token_labels(tags: Sequence[Any], words: Sequence[int | None], numbers: dict[Any, int]) -> list[int]:
    """Return a label for each token: its word's tag for the first token of a word, IGNORED for all others.

    Args:
        tags: of each word.
        words: the word of each token; None for special tokens.
        numbers: tag → class.
    """
    before: int | None = None
    labels = []
    for word in words:
        labels.append(IGNORED if word is None or word == before else numbers[tags[word]])
        before = before if word is None else word
    return labels


def _plain(value: Any) -> Any:
    """Return a class as a str or an int; anything else as it is."""
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _numbers(value: Any, count: int) -> list[float]:
    items = value.tolist() if hasattr(value, "tolist") else value
    items = list(items) if isinstance(items, list | tuple) else [items]
    found = []
    for item in items:
        try:
            found.append(float(item) if isinstance(item, Real | str) and not isinstance(item, bool) else float("nan"))
        except ValueError:
            found.append(float("nan"))
    if len(found) != count or any(one != one or one in (float("inf"), float("-inf")) for one in found):
        wanted = "a finite number" if count == 1 else f"{count} finite numbers"
        raise DataError(f"expected {wanted} as the label of each example, got {value!r:.80}")
    return found


def _several(value: Any, names: Sequence[str], model: str) -> list[float]:
    items = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(items, str):
        whole = items.strip()
        items = [whole] if whole in names else [part.strip() for part in re.split(r"[,;|]", whole) if part.strip()]
    if not isinstance(items, list | tuple | set | frozenset):
        raise _no_set(value, names)
    items = list(items)
    if all(isinstance(item, str) for item in items):
        chosen = set(class_numbers(items, names, model=model))
        return [float(number in chosen) for number in range(len(names))]
    if len(items) == len(names) and all(isinstance(item, Real) and float(item) in (0.0, 1.0) for item in items):
        return [float(item) for item in items]
    raise _no_set(value, names)


def _no_set(value: Any, names: Sequence[str]) -> DataError:
    return DataError(
        f"expected the classes of each example as a list of names, or as {len(names)} zeros and ones for "
        f"{', '.join(names[:4])}{', …' if len(names) > 4 else ''}, got {value!r:.80}"
    )
