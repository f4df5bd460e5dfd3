"""What is written down while the strict accelerator runs: when the host waited for it, and by which line of code."""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import torch
from torch import Tensor

# Frames of these are below the code that is to be named.
_BELOW = tuple(f"{Path(module).parent}{os.sep}" for module in (torch.__file__, __file__))
_PASSING_ON = ("__torch_function__", "__torch_dispatch__")  # nor are those that see every operation
_DEPTH = 40  # frames that are kept of one event

Line = tuple[str, int]  # (file, number)


class Event(NamedTuple):
    """One time that the host waited for the device.

    Attributes:
        operation: of the dispatcher, such as "aten::_local_scalar_dense", or a method of Tensor.
        lines: of code that led to it, the innermost first; none of torch's.
    """

    operation: str
    lines: tuple[Line, ...]

    def line(self, folder: Path | None = None) -> str:
        """Return "file.py:12" of the innermost line, of those in `folder` where there is one."""
        return shown(self.lines, folder)


class Waits:
    """The times that the host waited, while a `strict_accelerator` block ran.

    Attributes:
        synchronisations: values were read back, such as by `.item()`, `.cpu()`, `nonzero`: the host waits until the
            device has computed all that was asked of it.
        uploads: values were copied to the device without `non_blocking=True`.
    """

    def __init__(self) -> None:
        self.synchronisations: list[Event] = []
        self.uploads: list[Event] = []

    def by_line(self, folder: Path | None = None) -> Counter[str]:
        """Return how many synchronisations each line made."""
        return Counter(event.line(folder) for event in self.synchronisations)

    def clear(self) -> None:
        """Forget what has been written down."""
        self.synchronisations.clear()
        self.uploads.clear()


class DeviceError(Exception):
    """What an accelerator refuses.

    Attributes:
        what: what was refused.
        lines: of code that led to it, the innermost first.
        fix: what to change.
    """

    def __init__(self, what: str, fix: str) -> None:
        self.what, self.fix = what, fix
        self.lines = lines_here()
        super().__init__(f"{what}, at {shown(self.lines)}")

    def line(self, folder: Path | None = None) -> str:
        """Return "file.py:12" of the innermost line, of those in `folder` where there is one."""
        return shown(self.lines, folder)


class TwoDevicesError(DeviceError, RuntimeError):
    """An operation has tensors of two devices, or writes where it must not."""


class NoHostAccessError(DeviceError, TypeError):
    """The values of a tensor on the device are asked for as if they were on the host."""


_active: list[Waits] = []
_arriving: list[tuple[Tensor, Tensor]] = []
_lock = threading.Lock()


def begin(waits: Waits) -> None:
    """Write down into `waits` from now on, beside others."""
    with _lock:
        _active.append(waits)


def end(waits: Waits) -> None:
    """Write nothing more into `waits`."""
    with _lock:
        _active[:] = [one for one in _active if one is not waits]


def on_its_way(arriving: Tensor) -> None:
    """Hide the values of a tensor of the host until the host waits: it is copied in the background."""
    values = arriving.clone()
    arriving.fill_(float("nan") if arriving.is_floating_point() else 1)
    with _lock:
        _arriving.append((arriving, values))


def synchronised(operation: str) -> None:
    """Write down that the host waits for the device; what was on its way arrives."""
    with _lock:
        arrived, _arriving[:] = list(_arriving), []
    for tensor, values in arrived:
        tensor.copy_(values)
    if _active:
        event = Event(operation, lines_here())
        for waits in tuple(_active):
            waits.synchronisations.append(event)


def uploaded(operation: str) -> None:
    """Write down that the host waits until values have been copied to the device."""
    if _active:
        event = Event(operation, lines_here())
        for waits in tuple(_active):
            waits.uploads.append(event)


def lines_here() -> tuple[Line, ...]:
    """Return the lines of code that are running, the innermost first, without torch's and the accelerator's."""
    frame: FrameType | None = sys._getframe(1)
    lines: list[Line] = []
    while frame is not None and len(lines) < _DEPTH:
        if not frame.f_code.co_filename.startswith(_BELOW) and frame.f_code.co_name not in _PASSING_ON:
            lines.append((frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return tuple(lines)


def shown(lines: tuple[Line, ...], folder: Path | None = None) -> str:
    """Return "package/file.py:12" of the innermost line, of those in `folder` where there is one."""
    inside = [line for line in lines if folder is not None and Path(line[0]).is_relative_to(folder)]
    file, number = (inside or list(lines) or [("?", 0)])[0]
    return f"{'/'.join(Path(file).parts[-2:])}:{number}"
