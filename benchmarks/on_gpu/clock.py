"""Times and memory on a card; on a CPU, where the scripts are only checked, wall time and zero."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch
from timing import order


def once(call: Callable[[], object], device: str, repeats: int = 1) -> float:
    """Return the seconds of one call, measured over `repeats` calls between two CUDA events."""
    if not device.startswith("cuda"):
        begun = time.perf_counter()
        for _ in range(repeats):
            call()
        return (time.perf_counter() - begun) / repeats
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    for _ in range(repeats):
        call()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1e3 / repeats


def in_turns(calls: Mapping[str, Callable[[], object]], rounds: int, device: str, repeats: int = 1) -> dict[str, float]:
    """Return the median seconds of each call, in an order that changes from round to round (`timing.order`).

    Args:
        calls: by name; each has run before.
        rounds: how many.
        device: where they run.
        repeats: calls between two events: many for a short one.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds if calls else 0):
        for name in order(list(calls), number):
            found[name].append(once(calls[name], device, repeats))
    return {name: statistics.median(times) for name, times in found.items()}


def peak(call: Callable[[], object], device: str) -> int:
    """Return the bytes that a call needs at its peak, over what is allocated before it; 0 on a CPU."""
    if not device.startswith("cuda"):
        call()
        return 0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def release(device: str) -> None:
    """Give unused memory back, so that one case does not press on the next."""
    import gc

    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
