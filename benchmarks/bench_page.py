"""The page of figures, docs/benchmarks.md, from the results that `bench.py` keeps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from step import FLOOR, table

HEAD = """# Benchmarks

Written by `make bench` (`make bench BUDGET=60` for an hour), which runs the scripts in `benchmarks/` and keeps what
each gave in `benchmarks/results/`. Other figures, on quality, on loading and on single mechanisms, are in
[the folder's own page](../benchmarks/README.md).

How to read it. Times are CPU time of one thread; all variants run interleaved in one process, in an order that rotates
and is reversed in every other round. A ratio is to the first row in the same round: the median over the rounds, and in
brackets the quartiles. Where two brackets overlap, the rows do not differ. The *frozen floor* is the model without
adapters, weights frozen, whose gradient goes through all layers to its input: what any adapter costs comes on top.
*Kept* are the bytes that the graph holds for the backward pass. PEFT is as `get_peft_model` makes it: in bfloat16 its
factors are float32. A peer that is missing, or cannot adapt a model, is named with the reason.
"""
GROUPS = (
    ("Steps: models of realistic sizes", "step-", ("carried-", "conv-", "rows-"), False),
    ("Steps: single layers, few rows and many", "step-", ("conv-", "rows-"), True),
    ("Steps: the models that the plugins carry", "step-", ("carried-",), True),
)


def page(results: Iterable[tuple[Any, dict[str, Any] | None]]) -> str:
    """Return the page.

    Args:
        results: each piece of `bench.py` and its result, None if it has none.
    """
    kept = [(piece, one) for piece, one in results]
    lines = [HEAD]
    lines += _setting([one for _, one in kept if one is not None])
    for title, start, kinds, among in GROUPS:
        chosen = [
            (piece, one)
            for piece, one in kept
            if piece.name.startswith(start) and piece.name.removeprefix(start).startswith(kinds) == among
        ]
        tables = [line for piece, one in chosen if one is not None for line in _steps(one)]
        if tables:
            lines += [f"## {title}", "", *tables]
    for piece, one in kept:
        if one is None or piece.name.startswith("step-"):
            continue
        lines += [f"## {piece.title}", "", f"`{one['command']}`, {one['date']}{_mark(one)}", ""]
        lines += ["```text", one["result"].strip("\n"), "```", ""]
    absent = [piece.name for piece, one in kept if one is None]
    if absent:
        lines += ["## Not measured", "", "No result is kept of " + ", ".join(f"`{name}`" for name in absent) + ".", ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _mark(result: dict[str, Any]) -> str:
    return " (tiny sizes: no figures)" if result["quick"] else ""


def _setting(results: list[dict[str, Any]]) -> list[str]:
    """Return the lines on machines, versions and dates; several if results were made on several."""
    found: dict[tuple[str, str], list[str]] = {}
    for one in results:
        cpu, versions = one["machine"], one["versions"]
        where = f"{cpu['cpu']}, {cpu['system']}, Python {cpu['python']}"
        what = ", ".join(f"{name} {version}" for name, version in versions.items())
        found.setdefault((where, what), []).append(one["date"])
    lines = []
    for (where, what), dates in found.items():
        first, last = min(dates)[:10], max(dates)[:10]
        when = first if first == last else f"{first} to {last}"
        lines += [f"Measured {when} on {where}, one thread, other processes running; {what}.", ""]
    return lines


def _steps(result: dict[str, Any]) -> list[str]:
    """Return the Markdown of one piece of `step.py`."""
    found = result["result"]
    lines = []
    for model, dtypes in found["figures"].items():
        for dtype, rows in dtypes.items():
            if dtype == "title":
                continue
            how = f"{dtype}, rank {found['rank']}, {found['rounds']} rounds{_mark(result)}, {result['date'][:10]}"
            lines += [
                f"**{dtypes['title']}** (`{model}`), {how}",
                "",
                "| | step | forward | kept |",
                "|---|---|---|---|",
            ]
            lines += ["| " + " | ".join(cells) + " |" for cells in table(rows)]
            lines.append("")
            assert FLOOR in rows, f"{model} has no {FLOOR}"
    return lines
