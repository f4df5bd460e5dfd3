"""Select an adapter's weights by the names in its `targets`."""

from __future__ import annotations

import torch
from torch import nn

from zoo.bounded.patterns import fullmatch
from zoo.errors import AdapterError, did_you_mean
from zoo.methods.config import Targets
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.walk import ParameterRef, TiedGroup


def path_of(ref: ParameterRef) -> str:
    """Return the parameter path that `targets` and `keep` refer to: the name without a trailing `.weight`."""
    return ref.path if ref.attribute == "weight" and ref.path else ref.name


def matches(path: str, targets: Targets) -> bool:
    """Return whether a path is targeted: by a suffix, a regular expression over all of it, or `"all"`."""
    if targets is None:
        return False
    if isinstance(targets, str):
        return targets == "all" or fullmatch(targets, path)
    return any(path == target or path.endswith("." + target) for target in targets)


def matrix_like(shape: torch.Size) -> bool:
    """Return whether a weight has two or more dimensions, as adapted and quantized ones do."""
    return len(shape) >= 2 and shape.numel() > 0


def adaptable(value: nn.Parameter | ManagedWeight) -> bool:
    """Return whether a weight can take a low-rank update: floating point, of two or more dimensions.

    Floats of 8 bit or fewer are only stored in; where zoo knows how, the weight's dtype is another one (`zoo.wrap`).
    """
    return matrix_like(value.shape) and value.dtype.is_floating_point and value.dtype.itemsize > 1


def match_parameters(groups: list[TiedGroup], targets: Targets, what: str = "target") -> list[TiedGroup]:
    """Return the weights of any number of dimensions whose own name, or whose module's name, is in `targets`.

    Args:
        groups: The module's parameters.
        targets: Names with or without `.weight`, or a regular expression, or `"all"`.
        what: How the error introduces a name.

    Raises:
        AdapterError: a name, or the expression, matches nothing.
    """
    groups = [group for group in groups if group.value.dtype.is_floating_point and group.value.shape.numel()]
    names = {id(group.value): {name for ref in group.refs for name in _names(ref)} for group in groups}
    matched = [group for group in groups if any(matches(name, targets) for name in names[id(group.value)])]
    all_names = set().union(*names.values())
    wanted = targets if isinstance(targets, tuple) else (str(targets),)
    for target in wanted if isinstance(targets, tuple) or not matched else ():
        if not matched or not any(matches(name, (target,)) for name in all_names):
            known = sorted(all_names, key=lambda name: (name.count("."), name))
            endings = sorted({name.split(".")[-1] for name in all_names})
            shown = ", ".join(endings[:12]) + (", …" if len(endings) > 12 else "")
            raise AdapterError(
                f"{what} {target!r} matches no parameter and no module with any."
                f"{did_you_mean(target, [*endings, *known])} Their paths end in: {shown}"
            )
    return matched


def has_match(groups: list[TiedGroup], name: str) -> bool:
    """Return whether `match_parameters` matches something for `name`."""
    return any(matches(other, (name,)) for group in groups for ref in group.refs for other in _names(ref))


def _names(ref: ParameterRef) -> set[str]:
    """Return the names that `match_parameters` accepts for a parameter: its own, and those of its modules."""
    parts = ref.path.split(".") if ref.path else []
    return {ref.name, path_of(ref), *(".".join(parts[: n + 1]) for n in range(len(parts)))}


def match_weights(groups: list[TiedGroup], targets: Targets) -> list[TiedGroup]:
    """Return the weights that `targets` names, each with all the places that share it.

    Raises:
        AdapterError: nothing matches, or one of several suffixes matches nothing.
    """
    candidates = [group for group in groups if adaptable(group.value)]
    matched = [group for group in candidates if any(matches(path_of(ref), targets) for ref in group.refs)]
    if isinstance(targets, tuple):
        paths = _paths(candidates)
        unused = [target for target in targets if not any(matches(path, (target,)) for path in paths)]
        if unused:
            raise _unmatched(unused[0], groups, candidates)
    if not matched:
        raise _unmatched(str(targets), groups, candidates)
    return matched


def _unmatched(target: str, groups: list[TiedGroup], candidates: list[TiedGroup]) -> AdapterError:
    paths = _paths(candidates)
    if any(matches(path, (target,)) for path in _paths(groups) - paths):
        return AdapterError(
            f"target {target!r} names only weights of one dimension; LoRA needs two or more, zoo.Full takes them"
        )
    endings = sorted({path.split(".")[-1] for path in paths})
    known = [*endings, *{".".join(path.split(".")[-2:]) for path in paths}, *paths]
    shown = ", ".join(endings[:12]) + (", …" if len(endings) > 12 else "")
    return AdapterError(f"target {target!r} matches no weight.{did_you_mean(target, known)} Weights end in: {shown}")


def _paths(groups: list[TiedGroup]) -> set[str]:
    return {path_of(ref) for group in groups for ref in group.refs}
