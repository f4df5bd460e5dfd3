"""Time several variants of one computation side by side, on a machine with other processes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn


def interleaved(
    calls: Mapping[str, Callable[[], object]], repetitions: int, device: str = "cpu", warm_up: int = 1
) -> dict[str, list[float]]:
    """Return the seconds of each call in each round; a round runs every call once.

    The order is rotated from round to round and reversed in every other one, so that no call always runs in what
    another leaves in the caches. On the CPU it is CPU time of this process (set torch to one thread), on CUDA wall time
    up to the synchronisation.

    Args:
        calls: by name.
        repetitions: how many rounds.
        device: where the calls run.
        warm_up: how many rounds before them are not counted.
    """
    clock = time.perf_counter if device.startswith("cuda") else time.process_time
    found: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(-warm_up, repetitions):
        for name in order(list(calls), max(number, 0)):
            _synchronize(device)
            start = clock()
            calls[name]()
            _synchronize(device)
            if number >= 0:
                found[name].append(clock() - start)
    return found


def order(names: list[str], number: int) -> list[str]:
    """Return the order of round `number`: rotated by one more every two rounds, reversed in every other."""
    turn = number // 2 % len(names)
    rotated = names[turn:] + names[:turn]
    return rotated[::-1] if number % 2 else rotated


def _synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def task_of(module: nn.Module, task: str, x: Tensor) -> Callable[[], object]:
    """Return a function that runs a module once.

    Args:
        module: one that takes one tensor.
        task: "forward, no grad", "forward" or "forward and backward".
        x: what the module takes; it requires grad, so that a frozen module has a backward pass too.
    """

    def run() -> object:
        if task == "forward, no grad":
            with torch.no_grad():
                return module(x)
        y = module(x)
        if task == "forward and backward":
            y.sum().backward()
            module.zero_grad(set_to_none=True)
            x.grad = None
        return y

    return run


class Ratio(NamedTuple):
    """A call's time by another's: the median over rounds of their ratio within a round, and its quartiles."""

    low: float
    median: float
    high: float

    def __str__(self) -> str:
        """Return it as tables show it."""
        return f"{self.median:.2f} ({self.low:.2f}–{self.high:.2f})"


def spread(seconds: list[float], floor: list[float]) -> Ratio:
    """Return the ratio of a call's time to the floor's in the same round."""
    ratios = [one / other for one, other in zip(seconds, floor, strict=True)]
    low, middle, high = statistics.quantiles(ratios, method="inclusive") if len(ratios) > 1 else ratios * 3
    return Ratio(low, middle, high)


def median(seconds: list[float]) -> float:
    """Return the median."""
    return statistics.median(seconds)


def ratio(seconds: list[float], floor: list[float]) -> float:
    """Return the median over rounds of the ratio of a call's time to the floor's in the same round."""
    return statistics.median(one / other for one, other in zip(seconds, floor, strict=True))
