"""The report of a comparison, as a page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo.comparison.grid import BASE, FULL
from zoo.comparison.tables import differences, qualities
from zoo.metrics import rises
from zoo.reports import (
    Page,
    Point,
    Series,
    byte_size,
    curves,
    duration,
    facts,
    number,
    points,
    samples_table,
    table,
)
from zoo.reports.charts import smooth

if TYPE_CHECKING:
    from zoo.comparison.grid import Way
    from zoo.comparison.results import Cell, Comparison

SHOWN = 8  # samples of each way


def report_page(found: Comparison) -> Page:
    """Return the page: quality and cost of every way, the plot of quality over bytes, curves and samples."""
    plan, cells = found.plan, found.measured
    data = "its own data" if plan.data is None else plan.data
    lead = f"{len(cells)} ways to have {plan.name}, tuned for {plan.steps:,} steps and evaluated on {data}."
    page = Page(f"{plan.name}: quality and cost side by side", lead)
    main = next(iter(cells[0].figures))
    page.section("Quality and size").add(_quality_over_bytes(cells, main))
    page.add(qualities([cell.quality for cell in cells]))
    whole = next((cell for cell in cells if cell.way.kind == FULL), cells[0])
    page.add(differences([cell.quality for cell in cells], cells.index(whole)))
    page.section("Cost").add(_costs(cells))
    if curved := _losses(cells):
        page.section("Curves").charts(*curved)
    _samples(page, found)
    page.section("What was measured").add(_about(found))
    failed = [(cell.way.name, cell.error) for cell in found.cells if cell.error]
    if failed:
        page.heading("What could not be measured").add(table(["way", "why"], failed))
    return page


def _quality_over_bytes(cells: list[Cell], main: str) -> Any:
    shown = [
        Point(
            f"{cell.way.bits} bit",
            cell.measured["bytes"] / 1e6,
            cell.figures[main],
            group=_group(cell.way),
            y_interval=cell.interval(main),
        )
        for cell in cells
        if main in cell.figures
    ]
    better = "more is better" if rises(main) else "less is better"
    return points(shown, x="MB stored", y=f"{main} ({better})", log_x=True, joined=True)


def _group(way: Way) -> str:
    if way.kind == BASE:
        return "not tuned"
    return "full" if way.kind == FULL else f"LoRA {way.rank}{', merged' if way.merged else ''}"


def _costs(cells: list[Cell]) -> Any:
    rows = []
    for cell in cells:
        one, tuning = cell.measured, cell.measured.get("tuning")
        trained = tuning["trainable"] if tuning else 0
        share = trained / max(1, one["parameters"])
        rows.append(
            [
                cell.way.name,
                f"{trained:,} ({share:.2%})" if trained else "–",
                byte_size(one["bytes"]),
                _above(tuning, one),
                _above(one["sampling"], one),
                duration(tuning["seconds_a_step"]) if tuning else "–",
                duration(one["latency"]["seconds"]),
            ]
        )
    rows = [[row[0], *(value.replace(" ", "\N{NO-BREAK SPACE}") for value in row[1:])] for row in rows]
    first = cells[0].measured
    heads = [
        "way",
        "trained",
        "stored",
        "peak in tuning",
        "peak in sampling",
        "a step",
        f"latency of {first['latency_of']}",
    ]
    base = byte_size(first["memory_before"])
    what = "resident memory of the process" if first["device"] == "cpu" else "memory that torch has allocated"
    return table(heads, rows, caption=f"Peaks: {what}, above the {base} of an empty process with the libraries.")


def _above(measured: dict[str, Any] | None, one: dict[str, Any]) -> str:
    """Return the peak of memory above what the process had before the model was loaded."""
    peak = (measured or {}).get("peak_memory")
    return "–" if peak is None else byte_size(max(0, peak - one["memory_before"]))


def _losses(cells: list[Cell]) -> list[Any]:
    series = []
    for cell in cells:
        tuning = cell.measured.get("tuning")
        if tuning and not cell.way.merged:
            losses = tuning["losses"]
            series.append(Series(cell.way.name, range(1, len(losses) + 1), smooth(losses)))
    return [curves(series, x="step", y="training loss, smoothed")] if series else []


def _samples(page: Page, found: Comparison) -> None:
    shown = [(cell.way.name, samples) for cell in found.measured if (samples := cell.samples) is not None]
    page.section("Samples")
    for cell in found.measured:
        if why := cell.measured["sampling"].get("why_not"):
            page.text(f"{cell.way.name}: no samples: {why}")
    if shown:
        count = min(SHOWN, *(len(samples) for _, samples in shown))
        page.text(
            f"From the same seeds, {count} of each way. To choose without knowing which is which, open "
            f"{found.blind.name} beside this file."
        )
        page.add(samples_table(shown, most=SHOWN))


def _about(found: Comparison) -> Any:
    plan, first = found.plan, found.measured[0].measured
    tuned = next((cell.measured["tuning"] for cell in found.measured if "tuning" in cell.measured), None)
    shown: dict[str, Any] = {
        "model": plan.name,
        "data": plan.data,
        "steps": plan.steps,
        "batch size": tuned["batch_size"] if tuned else None,
        "learning rate": number(tuned["lr"]) if tuned else None,
        "seed": plan.seed,
        "device": first["device"],
        "threads": first["torch_threads"],
        "latency": f"median of {plan.repeats} of {first['latency_of']}",
        "sampling options": plan.options or None,
    }
    return facts(shown)
