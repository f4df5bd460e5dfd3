"""First values of a module's new layers, as its library initialises them."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from zoo.weights.walk import submodule

SPREAD = 0.02  # standard deviation of a matrix for which no library has a rule


@torch.no_grad()
def initial_values(module: nn.Module, paths: Iterable[str]) -> dict[str, Tensor]:
    """Return name → first value, on the CPU, of the parameters of some layers; the module itself does not change.

    By torch's convention, `reset_parameters`, and by transformers', `_init_weights` of the whole model. A parameter for
    which neither says anything is normal if it has several dimensions, else zero. The values are drawn from torch's
    global generator.

    Args:
        module: the whole model, whose parameters may be on `meta`.
        paths: of layers, or names of single parameters.
    """
    found: dict[str, Tensor] = {}
    for path in paths:
        try:
            layer = submodule(module, path)
        except AttributeError:  # a single parameter: what its layer begins with, if that is all by itself
            above, _, leaf = path.rpartition(".")
            layer = submodule(module, above)
            alone = not any(True for _ in layer.children())
            made = _reset(_filled(layer)) if alone else None
            value = _plain(module.get_parameter(path)) if made is None else made.get_parameter(leaf).detach()
            found[path] = value
            continue
        made = _filled(layer)
        for part in made.modules():
            _reset(part)
        # A transformers model says so by `base_model_prefix`; other libraries' methods of this name are others.
        rule = getattr(module, "_init_weights", None) if hasattr(module, "base_model_prefix") else None
        if callable(rule):
            for part in made.modules():
                rule(part)
        found |= {f"{path}.{name}": parameter.detach() for name, parameter in made.named_parameters()}
    return found


def _reset(layer: nn.Module) -> nn.Module:
    rule = getattr(layer, "reset_parameters", None)
    if callable(rule):
        rule()
    return layer


def _filled(layer: nn.Module) -> nn.Module:
    """Return a copy of a layer with parameters of real values on the CPU."""
    made = copy.deepcopy(layer)
    for part in made.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is not None:
                part._parameters[name] = nn.Parameter(_plain(parameter))
    return made


def _plain(parameter: Tensor) -> Tensor:
    start = torch.zeros(parameter.shape)
    return start.normal_(std=SPREAD) if parameter.dim() > 1 else start
