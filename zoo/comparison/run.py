"""Run a comparison: each way in a process of its own, finished ones kept, and the report in the end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from zoo.bounded.json_text import read_object
from zoo.catalog import registry
from zoo.catalog.names import is_name
from zoo.comparison.blind import blind_page
from zoo.comparison.cell import RESULT
from zoo.comparison.grid import LORA, Plan, Way, ways
from zoo.comparison.page import report_page
from zoo.comparison.results import Cell, Comparison
from zoo.errors import TuningError, ZooError, one_line
from zoo.storage.atomic import write_json

_PLAN = "plan.json"
_CHILD = "import sys; from zoo.comparison.cell import main; raise SystemExit(main(sys.argv[1:]))"


def compare(
    name: str,
    data: str | os.PathLike[str] | None = None,
    *,
    bits: Iterable[int] = (32, 16, 8, 4),
    lora: int | Sequence[int] | None = 8,
    full: bool = False,
    merged: bool = False,
    out: str | os.PathLike[str] | None = None,
    on_cell: Callable[[Way, str], None] | None = None,
    **settings: Any,
) -> Comparison:
    """Measure several ways to have a model, and write a report.

    The ways are the model in each precision, LoRA of each rank in each precision, and full fine-tuning in the highest
    one. Each is measured by a process of its own: quality with intervals, parameters that train, bytes stored, peak
    memory in tuning and in sampling, seconds a step, latency, and samples from the same seeds. What is finished is kept
    in `out`, so that an interrupted comparison goes on, and a way that changes is measured again.

    Args:
        name: the model, as `zoo.load` takes it.
        data: what to tune and evaluate on: a name, a folder, a file; None: the plugin's own.
        bits: precisions.
        lora: a rank, or several; None: no adapters.
        full: whether to tune every weight too.
        merged: whether each adapter is merged in the end, and measured so too.
        out: the folder, default `compare-NAME`.
        on_cell: called with each way and "begins", "kept", "done" or why it failed.
        **settings: what is the same for all ways, see `zoo.comparison.Plan`: steps, batch_size, lr, seed, samples,
            options, metrics, judge, repeats, columns, weights, revision, device.

    Raises:
        TuningError: a setting is unknown or cannot be, or no way could be measured.
    """
    plan = _plan(name, data, settings)
    told = on_cell or (lambda way, what: None)
    folder = Path(out if out is not None else f"compare-{Path(name).name}").expanduser().absolute()
    cells: list[Cell] = []
    for way in ways(bits, lora, full):
        with_merged = merged and way.kind == LORA
        cells += _cells(plan, way, folder, with_merged, told)
    found = Comparison(plan, tuple(cells), folder)
    if not found.measured:
        raise TuningError(f"none of the ways could be measured; the first: {cells[0].error}")
    write_json(folder / "report.json", found.as_dict())
    report_page(found).write(found.report)
    blind_page(found).write(found.blind)
    return found


def _plan(name: str, data: str | os.PathLike[str] | None, settings: dict[str, Any]) -> Plan:
    known = Plan.__dataclass_fields__
    for key in settings:
        if key not in known or key in ("name", "data"):
            from zoo.errors import did_you_mean

            raise TuningError(f"no setting {key!r} of a comparison.{did_you_mean(key, known)}")
    if is_name(name) and "options" not in settings:
        demo = registry.find(name).demo.get("samples", {})
        settings = {**settings, "options": dict(demo.get("options", {}))}
        if settings.get("samples") is None and demo.get("n") == 1:  # where nothing is drawn, one is all there is
            settings["samples"] = 1
    settings = {key: value for key, value in settings.items() if value is not None}
    settings["metrics"] = tuple(settings.get("metrics", ()))
    source = None if data is None else _source(data)
    return Plan(name=name, data=source, **settings)


def _source(data: str | os.PathLike[str]) -> str:
    if not isinstance(data, str | os.PathLike):
        raise TuningError(
            f"each way is measured by a process of its own: give data as a name or a path, got {type(data).__name__}"
        )
    path = Path(data).expanduser()
    return str(path.absolute()) if path.exists() else str(data)


def _cells(plan: Plan, way: Way, out: Path, merged: bool, told: Callable[[Way, str], None]) -> list[Cell]:
    """Return a way's cell and, if it is merged too, that one's; measured now, or kept from before."""
    folders = {way: out / way.folder}
    if merged:
        merged_way = Way(way.kind, way.bits, way.rank, merged=True)
        folders[merged_way] = out / merged_way.folder
    wanted = {"plan": plan.as_dict(), "merged": merged}
    kept = {one: _kept(folder, {**wanted, "way": vars(one)}) for one, folder in folders.items()}
    if any(found is None for found in kept.values()):
        told(way, "begins")
        error = _measure(plan, way, folders[way], merged)
        told(way, error or "done")
        if error:
            return [Cell(one, folder, error=error, name=plan.name) for one, folder in folders.items()]
        kept = {one: _kept(folder, {**wanted, "way": vars(one)}) for one, folder in folders.items()}
    else:
        told(way, "kept")
    return [
        Cell(one, folders[one], found or {}, "" if found else "its results are damaged", plan.name)
        for one, found in kept.items()
    ]


def _measure(plan: Plan, way: Way, folder: Path, merged: bool) -> str:
    """Measure a way in a process of its own; return why it failed, or ""."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in (RESULT, "error.json"):
        (folder / stale).unlink(missing_ok=True)
    write_json(folder / _PLAN, {"plan": plan.as_dict(), "way": vars(way), "merged": merged})
    words = [sys.executable, "-c", _CHILD, str(folder / _PLAN), str(folder)]
    with (folder / "log.txt").open("wb") as log:
        code = subprocess.run(words, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    if code == 0:
        return ""
    if (folder / "error.json").is_file():
        return str(read_object(folder / "error.json").get("error"))
    lines = (folder / "log.txt").read_text(errors="replace").strip().splitlines()
    why = "it was killed" if code < 0 else one_line(lines[-1], 300) if lines else f"it ended with code {code}"
    return f"{why} (see {folder / 'log.txt'})"


def _kept(folder: Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """Return what was measured of a way with these settings; None where there is nothing, or of others."""
    try:
        found = read_object(folder / RESULT)
    except (OSError, ZooError):
        return None
    measured = found.pop("measured", None)
    return measured if found == wanted and isinstance(measured, dict) else None
