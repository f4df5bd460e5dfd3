"""What is left of a model in fewer bits or with most of its values zero, tuned to it or not; over several seeds.

    python benchmarks/smaller.py vit gat gpt --seeds 5
    python benchmarks/smaller.py vit --only quantized

Each row is tuned on the demo's data by the same LoRA, steps and batches. "after" is quantized, or pruned, when the
tuning is done; "aware" before it, so that it is tuned to it. 3 bit is that of HQQ
(examples/plugins/hqq has to be installed).
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from typing import Any

import zoo
from zoo.catalog import registry

RANK = 8
# Two-sided 95 % points of Student's distribution, by degrees of freedom.
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
WAYS: dict[str, dict[str, Any]] = {
    "quantized": {"3 bit": lambda: zoo.QuantizeAware(3, "hqq")},
    "pruned": {
        "80 % zero": lambda: zoo.Prune(0.8),
        "30 % of channels": lambda: zoo.Prune(0.3, "channels"),
        "2:4": lambda: zoo.Prune(pattern="2:4"),
    },
}


def figure(name: str, seed: int, make: Callable[[], Any] | None, aware: bool, steps: int | None) -> float:
    """Return the loss on held-out data of one tuned model."""
    demo = registry.find(name).demo
    model = zoo.load(name, lora=zoo.LoRA(RANK, alpha=2 * RANK, targets="all"), seed=seed, device="cpu")
    if make is not None and aware:
        model.add_adapter("made", make())
    settings = {"steps": steps or demo["steps"], "batch_size": demo["batch_size"], "lr": demo["lr"], "seed": seed}
    if settings["steps"] > 0:
        model.tune(demo["data"], quiet=True, **settings)
    if make is not None and not aware:
        model.add_adapter("made", make())
    metrics = model.evaluate(demo["data"])
    return metrics["loss"] if "loss" in metrics else next(iter(metrics.values()))


def interval(values: list[float]) -> str:
    """Return the mean and half the width of its 95 % interval, by Student's distribution."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return f"{mean:.4g}"
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return f"{mean:.4g} ± {STUDENT[len(values) - 1] * spread / math.sqrt(len(values)):.2g}"


def main() -> None:
    """Print each model's losses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--only", choices=list(WAYS), default=None)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    for name in chosen.names:
        rows: dict[str, list[float]] = {}
        for seed in range(chosen.seeds):
            runs: list[tuple[str, Any, bool]] = [("tuned, as it is", None, False)]
            for group, ways in WAYS.items():
                if chosen.only in (None, group):
                    runs += [
                        (f"{label}, {when}", make, when == "aware")
                        for label, make in ways.items()
                        for when in ("after", "aware")
                    ]
            for label, make, aware in runs:
                rows.setdefault(label, []).append(figure(name, seed, make, aware, chosen.steps))
                if chosen.json:
                    print(json.dumps({"name": name, "seed": seed, "way": label, "loss": rows[label][-1]}), flush=True)
        if not chosen.json:
            for label, values in rows.items():
                print(f"{name:10}{label:28}{interval(values)}", flush=True)


if __name__ == "__main__":
    main()
