"""What share of full fine-tuning's gain an adapter of rank 8 in 4 bit has, and what each choice of the recipe brings.

    python benchmarks/recipe.py [NAME ...] [--rates 1e-3 3e-3] [--report 1 2 3] [--rank 8] [--ways full,matched,plain]

Every way of tuning runs on the demo's shifted data, with the demo's steps and batch size, over the same grid of rates
with one seed; the best rate of each way then runs with other seeds, which are reported. Before is the figure of the
embedded weights in full precision. The share of a way is (before - after) / (before - full fine-tuning's after), each
seed with full fine-tuning's of the same seed; the interval is that of Student's t, 95 %.

Ways: "full"; "matched", `lora=RANK, bits=4` as it is; "plain", one rate for all factors; "lora+16"; "dora", "pissa",
"rslora". Among the results "shared" is matched at the rate that is full fine-tuning's best, "twice" at twice its own.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import zoo
from zoo.cli.demo import planned

GRID = (1e-3, 2e-3, 4e-3, 8e-3)
T95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}  # Student's t for so many seeds
OPTIONS: dict[str, dict[str, Any]] = {"dora": {"dora": True}, "pissa": {"init": "pissa"}, "rslora": {"rslora": True}}


def tuned(name: str, way: str, rate: float, seed: int, rank: int, steps: int | None) -> float:
    """Return the demo's figure after one run; not a number if it diverged.

    Args:
        name: of the model.
        way: one of the ways above.
        rate: the learning rate.
        seed: of the adapter, the order of the data and all that is drawn.
        rank: of the adapter.
        steps: instead of the demo's.
    """
    lora: Any = None if way == "full" else rank
    if way in OPTIONS:
        lora = zoo.LoRA(rank, alpha=2 * rank, **OPTIONS[way])
    model = zoo.load(name, bits=None if way == "full" else 4, lora=lora, seed=seed)
    plan = planned(name, model.entry.demo)
    rates = way if way == "plain" or way.startswith("lora+") else "matched"
    try:
        model.tune(
            plan.data,
            steps=steps or plan.steps,
            batch_size=plan.batch_size,
            lr=rate,
            rates=rates,
            seed=seed,
            quiet=True,
        )
    except zoo.TuningError:
        return math.nan
    return figure(model, plan.data)


def figure(model: zoo.Model, data: str) -> float:
    """Return the loss, or else the first of the metrics, on held-out data; lower is better."""
    found = model.evaluate(data)
    return found.get("loss", next(iter(found.values())))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and half the width of its 95 % interval."""
    if len(values) < 2:
        return values[0], math.nan
    return statistics.fmean(values), T95.get(len(values), 2.6) * statistics.stdev(values) / math.sqrt(len(values))


def measure(name: str, ways: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one model: of all rates for choosing, and shares for reporting."""
    plan = planned(name, zoo.load(name, device="meta").entry.demo)
    before = figure(zoo.load(name), plan.data)
    chosen: dict[str, dict[float, float]] = {}
    for way in ways:
        chosen[way] = {rate: tuned(name, way, rate, 0, options.rank, options.steps) for rate in options.rates}
        print(name, way, chosen[way], flush=True)
    best = {way: min(found, key=lambda rate: (math.isnan(found[rate]), found[rate])) for way, found in chosen.items()}
    runs = {way: (way, rate) for way, rate in best.items()}
    runs |= {"shared": ("matched", best["full"]), "twice": ("matched", 2 * best["matched"])}
    after = {
        key: [tuned(name, way, rate, seed, options.rank, options.steps) for seed in options.report]
        for key, (way, rate) in runs.items()
    }
    shares = {
        key: [(before - one) / (before - full) for one, full in zip(found, after["full"], strict=True)]
        for key, found in after.items()
    }
    return {"name": name, "before": before, "chosen": chosen, "best": best, "after": after, "shares": shares}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a row for each model and way.

    Args:
        arguments: of the command line; default those of this process.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("names", nargs="*", help="registry names (default: all that have a demo)")
    parser.add_argument("--rates", type=float, nargs="+", default=GRID)
    parser.add_argument("--report", type=int, nargs="+", default=(1, 2, 3), help="seeds")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--steps", type=int, help="instead of the demos'")
    parser.add_argument("--ways", default="matched", help="with commas; full fine-tuning comes first in any case")
    parser.add_argument("--json", help="a file to append a line for each model to")
    parser.add_argument("--quick", action="store_true", help="one step at one rate: measures nothing")
    options = parser.parse_args(arguments)
    if options.quick:
        options.steps, options.rates, options.report = 1, [1e-3], [1]
    torch.set_num_threads(1)
    ways = ("full", *(way for way in ("matched", *options.ways.split(",")) if way != "full"))
    for name in options.names or [entry.name for entry in zoo.entries() if entry.demo]:
        row = measure(name, tuple(dict.fromkeys(ways)), options)
        for key, shares in row["shares"].items():
            mean, half = interval(shares)
            print(f"{name} {key}: {mean:.1%} ± {half:.1%} of full fine-tuning's gain", flush=True)
        if options.json:
            with Path(options.json).open("a") as file:
                file.write(json.dumps(row) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
