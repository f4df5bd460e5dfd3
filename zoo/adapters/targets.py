"""Which weights an adapter reaches, and how each of them is seen as a matrix."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import nn

from zoo.adapters.config import Targets
from zoo.errors import AdapterError, did_you_mean
from zoo.weights.manage import Site, grouped_sites, matrix_like
from zoo.weights.store import Store
from zoo.weights.update import Layout

Group = tuple[nn.Parameter | Store, list[Site]]


def path_of(site: Site) -> str:
    """The parameter path that ``targets`` and ``keep`` speak of: the name without a trailing ``.weight``."""
    return site.path if site.attribute == "weight" and site.path else site.name


def matches(path: str, targets: Targets) -> bool:
    """Whether a parameter path is targeted: by a suffix, a regular expression over all of it, or ``"all"``."""
    if targets is None:
        return False
    if isinstance(targets, str):
        return targets == "all" or re.fullmatch(targets, path) is not None
    return any(path == target or path.endswith("." + target) for target in targets)


def adaptable(held: nn.Parameter | Store) -> bool:
    """Whether a weight can take a low-rank update: floating point, of two or more dimensions."""
    return matrix_like(held.shape) and held.dtype.is_floating_point


def named(module: nn.Module, targets: Targets, what: str = "target") -> list[Group]:
    """The weights of any number of dimensions that ``targets`` names, or whose modules it names.

    Of a list each name must find something, a path with or without ``.weight`` or that of a module around it; what: how
    the error calls a name. Raises ``AdapterError`` where one finds nothing.
    """
    groups = [group for group in grouped_sites(module) if group[0].dtype.is_floating_point and group[0].shape.numel()]
    names = {id(group[0]): {name for site in group[1] for name in _names(site)} for group in groups}
    found = [group for group in groups if any(matches(name, targets) for name in names[id(group[0])])]
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


def finds(module: nn.Module, name: str) -> bool:
    """Whether ``named`` finds something by ``name``."""
    return any(matches(one, (name,)) for _, sites in grouped_sites(module) for site in sites for one in _names(site))


def _names(site: Site) -> set[str]:
    """What a parameter may be called by ``named``: its own name, and those of the modules that it is in."""
    parts = site.path.split(".") if site.path else []
    return {site.name, path_of(site), *(".".join(parts[: n + 1]) for n in range(len(parts)))}


def targeted(module: nn.Module, targets: Targets) -> list[Group]:
    """The weights (each with all the places that share it) that ``targets`` names.

    Raises ``AdapterError`` when it names none, or when one of several suffixes names none.
    """
    groups = grouped_sites(module)
    able = [group for group in groups if adaptable(group[0])]
    found = [group for group in able if any(matches(path_of(site), targets) for site in group[1])]
    if isinstance(targets, tuple):
        paths = _paths(able)
        unused = [target for target in targets if not any(matches(path, (target,)) for path in paths)]
        if unused:
            raise _unmatched(unused[0], groups, able)
    if not found:
        raise _unmatched(str(targets), groups, able)
    return found


def _unmatched(target: str, groups: list[Group], able: list[Group]) -> AdapterError:
    paths = _paths(able)
    if any(matches(path, (target,)) for path in _paths(groups) - paths):
        return AdapterError(
            f"target {target!r} names only weights of one dimension; LoRA needs two or more, zoo.Full takes them"
        )
    endings = sorted({path.split(".")[-1] for path in paths})
    known = [*endings, *{".".join(path.split(".")[-2:]) for path in paths}, *paths]
    shown = ", ".join(endings[:12]) + (", …" if len(endings) > 12 else "")
    return AdapterError(f"target {target!r} matches no weight.{did_you_mean(target, known)} Weights end in: {shown}")


def _paths(groups: list[Group]) -> set[str]:
    return {path_of(site) for _, sites in groups for site in sites}


def layout_of(sites: Sequence[Site], shape: torch.Size) -> Layout:
    """How low-rank updates see a weight: as PEFT's files lay its factors out, where PEFT knows the layer.

    For a raw parameter, leading dimensions of size 1 join the rows. This chooses only the factors' orientation; what
    is computed with the weight never depends on the layer's class.
    """
    for site in sites:
        if site.attribute != "weight":
            continue
        layer = site.layer
        if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
            return Layout(transposed=True, zero_first=True)
        if isinstance(layer, nn.modules.conv._ConvTransposeNd) or is_hf_conv1d(layer):
            return Layout(transposed=True)
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
            return Layout()
    leading = next((n for n, size in enumerate(shape) if size != 1), 0)
    return Layout(split=max(min(leading + 1, len(shape) - 1), 0))


def is_hf_conv1d(layer: nn.Module) -> bool:
    """Whether a layer is transformers' ``Conv1D``, whose weight is (in, out)."""
    return type(layer).__name__ == "Conv1D" and type(layer).__module__ == "transformers.pytorch_utils"
