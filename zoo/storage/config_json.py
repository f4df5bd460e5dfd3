"""A model's config.json and the files like it: read, and checked. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.bounded.json_text import read_json, read_object
from zoo.catalog.limits import check_config
from zoo.errors import CheckpointError, shown

if TYPE_CHECKING:
    from zoo.catalog.entry import Entry

CONFIG = "config.json"
BITSANDBYTES = "bitsandbytes"  # a configuration's `quant_method`


def read_json_file(path: Path) -> Any:
    """Return what a JSON file holds; None where there is no such file.

    Raises:
        CheckpointError: it cannot be read or is no JSON.
    """
    if not path.is_file():
        return None
    return read_json(path)


def read_json_object(path: Path, entry: Entry | None = None) -> dict[str, Any] | None:
    """Return the JSON object in a file; None where there is no such file.

    Args:
        path: the file.
        entry: the model that it configures, if it does: its numbers are then checked (`zoo.catalog.limits`).

    Raises:
        CheckpointError: it cannot be read, is no JSON or no object, or has a number that no such model has.
    """
    content = read_object(path) if path.is_file() else None
    if content is not None and entry is not None:
        check_config(content, entry.plugin, str(path))
    return content


def model_folder(entry: Entry, subfolder: str = "") -> Path | None:
    """Return where an entry's model lies: its folder, or that of a pipeline's part in it; None without files.

    Args:
        entry: the resolved entry.
        subfolder: what the part is called in a pipeline's folder, such as "unet".
    """
    if entry.folder is None:
        return None
    folder = Path(entry.folder)
    inner = folder / subfolder
    return inner if subfolder and (inner / CONFIG).is_file() else folder


def read_config(entry: Entry, subfolder: str = "", *, class_name: str | None = None) -> dict[str, Any]:
    """Return an entry's configuration: its folder's config.json, else what the registry has.

    Args:
        entry: the resolved entry.
        subfolder: see `model_folder`.
        class_name: the `_class_name` that the configuration must have, where it has one.

    Raises:
        CheckpointError: there is none, it cannot be read, or it is another class's.
    """
    folder = model_folder(entry, subfolder)
    config = read_json_object(folder / CONFIG) if folder else None
    config = dict(entry.config) if config is None else config
    check_config(config, entry.plugin, entry.name)
    called = f"the configuration of {class_name}" if class_name else "a configuration"
    if not config:
        raise CheckpointError(f"{entry.name}: expected {called} in {folder or 'the registry'}, got none")
    found = config.get("_class_name", class_name)
    if class_name and found != class_name:
        raise CheckpointError(f"{entry.name}: expected {called}, got that of {found}")
    return config


def check_counts(config: Mapping[str, Any], *names: str, least: int = 1, where: str = CONFIG) -> None:
    """Check that the configuration has a whole number, at least `least`, under each of `names`.

    Raises:
        CheckpointError: it has not; the message begins with `where`.
    """
    for name in names:
        value = config.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise CheckpointError(f"{where}: expected {name} as a whole number, at least {least}, got {shown(value)}")


def in_four_bit(config: Mapping[str, Any]) -> bool:
    """Return whether a configuration says that its weights are bitsandbytes' in 4 bit."""
    told = config.get("quantization_config")
    return isinstance(told, Mapping) and told.get("quant_method") == BITSANDBYTES and bool(told.get("load_in_4bit"))
