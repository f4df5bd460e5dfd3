"""What a run shows on stderr: a bar on a terminal, a line now and then elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[int, float, float], None]


@contextmanager
def progress(title: str, steps: int, *, done: int, every: int, quiet: bool) -> Iterator[Report]:
    """A function to call after each step with (steps done, loss, learning rate).

    The loss shown is the mean over the last steps since single ones jump.
    """
    if quiet:
        yield lambda step, loss, lr: None
        return
    from rich.console import Console

    console = Console(stderr=True)
    with (
        _bar(console, title, steps, done)
        if console.is_terminal or console.is_jupyter
        else _lines(title, steps, done, every) as report
    ):
        yield report


def note(message: str, *, quiet: bool) -> None:
    """One line on stderr, unless quiet."""
    if not quiet:
        print(message, file=sys.stderr, flush=True)


@contextmanager
def _bar(console: object, title: str, steps: int, done: int) -> Iterator[Report]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
    )
    smooth, clock = _Smooth(), _Clock(done)
    # stdout is the caller's data and must not end up on stderr
    with Progress(*columns, console=console, redirect_stdout=False) as bar:  # type: ignore[arg-type]
        task = bar.add_task(title, total=steps, completed=done, figures="")

        def report(step: int, loss: float, lr: float) -> None:
            figures = f"loss {smooth(loss):.4g}  {clock(step):.3g} steps/s"
            bar.update(task, completed=step, figures=figures)

        yield report


@contextmanager
def _lines(title: str, steps: int, done: int, every: int) -> Iterator[Report]:
    smooth, clock = _Smooth(), _Clock(done)

    def report(step: int, loss: float, lr: float) -> None:
        mean = smooth(loss)
        if step % every == 0 or step == steps:
            speed = clock(step)
            left = f"{(steps - step) / speed:.0f} s left" if speed else ""
            note(
                f"{title} {step}/{steps}  loss {mean:.4g}  lr {lr:.2e}  {speed:.3g} steps/s  {left}".rstrip(),
                quiet=False,
            )

    yield report


class _Smooth:
    """A running mean over about the last twenty values."""

    def __init__(self) -> None:
        self.total, self.weight = 0.0, 0.0

    def __call__(self, value: float) -> float:
        self.total, self.weight = 0.95 * self.total + value, 0.95 * self.weight + 1
        return self.total / self.weight


class _Clock:
    """Steps a second since the start."""

    def __init__(self, done: int) -> None:
        self.start, self.done = time.perf_counter(), done

    def __call__(self, step: int) -> float:
        return (step - self.done) / max(time.perf_counter() - self.start, 1e-9)
