"""Measuring several variants of one computation side by side on a machine that others use too."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch


def interleaved(
    calls: Mapping[str, Callable[[], object]], repetitions: int, device: str = "cpu", warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of each call in each of `repetitions` rounds; a round runs every call once, in turn.

    On the CPU it is CPU time of this process (set torch to one thread), on CUDA wall time up to the synchronisation.
    """
    clock = time.perf_counter if device.startswith("cuda") else time.process_time
    found: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(-warm_up, repetitions):
        for name, call in calls.items():
            _synchronize(device)
            start = clock()
            call()
            _synchronize(device)
            if number >= 0:
                found[name].append(clock() - start)
    return found


def _synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def median(seconds: list[float]) -> float:
    return statistics.median(seconds)


def ratio(seconds: list[float], floor: list[float]) -> float:
    """The median over rounds of a call's time to the floor's in the same round."""
    return statistics.median(one / other for one, other in zip(seconds, floor, strict=True))
