"""The entry of a model: what a name that `zoo.load` takes stands for. Imports nothing of zoo."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

EMBEDDED = "embedded"  # weights that lie in the plugin's own package
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Entry:
    """What a name stands for.

    name: as the user gave it. plugin: the architecture's entry point; None for a module wrapped without one.
    weights: "embedded", a Hub repository, a local folder, or None where there are none.
    targets: LoRA's default targets (suffixes of parameter paths, or "all"); None leaves them to the plugin.
    keep: suffixes of the parameter paths that stay in full precision.
    folder: where the files lie, once resolved; None before, and where only the structure is wanted.
    adapter: the folder of the saved adapter that the name stands for, if it does; the rest is its base's.
    """

    name: str
    plugin: str | None
    weights: str | None = None
    revision: str | None = None
    license: str | None = None
    summary: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    targets: tuple[str, ...] | Literal["all"] | None = None
    keep: tuple[str, ...] = ()
    demo: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    source: Literal["registry", "hub", "folder", "module"] = "registry"
    adapter: Path | None = None


def is_hub(weights: str | None) -> bool:
    """Return whether an entry's `weights` name a Hub repository or a folder, and are not carried by the plugin."""
    return weights is not None and weights != EMBEDDED
