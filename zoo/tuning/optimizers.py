"""Which optimizers there are, and what one does on a device: torch's and bitsandbytes' by name, others in Python.

What an optimizer does is measured: it takes a few steps with parameters and gradients of several sizes. So anybody's
own is treated as those by name are, and one that cannot run is refused before any data are read.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from zoo.errors import TuningError, did_you_mean, one_line, shown
from zoo.torch_state.rng import preserve_rng

ADAMW = "adamw"
TORCH = {
    ADAMW: "AdamW",
    "adam": "Adam",
    "nadam": "NAdam",
    "radam": "RAdam",
    "adamax": "Adamax",
    "adagrad": "Adagrad",
    "adadelta": "Adadelta",
    "adafactor": "Adafactor",
    "rmsprop": "RMSprop",
    "sgd": "SGD",
}
PAGED = "paged_"
BITSANDBYTES = {
    "adamw8bit": "AdamW8bit",
    "adam8bit": "Adam8bit",
    "lion8bit": "Lion8bit",
    "ademamix8bit": "AdEMAMix8bit",
    "adagrad8bit": "Adagrad8bit",
    "rmsprop8bit": "RMSprop8bit",
    "sgd8bit": "SGD8bit",
    "lion": "Lion",
    "ademamix": "AdEMAMix",
    "paged_adamw": "PagedAdamW",
    "paged_adamw8bit": "PagedAdamW8bit",
    "paged_adam8bit": "PagedAdam8bit",
    "paged_lion": "PagedLion",
    "paged_lion8bit": "PagedLion8bit",
    "paged_ademamix8bit": "PagedAdEMAMix8bit",
}
NAMES = (*TORCH, *BITSANDBYTES)
SHARDED = (ADAMW, "adam", "sgd")  # whose steps are value by value, of parts of a parameter as of all of it
# Arguments of `tune` itself, or what no run can have.
_NOT_OPTIONS = ("lr", "weight_decay", "betas", "args", "optim_bits", "is_paged", "maximize")
_SHAPE = (64, 64)  # of the parameters that are tried: the least of which bitsandbytes keeps 8-bit moments
_LR = 2.0**-10
_SAME = 1.5  # between the least and the greatest step of what counts as equal


@dataclass(frozen=True)
class Optimizer:
    """An optimizer of a run.

    Attributes:
        name: as a run file has it; of one of Python's, where it is defined.
        make: makes it, from groups of parameters and options by name.
        options: of its own, beside those that `tune` has arguments for.
        betas: its betas, a third one of AdEMAMix; None where it has none.
        even: whether a step moves every value about as far, whatever the size of gradients and weights, so that a
            learning rate can be matched to a weight.
        decoupled: whether decay is not part of the gradient.
        eps: its epsilon, where that is one number.
    """

    name: str = ADAMW
    make: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW
    options: Mapping[str, Any] = field(default_factory=dict)
    betas: tuple[float, ...] | None = (0.9, 0.999)
    even: bool = True
    decoupled: bool = True
    eps: float | None = 1e-8

    @property
    def pair(self) -> tuple[float, float] | None:
        """The two betas that a run's settings have."""
        return None if self.betas is None else (self.betas[0], self.betas[1])

    @property
    def is_python(self) -> bool:
        """Whether no run file can name it."""
        return self.name not in NAMES


def canonical(name: str) -> str:
    """Return an optimizer's name as `NAMES` has it, also of another spelling, such as "AdamW_8bit".

    Raises:
        TuningError: there is none of this name.
    """
    plain = {_letters(known): known for known in NAMES}
    if _letters(name) not in plain:
        raise TuningError(
            f"no optimizer {shown(name)}.{did_you_mean(str(name).lower(), NAMES)} By name there are "
            f"{', '.join(NAMES)}; in Python also any class of torch.optim.Optimizer, or a function that makes one"
        )
    return plain[_letters(name)]


def takes(optimizer: Any, option: str) -> bool:
    """Return whether an optimizer, by name or in Python, has an option."""
    return option in _parameters(_made_by(optimizer)[1])


def optimizer_of(
    wanted: Any,
    device: torch.device,
    *,
    options: Mapping[str, Any] | None = None,
    betas: Any = None,
    weight_decay: float = 0.0,
) -> Optimizer:
    """Return what a run trains with, after it has taken a few steps on the device.

    Args:
        wanted: a name, a class of `torch.optim.Optimizer`, or a function that makes one from groups and options.
        device: where the model is.
        options: of the optimizer's own.
        betas: None for its own.
        weight_decay: of the run.

    Raises:
        TuningError: there is no such optimizer or option, or it cannot run here.
    """
    name, make = _made_by(wanted)
    known = _parameters(make)
    given = _checked(name, options, known)
    if betas is not None and "betas" not in known:
        raise TuningError(f"the optimizer {name} has no betas: leave betas out; its options are {_listed(known)}")
    if weight_decay and "weight_decay" not in known:
        raise TuningError(f"the optimizer {name} has no weight decay: leave weight_decay out")
    if name.startswith(PAGED) and device.type == "cpu":
        plain = name.removeprefix(PAGED)
        other = plain if plain in NAMES else ADAMW
        raise TuningError(
            f"the optimizer {name} keeps moments in the CPU's memory, where all of this model is: use "
            f"optimizer={other!r}, or load the model on a GPU"
        )
    usual = known["betas"].default if "betas" in known else None
    if isinstance(usual, tuple):
        betas = usual if betas is None else (*betas, *usual[2:])
    eps = given.get("eps", known["eps"].default if "eps" in known else None)
    if name == ADAMW and not given:
        return Optimizer(betas=(0.9, 0.999) if betas is None else betas)
    found = Optimizer(name, make, given, betas, eps=eps if isinstance(eps, float) else None)
    even, decoupled = _measured(found, torch.device("cpu") if device.type == "meta" else device)
    return Optimizer(found.name, make, given, betas, even, decoupled, found.eps)


def fixed(optimizer: Optimizer) -> dict[str, Any]:
    """Return the arguments that are the same for all groups."""
    own = {} if optimizer.betas is None else {"betas": optimizer.betas}
    return {**own, **optimizer.options}


def _made_by(wanted: Any) -> tuple[str, Callable[..., torch.optim.Optimizer]]:
    if isinstance(wanted, str):
        name = canonical(wanted)
        if name in TORCH:
            return name, getattr(torch.optim, TORCH[name])
        return name, getattr(_bitsandbytes(), BITSANDBYTES[name])
    if not callable(wanted):
        raise TuningError(
            f"expected optimizer as a name ({ADAMW}, adamw8bit, …), a class of torch.optim.Optimizer or a function "
            f"that makes one from groups of parameters, got {shown(wanted)}"
        )
    for known, attribute in TORCH.items():
        if wanted is getattr(torch.optim, attribute):
            return known, wanted
    where = getattr(wanted, "__module__", type(wanted).__module__)
    if str(where).startswith("bitsandbytes"):
        for known, attribute in BITSANDBYTES.items():
            if wanted is getattr(_bitsandbytes(), attribute):
                return known, wanted
    return f"{where}.{getattr(wanted, '__qualname__', type(wanted).__qualname__)}", wanted


def _bitsandbytes() -> Any:
    return importlib.import_module("bitsandbytes.optim")


def _letters(name: Any) -> str:
    return str(name).lower().replace("_", "").replace("-", "")


def _parameters(make: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return the arguments that an optimizer takes by name; those of torch's AdamW where it does not say."""
    try:
        known = inspect.signature(make).parameters
    except (TypeError, ValueError):
        return inspect.signature(torch.optim.AdamW).parameters
    return known


def _listed(known: Mapping[str, inspect.Parameter]) -> str:
    return ", ".join(_own(known)) or "none"


def _own(known: Mapping[str, inspect.Parameter]) -> list[str]:
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [name for name, one in list(known.items())[1:] if name not in _NOT_OPTIONS and one.kind not in kinds]


def _checked(name: str, options: Any, known: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    if options is not None and not isinstance(options, Mapping):
        raise TuningError(f"expected optimizer_options as a dict, such as {{'momentum': 0.9}}, got {shown(options)}")
    own = _own(known)
    anything = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in known.values())
    for key in options or {}:
        if key in ("lr", "betas", "weight_decay"):
            raise TuningError(f"optimizer_options: {key} is an argument of tune itself: give {key}=")
        if key not in own and not anything:
            raise TuningError(
                f"the optimizer {name} has no option {shown(key)}.{did_you_mean(str(key), own)} Its options are "
                f"{_listed(known)}"
            )
    return {key: tuple(value) if isinstance(value, list) else value for key, value in (options or {}).items()}


def _measured(optimizer: Optimizer, device: torch.device) -> tuple[bool, bool]:
    """Return whether steps are even, and whether decay is decoupled, by first steps of the optimizer.

    Raises:
        TuningError: it cannot be made, or takes no step.
    """
    with preserve_rng(device):
        torch.manual_seed(0)
        try:
            steps = [_step(optimizer, device, size, slope) for size in (1.0, 0.01) for slope in (1.0, 0.001)]
            decays = "weight_decay" in _parameters(optimizer.make)
            shrunk = _step(optimizer, device, 1.0, 0.0, weight_decay=0.5) if decays else 0.0
        except Exception as error:  # of another library, of any class
            hint = "" if isinstance(error, ValueError | TypeError) else f", or optimizer={ADAMW!r}"
            raise TuningError(
                f"the optimizer {optimizer.name} takes no step on {device} ({type(error).__name__}: "
                f"{one_line(error, 160)}): give optimizer_options that it can have{hint}"
            ) from error
    even = min(steps) > 0 and max(steps) < _SAME * min(steps) and all(map(math.isfinite, steps))
    return even, 0.5 / _SAME < shrunk < 0.5 * _SAME


def _step(optimizer: Optimizer, device: torch.device, size: float, slope: float, weight_decay: float = 0.0) -> float:
    """Return how far (root mean square) the first step moves a parameter, per learning rate and, of decay, its size."""
    parameter = torch.nn.Parameter(torch.full(_SHAPE, size, device=device))
    options = {**fixed(optimizer), **({"weight_decay": weight_decay} if weight_decay else {})}
    if "weight_decay" in _parameters(optimizer.make):
        options.setdefault("weight_decay", 0.0)  # not every library's default
    made = optimizer.make([{"params": [parameter]}], lr=_LR, **options)
    if not isinstance(made, torch.optim.Optimizer):
        raise TypeError(f"it makes a {type(made).__name__}, and no torch.optim.Optimizer")
    before = parameter.detach().clone()
    parameter.grad = slope * torch.randn_like(parameter)
    made.step()
    return float((parameter.detach() - before).square().mean().sqrt()) / _LR
