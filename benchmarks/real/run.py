"""Measure what fewer bits cost pretrained networks that people use.

    python benchmarks/real/run.py [NAME ...] [--ways 32 16 8 4] [--inputs N] [--calibration N] [--lora STEPS] [--json]

A way is a width, 32, 16, 8 or 4; with a c behind it, 4c, it is calibrated on other inputs than those that are measured.
auto:4.5 gives each weight the bits that it needs at an average of 4.5, auto:4.5c by data. --lora adds a row for each
way of fewer than 8 bits: after so many steps of LoRA that is distilled from full precision, on photographs that are
not measured. Average bits: of all parameters, those included that stay in full precision.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
import time
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from bed import Bed, outputs
from beds import BEDS, find
from figures import Figure
from torch import nn

import zoo

WAY = re.compile(r"(?:(32|16|8|4)|(auto:\d+(?:\.\d+)?))(c?)")
FEW = 6.0  # stored bits of a weight, scales included, below which it counts as in 4 bit
QUICK = 24  # inputs


def parsed(way: str) -> tuple[int | str, bool]:
    """Return `bits=` of a way, and whether it is calibrated.

    Raises:
        argparse.ArgumentTypeError: it is no way.
    """
    found = WAY.fullmatch(way)
    if found is None:
        raise argparse.ArgumentTypeError(f"expected a way such as 8, 4, 4c, auto:4.5 or auto:4.5c, got {way!r}")
    return int(found[1]) if found[1] else found[2], bool(found[3])


def wrapped(module: nn.Module, way: str, calibration: list[Any]) -> zoo.Model:
    """Return the module in a way's bits.

    Raises:
        zoo.ZooError: this zoo cannot.
    """
    bits, calibrated = parsed(way)
    given: dict[str, Any] = {"bits": bits}
    if calibrated:
        if "calibrate" not in inspect.signature(zoo.wrap).parameters:
            raise zoo.ZooError("zoo.wrap has no calibrate=")
        given["calibrate"] = calibration
    return zoo.wrap(module, **given)


def measured(bed: Bed, ways: Sequence[str], n: int, calibration: int, steps: int, seed: int) -> list[dict[str, Any]]:
    """Return a row of figures for each way.

    Args:
        bed: what is measured.
        ways: the ways.
        n: the number of inputs.
        calibration: the number of other inputs to calibrate on.
        steps: of LoRA; 0 for none.
        seed: of the inputs.
    """
    inputs = bed.inputs(n, seed)
    reference = outputs(bed.build(), inputs.calls)
    rows: list[dict[str, Any]] = []

    def add(way: str, model: zoo.Model, seconds: float) -> None:
        found = outputs(model.module, inputs.calls)
        size = model.footprint()
        few = sum(one.shape.numel() for one in model.weights() if one.bits < FEW)
        figures = bed.figure(found, inputs.truth) | bed.agreement(reference, found)
        row = {
            "bed": bed.name,
            "way": way,
            "figures": {name: figure._asdict() for name, figure in figures.items()},
            "bits": 8 * size.bytes / size.parameters,
            "share_in_4_bit": few / size.parameters,
            "seconds": seconds,
        }
        rows.append(row)
        print(line(row), file=sys.stderr, flush=True)

    for way in ways:
        started = time.perf_counter()
        try:
            model = wrapped(bed.build(), way, bed.calibration(calibration, seed) if parsed(way)[1] else [])
        except zoo.ZooError as error:
            print(f"{bed.name}: {way} is left out, this zoo cannot: {error}", file=sys.stderr, flush=True)
            continue
        add(way, model, time.perf_counter() - started)
        bits = parsed(way)[0]
        if steps and bed.distil is not None and (isinstance(bits, str) or bits < 8):
            started = time.perf_counter()
            bed.distil(model, bed.build(), steps, seed)
            add(f"{way} + LoRA", model, time.perf_counter() - started)
    return rows


def line(row: dict[str, Any]) -> str:
    """Return a row as a line of a Markdown table."""
    figures = [f"{name} {text(Figure(**figure))}" for name, figure in row["figures"].items()]
    size = f"{row['bits']:.2f} bits, {row['share_in_4_bit']:.1%} in 4 bit"
    return f"| {row['bed']} | {row['way']} | {'; '.join(figures)} | {size} | {row['seconds']:.1f} s |"


def text(figure: Figure) -> str:
    """Return a figure with its interval, to three digits."""
    return f"{figure.value:.3g} ({figure.low:.3g} to {figure.high:.3g})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each bed and way.

    Args:
        arguments: of the command line; default those of this process.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(bed.name for bed in BEDS)}")
    parser.add_argument("--ways", nargs="+", default=["32", "16", "8", "4"], help="32 16 8 4 4c auto:4.5 auto:4.5c")
    parser.add_argument("--inputs", type=int, default=200, help="how many are measured")
    parser.add_argument("--calibration", type=int, default=64, help="how many others calibrate")
    parser.add_argument("--lora", type=int, default=0, metavar="STEPS", help="of distilled LoRA (default: none)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} inputs: checks the script, measures little")
    options = parser.parse_args(arguments)
    try:
        beds = [find(name) for name in options.names] or list(BEDS)
        for way in options.ways:
            parsed(way)
    except (KeyError, argparse.ArgumentTypeError) as error:
        parser.error(str(error.args[0]))
    if options.quick:
        options.inputs, options.calibration, options.lora = QUICK, min(QUICK, options.calibration), options.lora and 1
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    # chgnet computes volumes this way.
    warnings.filterwarnings("ignore", message="Converting a tensor with requires_grad=True to a scalar")
    rows = []
    for bed in beds:
        if bed.missing:
            what = ", ".join(bed.missing)
            print(f"{bed.name} is left out, not installed: {what} (pip install -e '.[real]')", file=sys.stderr)
            continue
        rows += measured(bed, options.ways, options.inputs, options.calibration, options.lora, options.seed)
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        print("| network | bits | figures, with 95 % intervals | size | to wrap |", "|---|---|---|---|---|", sep="\n")
        print(*map(line, rows), sep="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
