"""Which weights an adapter reaches, and how each of them is seen as a matrix."""

from __future__ import annotations

import re

import torch
from torch import nn

from zoo.errors import AdapterError, did_you_mean
from zoo.methods.config import Targets
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.walk import ParameterRef, TiedGroup


def path_of(site: ParameterRef) -> str:
    """The parameter path that `targets` and `keep` speak of: the name without a trailing `.weight`."""
    return site.path if site.attribute == "weight" and site.path else site.name


def matches(path: str, targets: Targets) -> bool:
    """Whether a parameter path is targeted: by a suffix, a regular expression over all of it, or `"all"`."""
    if targets is None:
        return False
    if isinstance(targets, str):
        return targets == "all" or re.fullmatch(targets, path) is not None
    return any(path == target or path.endswith("." + target) for target in targets)


def matrix_like(shape: torch.Size) -> bool:
    """Return whether a weight has two or more dimensions, and so is one that is adapted and quantized."""
    return len(shape) >= 2 and shape.numel() > 0


def adaptable(held: nn.Parameter | ManagedWeight) -> bool:
    """Whether a weight can take a low-rank update: floating point, of two or more dimensions."""
    return matrix_like(held.shape) and held.dtype.is_floating_point


def match_parameters(groups: list[TiedGroup], targets: Targets, what: str = "target") -> list[TiedGroup]:
    """The weights of any number of dimensions that `targets` names, or whose modules it names.

    Of a list each name must find something, a path with or without `.weight` or that of a module around it; what: how
    the error calls a name. Raises `AdapterError` where one finds nothing.
    """
    groups = [group for group in groups if group.value.dtype.is_floating_point and group.value.shape.numel()]
    names = {id(group.value): {name for site in group.refs for name in _names(site)} for group in groups}
    found = [group for group in groups if any(matches(name, targets) for name in names[id(group.value)])]
    every = set().union(*names.values())
    wanted = targets if isinstance(targets, tuple) else (str(targets),)
    for one in wanted if isinstance(targets, tuple) or not found else ():
        if not found or not any(matches(name, (one,)) for name in every):
            known = sorted(every, key=lambda name: (name.count("."), name))
            endings = sorted({name.split(".")[-1] for name in every})
            shown = ", ".join(endings[:12]) + (", …" if len(endings) > 12 else "")
            raise AdapterError(
                f"{what} {one!r} matches no parameter and no module with any.{did_you_mean(one, [*endings, *known])} "
                f"Their paths end in: {shown}"
            )
    return found


def has_match(groups: list[TiedGroup], name: str) -> bool:
    """Whether `match_parameters` finds something by `name`."""
    return any(matches(one, (name,)) for group in groups for site in group.refs for one in _names(site))


def _names(site: ParameterRef) -> set[str]:
    """What a parameter may be called by `match_parameters`: its own name, and those of the modules that it is in."""
    parts = site.path.split(".") if site.path else []
    return {site.name, path_of(site), *(".".join(parts[: n + 1]) for n in range(len(parts)))}


def match_weights(groups: list[TiedGroup], targets: Targets) -> list[TiedGroup]:
    """The weights (each with all the places that share it) that `targets` names.

    Raises `AdapterError` when it names none, or when one of several suffixes names none.
    """
    able = [group for group in groups if adaptable(group.value)]
    found = [group for group in able if any(matches(path_of(site), targets) for site in group.refs)]
    if isinstance(targets, tuple):
        paths = _paths(able)
        unused = [target for target in targets if not any(matches(path, (target,)) for path in paths)]
        if unused:
            raise _unmatched(unused[0], groups, able)
    if not found:
        raise _unmatched(str(targets), groups, able)
    return found


def _unmatched(target: str, groups: list[TiedGroup], able: list[TiedGroup]) -> AdapterError:
    paths = _paths(able)
    if any(matches(path, (target,)) for path in _paths(groups) - paths):
        return AdapterError(
            f"target {target!r} names only weights of one dimension; LoRA needs two or more, zoo.Full takes them"
        )
    endings = sorted({path.split(".")[-1] for path in paths})
    known = [*endings, *{".".join(path.split(".")[-2:]) for path in paths}, *paths]
    shown = ", ".join(endings[:12]) + (", …" if len(endings) > 12 else "")
    return AdapterError(f"target {target!r} matches no weight.{did_you_mean(target, known)} Weights end in: {shown}")


def _paths(groups: list[TiedGroup]) -> set[str]:
    return {path_of(site) for group in groups for site in group.refs}
