"""A day with a GPU in one script: correctness, kernels, steps, decoding, graphs, QLoRA of an 8B model.

    python benchmarks/gpu.py --budget 8m --json gpu.json          # print as it goes; write gpu.json after every row
    python benchmarks/gpu.py --only kernels --budget 2m           # one part; several: --only kernels decoding
    python benchmarks/gpu.py --page gpu.json > benchmarks/gpu.md  # the page of a finished or interrupted run
    python benchmarks/gpu.py --device cpu --quick                 # checks the script, measures nothing

Each part has a share of the budget, and what one leaves goes to those after it. A part stops after the row in which its
time ends, a row or part that fails is recorded, and the next goes on: what ran before the end is kept.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from on_gpu.parts import PARTS
from on_gpu.record import Record


def seconds(text: str) -> float:
    """Return the seconds of a time such as 480, 90s or 8m."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([sm]?)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"expected a time such as 480, 90s or 8m, got {text!r}")
    return float(found[1]) * (60 if found[2] == "m" else 1)


def main(arguments: list[str] | None = None) -> int:
    """Run the parts; return 1 if one failed.

    Args:
        arguments: of the command line; default those of this process.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--budget", type=seconds, default=480.0, help="of time in all: 480, 90s or 8m (the default)")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="these parts")
    parser.add_argument("--device", help="default cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: checks the script, measures nothing")
    parser.add_argument("--json", type=Path, help="a file that is written after every row")
    parser.add_argument(
        "--page", type=Path, metavar="JSON", help="print the page of an earlier run, and do nothing else"
    )
    options = parser.parse_args(arguments)
    if options.page:
        from on_gpu.page import page

        print(page(options.page.read_text(encoding="utf-8")), end="")
        return 0

    import torch

    device = options.device or "cuda"
    if device.startswith("cuda") and not torch.cuda.is_available():
        print("gpu.py: torch finds no CUDA device; --device cpu --quick checks the script", file=sys.stderr)
        return 2
    record = Record(device, options.quick, options.budget, options.json)
    for number, name in enumerate(options.only):
        weights = [PARTS[one].share for one in options.only[number:]]
        record.run(name, PARTS[name], share=weights[0] / sum(weights))
    return record.failures()


if __name__ == "__main__":
    raise SystemExit(main())
