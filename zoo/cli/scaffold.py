"""Write a new plugin's package from the templates in `zoo/cli/template`: what `zoo new-plugin` does.

A template is a working plugin called `sketch`; files that all kinds share are in `common`. The new name replaces it in
every form: `zoo_sketch` the package, `zoo-sketch` the distribution, `Sketch` the class.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from zoo._version import __version__
from zoo.catalog import discovery, registry
from zoo.errors import OutputError, PluginError, UnknownNameError, did_you_mean
from zoo.storage.atomic import staged_folder, write_text

KINDS = ("architecture", "quantizer", "adapter")
_SUMMARIES = {
    "architecture": "The architecture {name} for zoo.",
    "quantizer": "The quantizer {name} for zoo.",
    "adapter": "The adapter kind {name} for zoo.",
}
_HIDDEN = {"gitignore", "github"}  # with a leading dot they would apply to zoo's own repository
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_PLACEHOLDER = re.compile(r"zoo-sketch|sketch|Sketch|SUMMARY|\"adapter-zoo\"")


def write(name: str, kind: str = "architecture", folder: Path | None = None) -> tuple[Path, tuple[str, ...]]:
    """Write the package of a new plugin, whole or not at all.

    Args:
        name: the plugin's.
        kind: one of `KINDS`.
        folder: where to; None: `zoo-NAME` in the current folder.

    Returns:
        The folder, and the paths of its files.

    Raises:
        PluginError: the name cannot be a plugin's, or is taken.
        UnknownNameError: there is no such kind.
        OutputError: the folder holds files already.
    """
    if kind not in KINDS:
        raise UnknownNameError(f"no kind of plugin {kind!r}: expected {', '.join(KINDS)}.{did_you_mean(kind, KINDS)}")
    check_name(name)
    folder = Path(distribution(name)) if folder is None else folder
    if folder.is_dir() and any(folder.iterdir()):
        raise OutputError(f"cannot write the folder {folder}: it holds files; give a new one with --out")
    contents = dict(sorted(package(name, kind).items()))
    with staged_folder(folder) as staged:
        for path, text in contents.items():
            write_text(staged / path, text)
    return folder, tuple(contents)


def package(name: str, kind: str) -> dict[str, str]:
    """Return the package's files: path → text."""
    words = {
        "zoo-sketch": distribution(name),
        "sketch": name,
        "Sketch": class_name(name),
        "SUMMARY": _SUMMARIES[kind].format(name=name),
        '"adapter-zoo"': f'"adapter-zoo{compatible()}"',
    }

    def filled(text: str) -> str:
        return _PLACEHOLDER.sub(lambda match: words[match[0]], text)

    found = files("zoo.cli") / "template"
    pairs = [pair for part in ("common", kind) for pair in _files(found / part)]
    return {filled(path): filled(text) for path, text in pairs}


def check_name(name: str) -> None:
    """Raise PluginError unless `name` can be a new plugin's: a lower-case identifier that is not in use."""
    if not _fits(name):
        nearest = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
        hint = f"; {nearest!r} would do" if _fits(nearest) else ""
        raise PluginError(
            f"plugin name {name!r}: expected lower-case letters, digits and '_', no word of Python's{hint}"
        )
    if name.startswith("zoo_"):
        raise PluginError(f"plugin name {name!r}: the package is called zoo_… in any case; give {name[4:]!r}")
    if name in discovery.RESERVED:
        raise PluginError(f"plugin name {name!r} is one of zoo's own schemes and adapter kinds: choose another")
    if name in discovery.claims():
        by = ", ".join(f"{claim.distribution} {claim.version}" for claim in discovery.claims()[name])
        raise PluginError(f"plugin name {name!r} is taken by {by}, which is installed: choose another")
    taken = next((entry for entry in registry.entries() if entry.name == name), None)
    if taken:
        raise PluginError(f"plugin name {name!r} is a model of {taken.plugin!r} already (`zoo list`): choose another")
    if discovery.package_folder(f"zoo_{name}") is not None:
        raise PluginError(f"plugin name {name!r}: a package zoo_{name} is installed already: choose another")


def _fits(name: str) -> bool:
    return bool(_NAME.fullmatch(name)) and not keyword.iskeyword(name) and not keyword.iskeyword(class_name(name))


def distribution(name: str) -> str:
    """Return the name of the plugin's distribution, which is given to pip."""
    return f"zoo-{name.replace('_', '-')}"


def class_name(name: str) -> str:
    """Return the name of a class: `tiny_mixer` → `TinyMixer`."""
    return "".join(word.capitalize() for word in name.split("_"))


def compatible() -> str:
    """Return the versions of zoo that a new plugin works with: from this one up to the next that may break it."""
    major, minor, *_ = (int(number) for number in __version__.split("."))
    return f">={major}.{minor},<{f'0.{minor + 1}' if major == 0 else major + 1}"


def _files(folder: Traversable, above: str = "") -> Iterator[tuple[str, str]]:
    for item in folder.iterdir():
        path = above + (f".{item.name}" if item.name in _HIDDEN else item.name)
        if item.is_dir():
            if item.name != "__pycache__":  # in an installed zoo, whose files pip compiles
                yield from _files(item, f"{path}/")
        else:
            yield path, item.read_text(encoding="utf-8")
