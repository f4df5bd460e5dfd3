"""Texts of classes: the data, the loss, class probabilities and metrics on held-out texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from zoo import DataError, Samples, ZooError
from zoo.data.stream import stream
from zoo.data.text import given_texts

from .model import check_vocabulary, context_of, tokenizer_of
from .text import WINDOW

if TYPE_CHECKING:
    from zoo import BatchRequest, Model, SampleRequest

# Notation of the shapes: b texts in a batch, t tokens of each, c classes.
SHOWN = 5  # classes that a sample names at most
_CHUNK = 16
_HOLD_OUT = 10  # one file of a class in this many is held out
_SPLITS = {"train": ("train",), "test": ("test", "val", "validation")}


def names_of(model: Model) -> list[str]:
    """Return the classes' names, in order."""
    config = model.module.config
    return [str(config.id2label[index]) for index in range(config.num_labels)]


def batches(model: Model, data: Any, request: BatchRequest) -> Iterable[dict[str, Tensor]]:
    """Return batches of "input_ids" and "attention_mask" int64 [b, t] and "labels" int64 [b].

    Texts longer than the model's context are cut.

    Args:
        model: the model.
        data: a folder with one subfolder of .txt files for each class, named like the class (or, where the model's
            classes have no names, taken in order), perhaps in folders `train` and `test`, else every tenth file of a
            class is held out; or a list or Dataset of (text, label) or {"text", "label"}, the label a number or a name,
            which is used whole in either split.
        request: batch size, split and seed.

    Raises:
        DataError: the data are anything else.
    """
    texts, labels = labelled_texts(model, data, request.split)
    tensors = {**_encode(model, texts), "labels": torch.tensor(labels)}
    return (_trimmed(batch) for batch in stream(tensors, request))


def loss(model: Model, batch: dict[str, Tensor]) -> Tensor:
    """Return the mean cross entropy, in nats, of the labels: a scalar."""
    return functional.cross_entropy(_logits(model, batch), batch["labels"])


def evaluate(model: Model, data: Any) -> dict[str, float]:
    """Return {"accuracy", "loss"} of held-out texts."""
    texts, labels = labelled_texts(model, data, "test")
    total, right = 0.0, 0
    for part in _parts({**_encode(model, texts), "labels": torch.tensor(labels)}):
        batch = {name: tensor.to(model.device) for name, tensor in part.items()}
        logits = _logits(model, batch)
        total += float(functional.cross_entropy(logits, batch["labels"], reduction="sum"))
        right += int((logits.argmax(-1) == batch["labels"]).sum())
    return {"accuracy": right / len(texts), "loss": total / len(texts)}


def sample(model: Model, request: SampleRequest) -> Samples:
    """Return `request.n` times what each text is, e.g. "positive 98.1 %, negative 1.9 %", captioned by the text.

    Options: text or texts. Nothing is drawn, so the seed changes nothing.
    """
    texts = given_texts(request.take(text=None, texts=None), "text", "texts")
    if texts is None:
        raise ZooError("expected texts to classify, got none: give text= or texts=")
    names = names_of(model)
    found = []
    for part in _parts(_encode(model, texts)):
        batch = {name: tensor.to(model.device) for name, tensor in part.items()}
        for shares in _logits(model, batch).softmax(-1).cpu():
            best = shares.argsort(descending=True)[:SHOWN].tolist()
            found.append(", ".join(f"{names[index]} {shares[index]:.1%}" for index in best))
    times = range(request.n)
    return Samples([line for line in found for _ in times], "text", [text for text in texts for _ in times])


def labelled_texts(model: Model, data: Any, split: str) -> tuple[list[str], list[int]]:
    """Return the texts of one split and their classes' numbers.

    Raises:
        DataError: the data is not what `batches` takes.
    """
    if split not in _SPLITS:
        raise DataError(f"split: expected one of {', '.join(_SPLITS)}, got {split!r}")
    names = names_of(model)
    if isinstance(data, str | Path):
        return _from_folder(Path(data).expanduser(), split, names)
    if data is None or isinstance(data, Mapping) or not isinstance(data, Sized) or not hasattr(data, "__getitem__"):
        raise DataError(
            "expected texts with classes: a folder with one subfolder of .txt files for each class, or a list or "
            f"Dataset of (text, label); got {type(data).__name__}"
        )
    pairs = [_pair(data[index], names) for index in range(len(data))]
    if not pairs:
        raise DataError("expected texts with classes, got an empty list")
    return [text for text, _ in pairs], [label for _, label in pairs]


def _pair(item: Any, names: list[str]) -> tuple[str, int]:
    if isinstance(item, Mapping):
        item = (item.get("text"), item.get("label", item.get("labels")))
    if not isinstance(item, tuple | list) or len(item) != 2 or not isinstance(item[0], str):
        raise DataError(f'expected (text, label) or {{"text": …, "label": …}}, got {str(item)[:80]!r}')
    text, label = item
    if isinstance(label, str) and label in names:
        return text, names.index(label)
    number = int(label) if isinstance(label, int | Tensor) or hasattr(label, "__index__") else -1
    if not 0 <= number < len(names):
        raise DataError(f"expected a label from 0 to {len(names) - 1} or one of {', '.join(names)}, got {label!r}")
    return text, number


def _from_folder(root: Path, split: str, names: list[str]) -> tuple[list[str], list[int]]:
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder with one subfolder of .txt files for each class, got none there")
    own = {part: next((root / name for name in each if (root / name).is_dir()), None) for part, each in _SPLITS.items()}
    divided = all(own.values())
    root = (own[split] or root) if divided else root
    folders = sorted(child.name for child in root.iterdir() if child.is_dir() and any(child.glob("*.txt")))
    numbers = _numbers(root, folders, names)
    texts: list[str] = []
    labels: list[int] = []
    for folder in folders:
        files = sorted((root / folder).glob("*.txt"))
        if not divided and len(files) >= _HOLD_OUT:
            held = [at % _HOLD_OUT == _HOLD_OUT - 1 for at in range(len(files))]
            files = [file for file, out in zip(files, held, strict=True) if out == (split == "test")]
        texts += [_read(file) for file in files]
        labels += [numbers[folder]] * len(files)
    return texts, labels


def _numbers(root: Path, folders: list[str], names: list[str]) -> dict[str, int]:
    if folders and set(folders) <= set(names):
        return {folder: names.index(folder) for folder in folders}
    unnamed = all(name == f"LABEL_{index}" for index, name in enumerate(names))
    if unnamed and len(folders) == len(names):
        return {folder: index for index, folder in enumerate(folders)}
    raise DataError(
        f"{root}: expected subfolders of .txt files named like the model's classes, {', '.join(names)}; "
        f"found {', '.join(folders) or 'none'}"
    )


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: expected UTF-8 text, got {error}: convert it first") from error


def _encode(model: Model, texts: list[str]) -> dict[str, Tensor]:
    tokenizer = tokenizer_of(model)
    limit = min(WINDOW, context_of(model))
    rows = tokenizer(texts, truncation=True, max_length=limit)["input_ids"]
    check_vocabulary(model, max(map(max, rows), default=0))
    filler = tokenizer.pad_token_id or 0
    inputs = torch.full((len(rows), max(map(len, rows))), filler)
    attention = torch.zeros_like(inputs)
    for row, ids in enumerate(rows):
        inputs[row, : len(ids)] = torch.tensor(ids)
        attention[row, : len(ids)] = 1
    return {"input_ids": inputs, "attention_mask": attention}


def _parts(tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    for start in range(0, len(tensors["input_ids"]), _CHUNK):
        yield _trimmed({name: tensor[start : start + _CHUNK] for name, tensor in tensors.items()})


def _trimmed(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the batch without the columns that are padding in all of its rows."""
    length = int(batch["attention_mask"].sum(1).max())
    return {name: tensor[:, :length] if tensor.ndim == 2 else tensor for name, tensor in batch.items()}


def _logits(model: Model, batch: dict[str, Tensor]) -> Tensor:
    attention = batch.get("attention_mask")
    return model.module(input_ids=batch["input_ids"], attention_mask=attention).logits.float()  # [b, c]
