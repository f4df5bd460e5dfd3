"""The head that a saved adapter was trained with, in its `zoo.json`: read, written, compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo.catalog.entry import Entry
from zoo.catalog.head import Head, as_head
from zoo.errors import AdapterError, ZooError
from zoo.formats import manifest
from zoo.storage.file_names import ADAPTER_CONFIG, ADAPTER_TENSORS, MANIFEST

_PEFT_TASKS = {"SEQ_CLS": "classify", "TOKEN_CLS": "tokens"}


def to_json(head: Head | None) -> dict[str, Any] | None:
    """Return the head as `zoo.json` holds it, below its base; None without one."""
    if head is None:
        return None
    classes = list(head.names) or head.count or None
    size = None if head.image_size is None else list(head.image_size)
    return {"task": head.task, "classes": classes, "image_size": size, "channels": head.channels}


def from_json(content: Any, place: Path) -> Head | None:
    """Return the head that `to_json` wrote.

    Raises:
        AdapterError: it is none.
    """
    if content is None:
        return None
    if not isinstance(content, dict):
        raise AdapterError(f"{place}: expected its base's head as an object, got {type(content).__name__}")
    try:
        return as_head(*(content.get(key) for key in ("classes", "task", "image_size", "channels")))
    except ZooError as error:
        text = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in str(error))
        raise AdapterError(f"{place}: its base's head is not valid: {text}") from error


def head_of(place: Path) -> Head | None:
    """Return the head that the adapter at `place` was trained with; None if it had none or is of another library.

    Raises:
        AdapterError: its `zoo.json` is damaged.
    """
    folder = place.parent if place.name == ADAPTER_TENSORS else place
    content = manifest.read(folder)
    return None if content is None else from_json(content["base"].get("head"), folder / MANIFEST)


def task_of(place: Path) -> str | None:
    """Return the task of the head that an adapter of PEFT's own brings along without saying its classes; else None."""
    folder = place.parent if place.name == ADAPTER_TENSORS else place
    if (folder / MANIFEST).is_file() or not (folder / ADAPTER_CONFIG).is_file():
        return None
    return _PEFT_TASKS.get(str(manifest.read_json(folder / ADAPTER_CONFIG).get("task_type")))


def record_for(entry: Entry, folder: Path) -> dict[str, Any]:
    """Return the record of the adapter in `folder`, for a model of `entry`.

    Raises:
        AdapterError: it was trained with another head than the model has.
    """
    record = manifest.record(folder)
    theirs = from_json((record.get("base") or {}).get("head"), folder / MANIFEST)
    if theirs is not None and to_json(theirs) != to_json(entry.head):
        raise AdapterError(
            f"{folder}: trained with the head {theirs}, and the model has {entry.head or 'its own'}: load both "
            f"together, zoo.load({entry.name!r}, lora={str(folder)!r})"
        )
    return record
