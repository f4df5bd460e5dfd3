"""What an average of bits costs: the main metric of the carried models, in 4 bit, mixed, and within an average.

    python benchmarks/averages.py [NAME ...] [--average 4.5] [--batches N] [--json]

Uniform: every weight in nf4, as bitsandbytes would. Mixed: `bits=4`. Auto: `bits="auto:4.5"`, from sizes alone.
Measured: the same average by the Fisher information of training batches; the metric is of held-out data. Bits are
everything that is stored by the number of values, gains and biases in float32 included.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

import torch

import zoo
from zoo.loading.sensitivity import loss_costs, sensitivity

NAMES = ("bert", "ddpm", "gat", "gpt", "stylegan", "vae", "vit")
LOSSES = {"bert": "loss", "gpt": "loss", "gat": "loss", "vit": "loss"}  # instead of a coarser main metric


def by_name(name: str, average: float, batches: int) -> zoo.Quantization:
    """Return the widths that the Fisher information of `batches` gives within the average, weight by weight."""
    scheme = zoo.Quantization(4, average=average)
    model = zoo.load(name, device="cpu")
    return sensitivity(model, scheme, loss_costs(model, None, scheme, batches=batches)).quantization


def measure(name: str, average: float, batches: int) -> dict[str, Any]:
    """Return bits and metric of one model for each way."""
    ways = {
        "uniform": zoo.Quantization(4, mixed=False),
        "mixed": 4,
        "auto": f"auto:{average}",
        "measured": by_name(name, average, batches),
    }
    full = zoo.load(name, device="cpu").evaluate()
    metric = LOSSES.get(name, next(iter(full)))
    row: dict[str, Any] = {"name": name, "metric": metric, "full": full[metric]}
    for way, bits in ways.items():
        model = zoo.load(name, bits=bits, device="cpu")
        size = model.footprint()
        row[way] = {"bits": 8 * size.bytes / size.parameters, metric: model.evaluate()[metric]}
    return row


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a row for each model.

    Args:
        arguments: of the command line; default those of this process.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("names", nargs="*", help=f"registry names (default: {', '.join(NAMES)})")
    parser.add_argument("--average", type=float, default=4.5)
    parser.add_argument("--batches", type=int, default=16, help="of four items, to measure on")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="one model on one batch: checks the script")
    options = parser.parse_args(arguments)
    if options.quick:
        options.names, options.batches = ["gat"], 1
    torch.set_num_threads(1)
    rows = []
    for name in options.names or NAMES:
        row = measure(name, options.average, options.batches)
        rows.append(row)
        if not options.json:
            metric, full = row["metric"], row["full"]
            cells = [
                f"{way} {row[way][metric]:.5f} ({row[way][metric] - full:+.5f} at {row[way]['bits']:.2f} bit)"
                for way in ("uniform", "mixed", "auto", "measured")
            ]
            print(f"{name}, {metric}: full {full:.5f}", *cells, sep="  ", flush=True)
    if options.json:
        print(json.dumps(rows, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
