"""A loop over fused experts, which indexes one matrix of a stack at a time: what unpacking and adapters cost.

    python benchmarks/experts.py [--json] [--quick]

Every result is a ratio to the plain loop's time for the same task, the median over interleaved rounds.
"""

from __future__ import annotations

import argparse
import copy
import json

import torch
from timing import interleaved, median, ratio, task_of
from torch import Tensor, nn

ROWS, RANK = 64, 8
TASKS = ("forward, no grad", "forward and backward")
VARIANTS = {
    "zoo LoRA": {"lora": RANK},
    "zoo 8-bit": {"bits": 8},
    "zoo 4-bit": {"bits": 4},
    "zoo 4-bit LoRA": {"bits": 4, "lora": RANK},
}


class Experts(nn.Module):
    """Experts of one product each, every one of which sees all rows."""

    def __init__(self, experts: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(experts, width, width) / width**0.5, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum over the experts, [ROWS, width]."""
        y = x @ self.weight[0]
        for expert in range(1, self.weight.shape[0]):
            y = y + x @ self.weight[expert]
        return y


def measure(experts: int, width: int, rounds: int, device: str) -> dict[str, dict[str, dict[str, float]]]:
    """Return variant → task → seconds, and the ratio to the plain loop."""
    import zoo

    torch.manual_seed(0)
    plain = Experts(experts, width)
    modules: dict[str, nn.Module] = {"plain, frozen": plain}
    modules |= {name: zoo.wrap(copy.deepcopy(plain), **options).module for name, options in VARIANTS.items()}
    modules = {name: module.to(device) for name, module in modules.items()}
    x = torch.randn(ROWS, width, device=device, requires_grad=True)
    results: dict[str, dict[str, dict[str, float]]] = {name: {} for name in modules}
    for task in TASKS:
        seconds = interleaved({name: task_of(module, task, x) for name, module in modules.items()}, rounds, device)
        floor = seconds["plain, frozen"]
        for name, one in seconds.items():
            results[name][task] = {"seconds": median(one), "ratio": ratio(one, floor)}
    return results


def main() -> None:
    """Print a row for each width and variant."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experts", type=int, default=32)
    parser.add_argument("--widths", type=int, nargs="+", default=[128, 256, 512, 1024])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="4 experts of 64, 2 rounds: checks the script")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    experts, widths, rounds = (4, [64], 2) if options.quick else (options.experts, options.widths, options.rounds)
    results = {width: measure(experts, width, rounds, options.device) for width in widths}
    if options.json:
        print(json.dumps({"experts": experts, "rows": ROWS, "rounds": rounds, "figures": results}, indent=1))
        return
    print(f"{experts} experts, {ROWS} rows, rank {RANK}: ratio to the plain loop (ms)")
    print(f"{'':<28}" + "".join(f"{task:>24}" for task in TASKS))
    for width, rows in results.items():
        for name, tasks in rows.items():
            cells = (f"{cell['ratio']:.2f} ({cell['seconds'] * 1e3:.1f})" for cell in tasks.values())
            print(f"{f'{width} x {width}':<12}{name:<16}" + "".join(f"{cell:>24}" for cell in cells))


if __name__ == "__main__":
    main()
