"""The options of `tune`: which there are, and those that say how a run goes but not what it leads to."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from zoo.errors import TuningError, UnknownNameError, did_you_mean
from zoo.tuning.settings import OLD_NAMES

P = ParamSpec("P")
R = TypeVar("R")

# What other libraries call them.
ELSEWHERE = {
    "learning_rate": "lr",
    "max_steps": "steps",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "output_dir": "out",
    "resume_from_checkpoint": "resume",
    "save_steps": "save_every",
    "save_total_limit": "keep",
    "eval_steps": "eval_every",
    "logging_steps": "log_every",
    "warmup_ratio": "warmup",
    "warmup_steps": "warmup",
    "lr_scheduler_type": "schedule",
    "max_grad_norm": "grad_clip",
    "bf16": "precision",
    "fp16": "precision",
}


def known_options(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function that takes options by name refuse others with the nearest one's name.

    The function then raises `UnknownNameError` for a name, and `TuningError` for an argument without one, where Python
    raises TypeError.
    """
    parameters = inspect.signature(function).parameters
    names = [name for name, one in parameters.items() if one.kind is one.KEYWORD_ONLY]
    positional = len(parameters) - len(names)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        unknown = next((name for name in kwargs if name not in parameters and name not in OLD_NAMES), None)
        if unknown is not None:
            near = f" Did you mean {ELSEWHERE[unknown]!r}?" if unknown in ELSEWHERE else did_you_mean(unknown, names)
            raise UnknownNameError(
                f"{function.__name__} has no option {unknown!r}.{near} The options are {', '.join(names)}."
            )
        if len(args) > positional:
            raise TuningError(
                f"{function.__name__} takes its options by name, such as steps=200, got {args[positional]!r:.40} "
                "without one"
            )
        return function(*args, **kwargs)

    return call


def check_options(out: Any, on_step: Any, counts: Mapping[str, Any], flags: Mapping[str, Any]) -> None:
    """Raise TuningError for an option that cannot be.

    Args:
        out: the run's folder, or None.
        on_step: a function, or None.
        counts: name → what is to be a number of steps or of checkpoints.
        flags: name → what is to be True or False.
    """
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise TuningError(f"expected {name} as a whole number, at least 1, got {value!r:.40}")
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise TuningError(f"expected {name} as True or False, got {value!r:.40}")
    folder = os.fspath(out) if isinstance(out, str | os.PathLike) else out
    if out is not None and (not isinstance(folder, str) or not folder or "\0" in folder):
        raise TuningError(f"expected out as a folder's name, got {out!r:.40}")
    if on_step is not None and not callable(on_step):
        raise TuningError(f"expected on_step as a function of the step and its loss, got {on_step!r:.40}")
