"""Run files, read and checked: an error names the file, the key, what was expected, and the nearest right key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from zoo.bounded.toml_text import read_toml
from zoo.errors import TuningError, did_you_mean, shown
from zoo.runs.schema import (
    DataSettings,
    ModelSettings,
    PushSettings,
    QuantizationSettings,
    RunSettings,
    Table,
    TuneSettings,
)
from zoo.tuning.options import ELSEWHERE

SUFFIX = ".toml"
_TABLES: dict[str, type[Table]] = {
    "": RunSettings,
    "model": ModelSettings,
    "model.quantization": QuantizationSettings,
    "data": DataSettings,
    "tune": TuneSettings,
    "push": PushSettings,
}
# What people may write → where it is.
_ELSEWHERE = {
    **{name: f"tune.{own}" for name, own in ELSEWHERE.items() if own in TuneSettings.model_fields},
    "output_dir": "out",
    "rank": "model.lora",
    "model.rank": "model.lora",
    "repo_id": "push.repository",
    "push.repo_id": "push.repository",
    "push.repo": "push.repository",
}


def read_run(path: Path) -> dict[str, Any]:
    """Return what a run file holds, not yet checked.

    Raises:
        TuningError: there is no such file, or it is no TOML.
    """
    try:
        return read_toml(path, error=TuningError)
    except FileNotFoundError:
        raise TuningError(
            f"there is no run file {path}: `zoo tune NAME --dry-run > run{SUFFIX}` writes one, and each run's folder "
            "has its own"
        ) from None


def checked(content: Mapping[str, Any], where: str = "the run") -> RunSettings:
    """Return a run's settings.

    Args:
        content: tables and values, as in a run file.
        where: where they are from, for errors.

    Raises:
        TuningError: a key does not exist, is missing, or has a value that cannot be; all of them are named.
    """
    try:
        return RunSettings.model_validate(content)
    except ValidationError as error:
        told = list(dict.fromkeys(_told(error, content)))
        more = f"; and {len(told) - 4} more" if len(told) > 4 else ""
        raise TuningError(f"{where}: {'; '.join(told[:4])}{more}") from None


def checked_table(kind: type[Table], content: Mapping[str, Any], path: str) -> Any:
    """Return a table that stands within another one, checked.

    Raises:
        TuningError: as `checked`; the key's path begins with `path`.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        told = [f"{path}.{one}" for one in dict.fromkeys(_told(error, content, kind))]
        raise TuningError("; ".join(told[:4])) from None


def merged(content: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with others over them, table by table; a None over them changes nothing."""
    result = dict(content)
    for key, value in over.items():
        before = result.get(key)
        if isinstance(value, Mapping):
            inner = {"model": "name", "data": "source", "push": "repository"}.get(key, "")
            table = {inner: before} if isinstance(before, str) and inner else before
            joined = merged(table if isinstance(table, Mapping) else {}, value)
            if joined or before is not None:
                result[key] = joined
        elif value is not None:
            result[key] = value
    return result


def _told(error: ValidationError, content: Mapping[str, Any], table: type[Table] | None = None) -> Iterator[str]:
    """Yield each fault of a run file, or of one table, in words."""
    for fault in error.errors(include_url=False):
        parts = _place(fault["loc"], content)
        path = ".".join(str(part) for part in parts)
        kind, got = fault["type"], fault["input"]
        if kind == "extra_forbidden":
            near = did_you_mean(str(parts[-1]), table.model_fields) if table else ""
            yield f"{path} is no key of this table.{near}" if table else _unknown(parts)
        elif kind == "missing":
            yield f"{path} is missing"
        elif kind == "value_error":
            said = str(fault["ctx"]["error"])
            given = "" if isinstance(got, dict) and "got" in said else f" got {shown(got)}"
            comma = "" if said.endswith((".", "?")) or not given else ","
            yield f"{path or 'the file'}: expected {said}{comma}{given}"
        else:
            wanted = fault["msg"].removeprefix("Input should be ").removeprefix("a valid ")
            yield f"{path}: expected {_EASIER.get(wanted, wanted)}, got {shown(got)}"


_EASIER = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "a text in quotes",
    "list": "a list",
    "dictionary": "a table",
    "String should have at least 1 character": "a text that is not empty",
}


def _place(loc: Sequence[int | str], content: Any) -> list[int | str]:
    """Return the part of a fault's place that the file has: pydantic adds which form of a value it tried."""
    found: list[int | str] = []
    for index, part in enumerate(loc):
        inner: Any = content
        if isinstance(content, Mapping) and part in content:
            inner = content[part]
        elif isinstance(content, list) and isinstance(part, int):
            inner = content[part] if part < len(content) else None
        elif index < len(loc) - 1 or not isinstance(content, Mapping):
            continue
        found.append(part)
        content = inner
    return found


def _unknown(parts: Sequence[int | str]) -> str:
    """Return what to say of a key that does not exist: the nearest one of its table, or the table that it is of."""
    path, name = ".".join(map(str, parts)), str(parts[-1])
    table = ".".join(map(str, parts[:-1]))
    own = list(_TABLES[table].model_fields) if table in _TABLES else []
    elsewhere = _ELSEWHERE.get(path) or _ELSEWHERE.get(name)
    others = [f"{other}.{name}".strip(".") for other, one in _TABLES.items() if name in one.model_fields]
    if elsewhere is not None or others:
        return f"{path} is no key of a run file. Did you mean {elsewhere or min(others, key=len)!r}?"
    near = did_you_mean(name, own)
    if not near:
        everywhere = [f"{other}.{key}".strip(".") for other, one in _TABLES.items() for key in one.model_fields]
        last = {key.rpartition(".")[2]: key for key in everywhere}
        found = did_you_mean(name, last)
        near = next((f" Did you mean {whole!r}?" for key, whole in last.items() if f"{key!r}" in found), "")
    known = "" if near or not own else f" The keys of {f'[{table}]' if table else 'the file'} are {', '.join(own)}."
    return f"{path} is no key of a run file.{near}{known}"
