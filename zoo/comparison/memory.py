"""The most memory that this process, or its accelerator, has held since a moment."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def start(device: torch.device) -> bool:
    """Begin to watch for the highest use; return whether what was before is left out.

    On CUDA it is torch's own count. On the CPU it is the process's resident memory, whose peak Linux lets a process
    reset; elsewhere the peak since the process began counts.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return True
    _give_back()
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def peak(device: torch.device) -> int:
    """Return the highest use since `start`, in bytes."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    return _of_status("VmHWM") or _most()


def now(device: torch.device) -> int:
    """Return what is in use at this moment, in bytes."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _of_status("VmRSS") or _most()


def _give_back() -> None:
    """Return memory that was freed to the system, which the C library may keep and which would count as in use."""
    import ctypes
    import gc

    gc.collect()
    with suppress(OSError, AttributeError):  # another C library has no such call
        ctypes.CDLL(None).malloc_trim(0)


def _of_status(name: str) -> int | None:
    try:
        lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines() if ":" in line)
    except OSError:
        return None
    return int(lines[name].split()[0]) * 1024 if name in lines else None


def _most() -> int:
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024
