"""What a bed is: a pretrained module, what it is called with, and what is measured of its outputs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from figures import Figure
from torch import Tensor, nn

import zoo


class Inputs(NamedTuple):
    """What a module is called with.

    Attributes:
        calls: a tensor, a tuple of positional arguments or a dict of keywords for each call.
        truth: what the task's figure compares with, over all calls; None where nothing is known.
    """

    calls: list[Any]
    truth: Any = None


@dataclass(frozen=True)
class Bed:
    """A pretrained module with its task.

    Attributes:
        name: as the command line has it.
        licence: of the weights, as their package states it.
        needs: modules that have to be installed.
        build: returns the module in full precision, in evaluation mode, frozen.
        inputs: n, seed → the inputs that are measured.
        calibration: n, seed → other inputs than those, for `zoo.wrap(calibrate=)`.
        figure: outputs, truth → the task's figures by name.
        agreement: outputs in full precision, outputs → how far they agree, by name.
        distil: model, module in full precision, steps, seed → trains LoRA on the model, on other inputs than those that
            are measured.
    """

    name: str
    licence: str
    needs: tuple[str, ...]
    build: Callable[[], nn.Module]
    inputs: Callable[[int, int], Inputs]
    calibration: Callable[[int, int], list[Any]]
    figure: Callable[[list[Any], Any], dict[str, Figure]]
    agreement: Callable[[list[Any], list[Any]], dict[str, Figure]]
    distil: Callable[[zoo.Model, nn.Module, int, int], None] | None = None

    @property
    def missing(self) -> list[str]:
        """The modules of `needs` that are not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


def folder(package: str) -> Path:
    """Return where an installed package's files are, without importing it.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} is not installed: pip install -e '.[real]'")
    return Path(spec.origin).parent


def frozen(module: nn.Module) -> nn.Module:
    """Return the module in evaluation mode, without gradients for its parameters."""
    return module.eval().requires_grad_(False)


def call(module: Callable[..., Any], given: Any) -> Any:
    """Return the module's outputs for one of `Inputs.calls`.

    Gradients stay on, because a potential takes its forces from them; a frozen module keeps no graph.
    """
    if isinstance(given, Mapping):
        return _detached(module(**given))
    return _detached(module(*given) if isinstance(given, tuple) else module(given))


def outputs(module: Callable[..., Any], calls: list[Any]) -> list[Any]:
    """Return the module's outputs for each call."""
    return [call(module, given) for given in calls]


def joined(found: list[Tensor]) -> Tensor:
    """Return the outputs of all calls as one tensor (n, …)."""
    return torch.cat(found)


def batches(x: Tensor, size: int) -> list[Tensor]:
    """Return the inputs (n, …) in batches."""
    return list(x.split(size))


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, Mapping):
        return {name: _detached(one) for name, one in value.items()}
    return type(value)(_detached(one) for one in value) if isinstance(value, list | tuple) else value
