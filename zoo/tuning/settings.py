"""The settings of a run, checked, and the learning rate at each of its steps."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from typing import Any

from zoo.errors import TuningError

BATCH_SIZE = 16
LR = 1e-3  # right for low-rank factors and for small models; models' own demos say better in the registry


@dataclass(frozen=True)
class Settings:
    """What a run depends on; two runs of equal settings on the CPU give equal weights."""

    data: str
    steps: int
    batch_size: int
    lr: float
    seed: int
    warmup: int
    grad_clip: float | None
    weight_decay: float
    betas: tuple[float, float]
    accumulate: int
    average: float = 0.0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise TuningError(f"expected {name} as a whole number, at least 1, got {value!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise TuningError(f"expected seed as a whole number, at least 0, got {self.seed!r}")
        for name in ("lr", "grad_clip"):
            value = getattr(self, name)
            if name == "grad_clip" and value is None:
                continue
            if not _is_number(value) or not 0 < value < math.inf:
                raise TuningError(f"expected {name} as a number above 0, got {value!r}")
        if not _is_number(self.weight_decay) or not 0 <= self.weight_decay < math.inf:
            raise TuningError(f"expected weight_decay as a number, at least 0, got {self.weight_decay!r}")
        if len(self.betas) != 2 or not all(_is_number(beta) and 0 <= beta < 1 for beta in self.betas):
            raise TuningError(f"expected betas as two numbers in [0, 1), got {self.betas!r}")

        if not _is_number(self.average) or not 0 <= self.average < 1:
            raise TuningError(f"expected average as a number in [0, 1), got {self.average!r}")

    def facts(self) -> dict[str, Any]:
        """The settings as JSON gives them back."""
        facts = {**asdict(self), "betas": list(self.betas)}
        if not self.average:  # a setting younger than some checkpoints
            del facts["average"]
        return facts

    def lr_at(self, step: int) -> float:
        """The learning rate of step `step`, counted from 0: linear up to `lr`, then half a cosine towards 0.

        Loshchilov and Hutter, SGDR (arXiv:1608.03983), eq. 5 without restarts.
        """
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / max(1, self.steps - self.warmup)))


def warmup_steps(warmup: float, steps: int) -> int:
    """`warmup` as a number of steps: below 1 it is a share of `steps`."""
    if not _is_number(warmup) or not 0 <= warmup < math.inf or (warmup >= 1 and warmup != int(warmup)):
        raise TuningError(f"expected warmup as a share below 1 or a whole number of steps, got {warmup!r}")
    return min(steps, int(warmup) if warmup >= 1 else math.ceil(warmup * steps))


def described(data: Any) -> str:
    """`data` in words that are the same when the same call is made again."""
    if data is None:
        return "the plugin's own"
    if isinstance(data, str | os.PathLike):
        return os.fspath(data)
    if hasattr(data, "shape"):
        return f"{type(data).__name__} {list(data.shape)}"
    if isinstance(data, tuple | list) and len(data) <= 4:
        return f"{type(data).__name__} of {', '.join(described(item) for item in data)}"
    return f"{type(data).__name__} of {len(data)}" if hasattr(data, "__len__") else type(data).__name__


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
