"""The report of a run: `report.json`, and `report.html` for a browser."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.bounded.json_text import read_object
from zoo.errors import ZooError
from zoo.metrics import rises
from zoo.reports import Interval, Page, Series, byte_size, curves, duration, facts, samples_table, table, text_block
from zoo.reports.charts import smooth
from zoo.samples import Samples
from zoo.tuning.result import TuneResult
from zoo.tuning.settings import Settings

PAGE, DATA = "report.html", "report.json"
_NORMAL = 1.96  # standard errors on both sides, of a 95 % interval


def content(
    model: Any, result: TuneResult, settings: Settings, tuning: Mapping[str, Any], before: Mapping[str, Any]
) -> dict[str, Any]:
    """Return all that the report says but samples, as JSON has it.

    Args:
        model: as it is now.
        result: of the run.
        settings: of the run, for its learning rates.
        tuning: the arguments of `model.tune`, with all that was chosen.
        before: an evaluation before the first step, as `told_figures` returns it; {} without one.
    """
    size, known = model.footprint(), model.identity()
    base = known["model"]["base"]
    steps = range(result.steps)
    return {
        "model": {
            "name": model.entry.name,
            "class": known["model"]["class"],
            "weights": base["weights"],
            "commit": base["commit"],
            "fingerprint": base["fingerprint"],
            "device": str(model.device),
            "dtype": known["model"]["dtype"],
            "quantization": None if model.scheme is None else f"{model.scheme.argument} bit ({model.scheme.scheme})",
            "adapters": {name: model.adapter_set.configs[name].kind for name in model.active},
            "head": None if model.entry.head is None else str(model.entry.head),
        },
        "versions": known["versions"],
        "data": [one.as_dict() for one in result.reports],
        "parameters": size.parameters,
        "trained": result.trainable,
        "bytes": {"base": size.bytes, "base_16bit": size.bytes_16bit, "adapters": size.adapter_bytes},
        "quantized_share": size.quantized_share,
        "steps": result.steps,
        "batch_size": result.batch_size,
        "seed": result.seed,
        "seconds": result.seconds,
        "resumed_from": result.resumed_from,
        "extended": list(settings.extended),
        "stopped": result.stopped,
        "best_step": result.best_step,
        "losses": list(result.losses),
        "rates": [settings.lr_at(step, step / max(1, result.steps)) for step in steps],
        "before": dict(before),
        "evaluations": [
            {"step": step, **told_figures(figures, result.intervals.get(step, {}))}
            for step, figures in result.evaluations
        ],
        "asked_for": tuning["eval_every"] is not None,
    }


def page(told: Mapping[str, Any], run_file: str, before: Samples | str, after: Samples | str) -> Page:
    """Return the report as a page.

    Args:
        told: what `content` returned.
        run_file: the run's `run.toml`.
        before: samples from before the first step, or why there are none.
        after: samples of the trained model with the same seed, or why there are none.
    """
    model, size = told["model"], told["bytes"]
    kinds = ", ".join(dict.fromkeys(model["adapters"].values()))
    what = f"An adapter ({kinds})" if kinds else "All weights"
    sources = ", ".join(one["origin"] for one in told["data"] if one["origin"])
    lead = f"{what} trained with the base in {model['quantization'] or model['dtype']}, {told['steps']:,} steps of "
    lead += f"{told['batch_size']} items in {duration(told['seconds'])}."
    found = Page(f"{model['name']}, tuned{f' on {sources}' if sources else ''}", lead)
    found.section("Samples")
    _samples(found, before, after, told["seed"])
    found.section("Figures")
    _figures(found, told)
    found.section("Curves")
    _curves(found, told)
    share = told["trained"] / max(1, told["parameters"])
    found.section("Size and time").add(
        facts(
            {
                "parameters of the base": told["parameters"],
                "parameters trained": f"{told['trained']:,} ({share:.3%})",
                "base as it is stored": f"{byte_size(size['base'])} (in 16 bit {byte_size(size['base_16bit'])})",
                "adapters": byte_size(size["adapters"]) if model["adapters"] else None,
                "time": duration(told["seconds"]),
                "a step": duration(told["seconds"] / max(1, told["steps"])),
            }
        )
    )
    found.section("What was run").add(facts({**model, "adapters": model["adapters"] or None}))
    for one in told["data"]:
        found.heading(f"Data: {one['origin']}").add(
            facts(
                {
                    "examples": one["splits"] or None,
                    "splits": one["rule"] or None,
                    "columns": one["columns"] or None,
                    "left out": len(one["skipped"]) or None,
                    "notes": "; ".join(one["notes"]) or None,
                    "digest": one["digest"] or None,
                }
            )
        )
    found.heading("run.toml").add(text_block(run_file))
    return found.heading("Versions").add(facts(told["versions"]))


def _samples(found: Page, before: Samples | str, after: Samples | str, seed: int) -> None:
    found.text(f"Drawn with seed {seed} before the first step and after the last one.")
    for when, one in (("Before", before), ("After", after)):
        if isinstance(one, str):
            found.text(f"{when}: no samples: {one}.")
    found.add(
        samples_table([(when, one) for when, one in (("before", before), ("after", after)) if isinstance(one, Samples)])
    )


def _figures(found: Page, told: Mapping[str, Any]) -> None:
    losses = told["losses"]
    part = max(1, len(losses) // 10)
    rows: list[list[Any]] = [
        ["training loss, mean of a tenth of the steps", spread(losses[:part]), spread(losses[-part:])]
    ]
    last = told["evaluations"][-1] if told["evaluations"] else {}
    chosen = next((one for one in told["evaluations"] if one["step"] == told["best_step"]), last)
    for name in chosen.get("figures", {}):
        way = "more is better" if rises(name) else "less is better"
        rows.append([f"held out: {name} ({way})", figure(told["before"], name), figure(chosen, name)])
    found.add(table(["", "before", "after"], rows))
    if not told["asked_for"]:
        found.text("No evaluation was asked for: eval_every= (--eval-every) adds figures on held-out data.")
    elif chosen:
        found.text(f"Held-out figures after are those of step {chosen['step']}.")
    if told["stopped"]:
        found.text(f"Stopped: {told['stopped']}.")


def _curves(found: Page, told: Mapping[str, Any]) -> None:
    steps = list(range(1, told["steps"] + 1))
    marks = {told["resumed_from"]: "resumed"} if told["resumed_from"] else {}
    marks |= {budget: "extended" for budget in told["extended"] if budget < told["steps"]}
    drawn = [
        curves(
            [
                Series("each step", steps, told["losses"], faint=True),
                Series("running mean", steps, smooth(told["losses"])),
            ],
            x="step",
            y="training loss",
            marks=marks,
        ),
        curves([Series("learning rate", steps, told["rates"])], x="step", y="learning rate", marks=marks),
    ]
    history = [*([{"step": 0, **told["before"]}] if told["before"] else []), *told["evaluations"]]
    best = {} if told["best_step"] is None else {told["best_step"]: "best"}
    for name in history[-1]["figures"] if len(history) > 1 else ():
        there = [one for one in history if name in one["figures"]]
        pairs = [one["intervals"][name] for one in there if name in one["intervals"]]
        low, high = ([pair[side] for pair in pairs] if len(pairs) == len(there) else None for side in (0, 1))
        line = Series(name, [one["step"] for one in there], [one["figures"][name] for one in there], low, high)
        drawn.append(curves([line], x="step", y=f"held out: {name}", marks=best))
    found.charts(*drawn)


def spread(values: list[float]) -> Interval | float | None:
    """Return the mean of values with the 95 % interval that their spread gives it."""
    if not values:
        return None
    mean = statistics.fmean(values)
    if len(values) < 3:
        return mean
    half = _NORMAL * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def figure(told: Mapping[str, Any], name: str) -> Interval | float | None:
    """Return one figure of an evaluation, with its interval where it has one."""
    value, ends = told.get("figures", {}).get(name), told.get("intervals", {}).get(name)
    return value if value is None or ends is None else Interval(value, *ends)


def told_figures(figures: Mapping[str, float], intervals: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    """Return an evaluation as JSON has it: the figures that are finite, and their intervals."""
    finite = {name: float(value) for name, value in figures.items() if math.isfinite(value)}
    return {"figures": finite, "intervals": {name: list(ends) for name, ends in intervals.items()}}


def kept_figures(path: Path) -> dict[str, Any]:
    """Return what was written to a file; nothing where it is missing or damaged."""
    try:
        found = read_object(path)
        pairs = {name: (float(low), float(high)) for name, (low, high) in found["intervals"].items()}
        return told_figures({name: float(value) for name, value in found["figures"].items()}, pairs)
    except (OSError, ZooError, LookupError, TypeError, ValueError, AttributeError):
        return {}
