"""The settings of a run, checked, and the learning rate at each of its steps."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from typing import Any

from zoo.data.spec import Data
from zoo.errors import TuningError
from zoo.plugin.requests import MOST_ITEMS, SEEDS
from zoo.tuning.optimizers import ADAMW

BATCH_SIZE = 16
LR = 1e-3  # of small models, for adapters and full training alike: see `zoo.tuning.rates.usual_lr`
# More of these is a slip, and would take all memory or all time.
MOST = {"steps": 10**12, "batch_size": MOST_ITEMS, "gradient_accumulation_steps": 2**20}
MOST_RATE = 1000  # one step of more would leave no weight finite
SCHEDULES = ("cosine", "wsd")
MATCHED, PLAIN = "matched", "plain"  # what `rates` may be beside LoRA+'s: see zoo/tuning/rates.py
LORA_PLUS = 16.0  # the ratio that LoRA+ proposes (arXiv:2402.12354, section 4)
DECAY_SHARE = 1 / 3  # of a budget, in which the schedule "wsd" lowers the learning rate
# Name of a setting in version 0.1 → its name now: what checkpoints and plugins of that version say.
OLD_NAMES = {"accumulate": "gradient_accumulation_steps", "average": "ema_decay"}


@dataclass(frozen=True)
class Settings:
    """What a run depends on; two runs of equal settings on the CPU give equal weights, but for a budget in minutes.

    Attributes:
        steps: the budget in optimizer steps; None where it is in `minutes`.
        minutes: the budget in minutes of training; None where it is in `steps`.
        rates: whether each factor of an adapter has a learning rate of its own: "matched", "plain" or "lora+16".
        warmup: a number of steps, or of a budget in minutes its share, below 1.
        extended: the earlier budgets of a run that was given a larger one each time it had used one up, rising.
        optimizer: its name, and of one of Python's where it is defined.
        optimizer_options: its own, beside those that are settings.
    """

    data: str
    steps: int | None
    batch_size: int
    lr: float
    seed: int
    warmup: float
    grad_clip: float | None
    weight_decay: float
    betas: tuple[float, float] | None
    gradient_accumulation_steps: int
    ema_decay: float = 0.0
    minutes: float | None = None
    schedule: str = "cosine"
    rates: str = MATCHED
    extended: tuple[float, ...] = ()
    optimizer: str = ADAMW
    optimizer_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise TuningError(
                f"expected steps or minutes, one of them, got steps={self.steps!r} and minutes={self.minutes!r}"
            )
        for name, most in MOST.items():
            value = getattr(self, name)
            if name == "steps" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise TuningError(f"expected {name} as a whole number, at least 1, got {value!r}")
            if value > most:
                raise TuningError(f"expected {name} as a whole number, at most {most:,}, got {value:.3g}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < SEEDS.stop:
            raise TuningError(f"expected seed as a whole number, at least 0 and below 2**64, got {self.seed!r:.40}")
        for name in ("lr", "grad_clip", "minutes"):
            value = getattr(self, name)
            if name != "lr" and value is None:
                continue
            if not _is_number(value) or not 0 < value < math.inf:
                raise TuningError(f"expected {name} as a number above 0, got {value!r}")
        if not _is_number(self.weight_decay) or not 0 <= self.weight_decay < math.inf:
            raise TuningError(f"expected weight_decay as a number, at least 0, got {self.weight_decay!r}")
        for name in ("lr", "weight_decay"):
            if getattr(self, name) > MOST_RATE:
                raise TuningError(f"expected {name} as a number, at most {MOST_RATE}, got {getattr(self, name):.3g}")
        if self.betas is not None:
            checked_betas(self.betas)
        if not _is_number(self.ema_decay) or not 0 <= self.ema_decay < 1:
            raise TuningError(f"expected ema_decay as a number in [0, 1), got {self.ema_decay!r}")
        if self.schedule not in SCHEDULES:
            raise TuningError(f"expected schedule as one of {', '.join(SCHEDULES)}, got {self.schedule!r}")
        check_rates(self.rates)

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as JSON gives them back, without those that version 0.1 had not and that are not used."""
        values = {**asdict(self), "extended": list(self.extended) or (), "optimizer_options": {}}
        values["betas"] = None if self.betas is None else list(self.betas)
        for name, value in self.optimizer_options.items():
            values["optimizer_options"][name] = list(value) if isinstance(value, tuple) else value
        younger = {one.name: _usual(one) for one in fields(self) if one.name in _YOUNGER}
        return {name: value for name, value in values.items() if name not in younger or value != younger[name]}

    def used(self, step: int, seconds: float) -> float:
        """Return the share of the budget that `step` steps and `seconds` have used; the run ends at 1."""
        return step / self.steps if self.steps is not None else seconds / (60 * (self.minutes or 1))

    def lr_at(self, step: int, used: float | None = None) -> float:
        """Return the learning rate of a step: a linear warm-up to `lr`, then down to 0 at the end of the budget.

        "cosine" is half a cosine: Loshchilov and Hutter, SGDR (arXiv:1608.03983), eq. 5 without restarts. "wsd" holds
        `lr` and lowers it linearly over the last third (warm-up, stable, decay: arXiv:2404.06395). Of an extended run,
        a step has the rate that it has in a run of the budget that it was taken in.

        Args:
            step: counted from 0.
            used: the share of a budget in minutes that is used before the step.
        """
        if self.steps is not None:
            if step < self.warmup:
                return self.lr * (step + 1) / self.warmup
            steps = next((one for one in self.extended if step < one), self.steps)
            progress = (step - self.warmup) / max(1, steps - self.warmup)
        else:
            used, minutes = min(1.0, used or 0.0), self.minutes or 1
            used *= minutes / next((one for one in self.extended if used * minutes < one), minutes)
            share = self.warmup if self.warmup < 1 else 0.0
            if used < share:
                return self.lr * max(used, 0.001) / share  # a little at least, or the first step would change nothing
            if step < self.warmup - 1:
                return self.lr * (step + 1) / self.warmup
            progress = (used - share) / (1 - share)
        if self.schedule == "wsd":
            return self.lr * min(1.0, (1 - progress) / DECAY_SHARE)
        return self.lr * 0.5 * (1 + math.cos(math.pi * progress))

    def place(self, step: int) -> str:
        """Return `step` in words, with the number of steps where it is known: "step 5 of 20"."""
        return f"step {step}" if self.steps is None else f"step {step} of {self.steps}"


_YOUNGER = ("ema_decay", "minutes", "schedule", "extended", "optimizer", "optimizer_options")


def checked_extended(extended: Any, budget: float | None) -> tuple[float, ...]:
    """Return the earlier budgets of a run; raise TuningError unless they are rising numbers below its budget."""
    values = tuple(extended) if isinstance(extended, list | tuple) else (None,)
    if (
        not all(_is_number(one) for one in values)
        or list(values) != sorted({*values})
        or (values and not 0 < values[0] <= values[-1] < (budget or 0))
    ):
        raise TuningError(f"expected extended as rising numbers below the budget of {budget}, got {extended!r:.80}")
    return values


def warmup_steps(warmup: float, steps: int | None) -> float:
    """Return `warmup` as a number of steps where it is a share of `steps`; of a budget in minutes as it is.

    Raises:
        TuningError: it is neither a share below 1 nor a whole number.
    """
    if not _is_number(warmup) or not 0 <= warmup < math.inf or (warmup >= 1 and warmup != int(warmup)):
        raise TuningError(f"expected warmup as a share below 1 or a whole number of steps, got {warmup!r}")
    if not isinstance(steps, int):  # a budget in minutes, or what `Settings` refuses
        return warmup
    return min(steps, int(warmup) if warmup >= 1 else math.ceil(warmup * steps))


def checked_betas(betas: Any) -> tuple[float, float]:
    """Return an optimizer's betas; raise TuningError unless they are two numbers in [0, 1)."""
    pair = betas if isinstance(betas, list | tuple) else ()
    if len(pair) != 2 or not all(_is_number(beta) and 0 <= beta < 1 for beta in pair):
        raise TuningError(f"expected betas as two numbers in [0, 1), got {betas!r:.80}")
    return pair[0], pair[1]


def check_rates(rates: Any) -> None:
    """Raise TuningError unless `rates` is "matched", "plain", "lora+", or that with a ratio."""
    if not isinstance(rates, str) or (rates not in (MATCHED, PLAIN) and ratio_of(rates) is None):
        raise TuningError(f"expected rates as {MATCHED!r}, {PLAIN!r} or 'lora+16', got {rates!r:.40}")


def ratio_of(rates: str) -> float | None:
    """Return the ratio that "lora+16" says, 16 for "lora+"; None for anything else."""
    match = re.fullmatch(r"lora\+([0-9]{1,4}(?:\.[0-9]{1,4})?)?", rates)
    ratio = None if match is None else float(match[1] or LORA_PLUS)
    return ratio or None


def current_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of an earlier version, of which 0.1 named some otherwise, as today's would be."""
    return {"rates": PLAIN} | {OLD_NAMES.get(name, name): value for name, value in settings.items()}


def described(data: Any) -> str:
    """Return `data` in words that are the same when the same call is made again."""
    if data is None:
        return "the plugin's own"
    if isinstance(data, Data):
        given = {one.name: getattr(data, one.name) for one in fields(data) if getattr(data, one.name) != _usual(one)}
        source = described(given.pop("source"))
        return f"{source} with {', '.join(f'{name}={value!r}' for name, value in given.items())}" if given else source
    if isinstance(data, str | os.PathLike):
        return os.fspath(data)
    if hasattr(data, "shape"):
        return f"{type(data).__name__} {list(data.shape)}"
    if isinstance(data, tuple | list) and len(data) <= 4:
        return f"{type(data).__name__} of {', '.join(described(item) for item in data)}"
    return f"{type(data).__name__} of {len(data)}" if hasattr(data, "__len__") else type(data).__name__


def _usual(one: Field[Any]) -> Any:
    """Return the default of a field of a dataclass."""
    return one.default_factory() if one.default_factory is not MISSING else one.default


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
