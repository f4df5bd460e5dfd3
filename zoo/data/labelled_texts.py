"""Texts with labels, as a user has them: folders of classes, lists, datasets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.data.classes import bind_classes
from zoo.data.columns import USUAL
from zoo.data.task_labels import class_numbers, label_tensor
from zoo.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

_HOLD_OUT = 10  # one file of a class in this many is held out
_SPLITS = {"train": ("train",), "test": ("test", "val", "validation")}


class LabelledTexts(NamedTuple):
    """Texts with what a head is to say of them.

    Attributes:
        texts: n texts; of the task "tokens" n lists of words.
        labels: as `zoo.data.task_labels.label_tensor` makes them; of "tokens" a list of classes for each text.
    """

    texts: list[Any]
    labels: Tensor | list[list[int]]


def labelled_texts(data: Any, split: str, *, task: str, names: Sequence[str], model: str) -> LabelledTexts:
    """Return the texts of one split with their labels.

    Args:
        data: a folder with one subfolder of .txt files for each class (task "classify"), perhaps in folders `train` and
            `test`, else every tenth file of a class is held out; or a list or Dataset of (text, label) or {"text",
            "label"}, of "tokens" (words, tags) or {"tokens", "tags"}, which is used whole in either split.
        split: "train" or "test".
        task: one of `zoo.catalog.head.TASKS`.
        names: of the model's classes, in order.
        model: what errors call the model.

    Raises:
        DataError: the data are anything else, or a label is none of the model's.
    """
    if split not in _SPLITS:
        raise DataError(f"split: expected one of {', '.join(_SPLITS)}, got {split!r}")
    if isinstance(data, str | Path):
        if task != "classify":
            raise DataError(f"{data}: a folder of classes is no data for the task {task!r}: give a list or a Dataset")
        texts, numbers = _from_folder(Path(data).expanduser(), split, names, model)
        return LabelledTexts(texts, label_tensor(task, numbers, names, model=model))
    if data is None or isinstance(data, Mapping) or not isinstance(data, Sized) or not hasattr(data, "__getitem__"):
        raise DataError(
            "expected texts with classes: a folder with one subfolder of .txt files for each class, or a list or "
            f"Dataset of (text, label); got {type(data).__name__}"
        )
    pairs = [(_tagged if task == "tokens" else _pair)(data[index]) for index in range(len(data))]
    if not pairs:
        raise DataError("expected texts with classes, got an empty list")
    if task == "tokens":
        flat = class_numbers([tag for _, tags in pairs for tag in tags], names, model=model)
        rest = iter(flat)
        return LabelledTexts([words for words, _ in pairs], [[next(rest) for _ in tags] for _, tags in pairs])
    labels = label_tensor(task, [label for _, label in pairs], names, model=model)
    return LabelledTexts([text for text, _ in pairs], labels)


def classes_in(data: Any) -> list[str]:
    """Return the names of all classes that data with labels have, in order: those of folders, or of each row's label.

    Raises:
        DataError: the data have none.
    """
    from zoo.data.classes import in_order

    if isinstance(data, str | Path):
        root = Path(data).expanduser()
        parts = [root / name for names in _SPLITS.values() for name in names if (root / name).is_dir()] or [root]
        names = {child.name for part in parts if part.is_dir() for child in part.iterdir() if child.is_dir()}
        names = {name for name in names if not name.startswith((".", "__"))}
        if len(names) < 2:
            raise DataError(f"{root}: expected a folder with a subfolder for each class, found {len(names)} of them")
        return in_order(names)
    found: set[str] = set()
    for index in range(len(data)):
        label = _pair(data[index])[1]
        found |= {str(one) for one in label} if isinstance(label, list | tuple | set) else {str(label)}
    return in_order(found)


def _pair(item: Any) -> tuple[str, Any]:
    if isinstance(item, Mapping):
        text = next((item[name] for name in USUAL["text"] if name in item), None)
        label = next((item[name] for name in USUAL["label"] if name in item), None)
        item = (text, label)
    if not isinstance(item, tuple | list) or len(item) != 2 or not isinstance(item[0], str) or item[1] is None:
        raise DataError(f'expected (text, label) or {{"text": …, "label": …}}, got {str(item)[:80]!r}')
    return item[0], item[1]


def _tagged(item: Any) -> tuple[list[str], list[Any]]:
    if isinstance(item, Mapping):
        words = next((item[name] for name in USUAL["words"] if name in item), None)
        tags = next((item[name] for name in USUAL["tags"] if name in item), None)
        item = (words, tags)
    right = isinstance(item, tuple | list) and len(item) == 2 and all(isinstance(one, list | tuple) for one in item)
    if not right or not item[0] or len(item[0]) != len(item[1]) or not all(isinstance(word, str) for word in item[0]):
        raise DataError(f'expected (words, tags) of one length, or {{"tokens": …, "tags": …}}, got {str(item)[:80]!r}')
    return list(item[0]), list(item[1])


def _from_folder(root: Path, split: str, names: Sequence[str], model: str) -> tuple[list[str], list[int]]:
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder with one subfolder of .txt files for each class, got none there")
    own = {part: next((root / name for name in each if (root / name).is_dir()), None) for part, each in _SPLITS.items()}
    divided = all(own.values())
    every = [part for part in own.values() if part is not None] if divided else [root]
    root = (own[split] or root) if divided else root
    # The classes of all splits together, or a split that lacks one would number the others otherwise.
    found = sorted({child.name for part in every for child in part.iterdir() if any(child.glob("*.txt"))})
    if not found:
        raise DataError(f"{root}: expected subfolders of .txt files named like the model's classes, {', '.join(names)}")
    numbers = dict(zip(found, bind_classes(found, names, model=model)[0], strict=True))
    texts: list[str] = []
    labels: list[int] = []
    for folder in found:
        files = sorted((root / folder).glob("*.txt"))
        if not divided and len(files) >= _HOLD_OUT:
            held = [at % _HOLD_OUT == _HOLD_OUT - 1 for at in range(len(files))]
            files = [file for file, out in zip(files, held, strict=True) if out == (split == "test")]
        texts += [_read(file) for file in files]
        labels += [numbers[folder]] * len(files)
    return texts, labels


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: expected UTF-8 text, got {error}: convert it first") from error
