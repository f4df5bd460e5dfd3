"""What a run shows on stderr: a bar on a terminal, a line now and then elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from zoo.errors import printable

Report = Callable[[int, float, float, float], None]


@contextmanager
def progress(
    title: str,
    steps: int | None,
    *,
    done: int,
    every: int,
    quiet: bool,
    minutes: float | None = None,
    used: float = 0.0,
) -> Iterator[Report]:
    """Yield a function to call after each step with (steps done, loss, learning rate, share of the budget used).

    The loss shown is the mean over the last steps since single ones jump.

    Args:
        title: what is going on.
        steps: how many steps there will be; None where the budget is `minutes`.
        done: steps of an earlier run that this one goes on with.
        every: steps between two lines where stderr is no terminal.
        quiet: whether to show nothing.
        minutes: the budget where it is not in steps.
        used: the share of the budget that the earlier run has used.
    """
    if quiet:
        yield lambda step, loss, lr, used: None
        return
    from rich.console import Console

    console = Console(stderr=True)
    whole, clock = (f"{minutes:g} min" if steps is None else str(steps)), _Clock(done, used)
    with (
        _bar(console, title, whole, clock)
        if console.is_terminal or console.is_jupyter
        else _lines(title, whole, clock, every) as report
    ):
        yield report


def note(message: str, *, quiet: bool) -> None:
    """Print one line on stderr, unless quiet."""
    if not quiet:
        print(printable(message), file=sys.stderr, flush=True)


@contextmanager
def _bar(console: object, title: str, whole: str, clock: _Clock) -> Iterator[Report]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[place]}"),
        TextColumn("{task.fields[values]}"),
        TimeRemainingColumn(),
    )
    smooth = _Smooth()
    # stdout is the caller's data and must not end up on stderr
    with Progress(*columns, console=console, redirect_stdout=False) as bar:  # type: ignore[arg-type]
        task = bar.add_task(title, total=1.0, place=f"{clock.done}/{whole}", values="")
        bar.update(task, completed=clock.used)

        def report(step: int, loss: float, lr: float, used: float) -> None:
            values = f"loss {smooth(loss):.4g}  {clock(step):.3g} steps/s"
            bar.update(task, completed=min(used, 1.0), place=f"{step}/{whole}", values=values)

        yield report


@contextmanager
def _lines(title: str, whole: str, clock: _Clock, every: int) -> Iterator[Report]:
    smooth = _Smooth()

    def report(step: int, loss: float, lr: float, used: float) -> None:
        mean = smooth(loss)
        if step % every == 0 or used >= 1:
            speed, left = clock(step), clock.left(used)
            note(
                f"{title} {step}/{whole}  loss {mean:.4g}  lr {lr:.2e}  {speed:.3g} steps/s  {left:.0f} s left",
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
    """Steps a second since the start, and the seconds that are left at the speed so far."""

    def __init__(self, done: int, used: float) -> None:
        self.start, self.done, self.used = time.perf_counter(), done, used

    def __call__(self, step: int) -> float:
        return (step - self.done) / self._seconds()

    def left(self, used: float) -> float:
        """Return the seconds that the rest of the budget takes."""
        return self._seconds() * max(0.0, 1 - used) / max(used - self.used, 1e-9)

    def _seconds(self) -> float:
        return max(time.perf_counter() - self.start, 1e-9)
