"""Compare 4-bit LoRA, LoRA and full fine-tuning, for every model that has a demo.

    python benchmarks/quality.py [NAME ...] [--steps N] [--figure loss] [--json]

Each way of tuning runs on the demo's shifted data at several learning rates, with the demo's steps and batch size and
one seed; its best run counts. The metric is the demo's main one on held-out data. Before: the embedded weights, in full
precision. Closed: the share of full fine-tuning's gain that a way keeps, (before - 4-bit LoRA) / (before - full
fine-tuning), likewise for metrics where more is better.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

import torch

import zoo
from zoo.cli.demo import planned

RANK = 8
WAYS: dict[str, tuple[int | None, int | None]] = {"full": (None, None), "LoRA": (None, RANK), "4-bit LoRA": (4, RANK)}
RATES = {"full": (3e-4, 1e-3, 3e-3), "LoRA": (2e-3, 5e-3, 1e-2), "4-bit LoRA": (2e-3, 5e-3, 1e-2)}


def measure(name: str, steps: int | None, metric: str | None, rates: Sequence[float] | None) -> dict[str, Any]:
    """Return the metric of one model: before tuning, and for each way of tuning the best over its learning rates.

    Args:
        name: of the model.
        steps: instead of the demo's.
        metric: instead of the demo's main one.
        rates: learning rates instead of those of `RATES`.
    """
    plan = planned(name, zoo.load(name, device="meta").entry.demo)
    before = zoo.load(name).evaluate(plan.data)
    metric = metric or next(iter(before))
    grows = metric == "accuracy"
    found: dict[str, Any] = {"name": name, "data": plan.data, "figure": metric, "before": before[metric]}
    for way, (bits, rank) in WAYS.items():
        runs = []
        for rate in rates or RATES[way]:
            lora = zoo.LoRA(rank=rank, targets="all") if rank else None
            model = zoo.load(name, bits=bits, lora=lora, seed=0)
            started = time.process_time()
            model.tune(plan.data, steps=steps or plan.steps, batch_size=plan.batch_size, lr=rate, seed=0, quiet=True)
            runs.append(
                {"lr": rate, metric: model.evaluate(plan.data)[metric], "cpu_seconds": time.process_time() - started}
            )
        best = max(runs, key=lambda run: run[metric] if grows else -run[metric])
        found[way] = best | {"runs": runs}
    gap = found["before"] - found["full"][metric]
    for way in ("LoRA", "4-bit LoRA"):
        found[way]["closed"] = (found["before"] - found[way][metric]) / gap if gap else float("nan")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a row for each model.

    Args:
        arguments: of the command line; default those of this process.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("names", nargs="*", help="registry names (default: all that have a demo)")
    parser.add_argument("--steps", type=int, help="instead of the demos'")
    parser.add_argument("--figure", help="another metric than the main one")
    parser.add_argument("--rates", type=float, nargs="+", help="learning rates to try for every way")
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--quick", action="store_true", help="one step at one rate: checks the script, measures nothing"
    )
    options = parser.parse_args(arguments)
    if options.quick:
        options.steps, options.rates = 1, [1e-3]
    torch.set_num_threads(1)
    names = options.names or [entry.name for entry in zoo.entries() if entry.demo]
    rows = []
    for name in names:
        row = measure(name, options.steps, options.figure, options.rates)
        rows.append(row)
        if not options.json:
            cells = [f"{way} {row[way][row['figure']]:.4f} (lr {row[way]['lr']:g})" for way in WAYS]
            closed = f"closed {row['4-bit LoRA']['closed']:.0%}, LoRA {row['LoRA']['closed']:.0%}"
            print(
                f"{name} on {row['data']}, {row['figure']}: before {row['before']:.4f}",
                *cells,
                closed,
                sep="  ",
                flush=True,
            )
    if options.json:
        print(json.dumps(rows, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
