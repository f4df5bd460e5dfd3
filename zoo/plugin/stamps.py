"""Which plugins can be asked in this process: those that a child asked first and that passed, which is remembered.

What is remembered lies in `plugins.json` of zoo's cache folder (`ZOO_CACHE`, else `zoo` in `XDG_CACHE_HOME` or
`~/.cache`), under the plugin's distribution, version and files with their times, so that it is asked again when one of
them changes.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from zoo._version import __version__
from zoo.bounded.json_text import json_value
from zoo.catalog import discovery
from zoo.errors import OutputError
from zoo.plugin import child
from zoo.plugin.child import Seen
from zoo.storage import atomic

FILE = "plugins.json"
_KEPT = 256  # plugins
_LARGEST = 1 << 20  # bytes of the file
_FAILED = 24 * 3600.0  # seconds until a plugin that failed is asked again


def faults(names: Sequence[str], config: dict[str, Any]) -> dict[str, str]:
    """Return plugin → why it cannot be asked here, of those that cannot.

    What is remembered of this process or an earlier one costs nothing. Of the others a child, or two where one needs
    something heavy, imports each and asks it about nonsense and about `config`.

    Args:
        names: plugins of installed distributions.
        config: the one that is to be recognised, if any.
    """
    unknown = [name for name in names if name not in _known]
    if unknown:
        stamps = {name: stamp(name) for name in unknown}
        written = _read()
        for name in unknown:
            reason, when = written.get(stamps[name], ("", 0.0))
            if stamps[name] in written and (not reason or 0 <= time.time() - when < _FAILED):
                _known[name] = reason
        asked = [name for name in unknown if name not in _known]
        if asked:
            _remember(_asked(asked, config))
    return {name: _known[name] for name in names if _known.get(name)}


def look_again(names: Sequence[str]) -> dict[str, Seen]:
    """Return what children see of plugins now, and remember that.

    Args:
        names: plugins of installed distributions.
    """
    found = _asked(names, {})
    _remember(found)
    return found


def forget() -> None:
    """Look at what is installed anew."""
    _known.clear()
    stamp.cache_clear()


def folder() -> Path:
    """Return zoo's cache folder."""
    given = os.environ.get("ZOO_CACHE")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zoo"


_known: dict[str, str] = {}  # plugin → why it cannot be asked; "": it can


def _remember(found: Mapping[str, Seen]) -> None:
    reasons = {name: one.reason for name, one in found.items()}
    _known.update(reasons)
    _write({stamp(name): (reason, time.time()) for name, reason in reasons.items()})


def _asked(names: Sequence[str], config: dict[str, Any]) -> dict[str, Seen]:
    seen = child.look(names, config, light=True)
    heavy = [name for name, one in seen.items() if one.reason and one.heavy]
    if heavy:
        seen |= child.look(heavy, config, light=False)
    return seen


@cache
def stamp(name: str) -> str:
    """Return what changes whenever a plugin does."""
    digest = hashlib.sha256(f"{__version__} {sys.version} {name}".encode())
    for claim in discovery.claims().get(name, ()):
        digest.update(f"\n{claim.distribution} {claim.version} {claim.value}".encode())
        for path in _files(claim.package):
            with suppress(OSError):
                found = path.stat()
                digest.update(f"\n{path} {found.st_size} {found.st_mtime_ns}".encode("utf-8", "replace"))
    return digest.hexdigest()


def _files(package: str) -> Iterator[Path]:
    """Yield the Python files of a top-level package or module, sorted, without importing it."""
    root = discovery.package_folder(package)
    if root is not None:
        yield from sorted(root.rglob("*.py"))
        return
    with suppress(ImportError, ValueError, AttributeError):
        spec = find_spec(package) if package.isidentifier() else None
        if spec is not None and spec.origin:
            yield Path(spec.origin)


def _read() -> dict[str, tuple[str, float]]:
    """Return stamp → (why it cannot be asked, when that was found); nothing where the file is not as it should be."""
    path = folder() / FILE
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST:
            return {}
        held = json_value(path.read_text(encoding="utf-8"))
        return {str(key): (str(reason), float(when)) for key, (reason, when) in held.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _write(new: dict[str, tuple[str, float]]) -> None:
    kept = dict(list({**_read(), **new}.items())[-_KEPT:])
    with suppress(OSError, OutputError):
        folder().mkdir(parents=True, exist_ok=True)
        atomic.write_text(folder() / FILE, json.dumps(kept))
