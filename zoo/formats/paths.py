"""Find the layers that a file's keys mean, and which of its keys are for another part of a pipeline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from zoo.errors import AdapterError
from zoo.formats.spellings import DIFFERENCES, DOWN, EMBEDDING_A, EMBEDDING_B, UP, Key, component
from zoo.integrations.old_names import other_names
from zoo.weights.parameters import parameter_names
from zoo.weights.walk import library_modules

# Sets of parts of which a layer has at least one, if it is an adapter's at all.
_WHOLE = (
    {UP, DOWN},
    {EMBEDDING_A, EMBEDDING_B},
    {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"},
    *({w1, w2} for w1 in ("lokr_w1", "lokr_w1_a") for w2 in ("lokr_w2", "lokr_w2_a")),
    *({part} for part in DIFFERENCES),
)


class Found(NamedTuple):
    """What the keys of a file mean.

    Attributes:
        layers: layer's path → part → the key.
        prefixes: what was before the paths, of each of them once.
        others: prefix → names of the keys that are for other parts of a pipeline.
    """

    layers: dict[str, dict[str, Key]]
    prefixes: tuple[str, ...]
    others: dict[str, list[str]]


class _Family(NamedTuple):
    """The keys with the same prefixes, and the layers that they mean if the first `cut` letters are no path.

    Attributes:
        keys: the keys.
        cut: the number of letters.
        paths: stem → layer's path; only what was found.
        full: whether all were found.
        component: which part of a pipeline they name; "" if they name none.
    """

    keys: list[Key]
    cut: int
    paths: dict[str, str]
    full: bool
    component: str

    @property
    def label(self) -> str:
        """The prefixes as errors call them."""
        return self.keys[0].prefix.rstrip("._")

    def missing(self) -> Key:
        """Return the first key whose layer was not found."""
        return next(key for key in self.keys if key.stem not in self.paths)


class Layers:
    """Layers of a model by their paths, as today and under earlier names, dotted or with underscores."""

    def __init__(self, module: nn.Module) -> None:
        self.module = dict(library_modules(module, remove_duplicate=False))
        self._dotted = {path: path for path, layer in self.module.items() if path and parameter_names(layer)}
        self._flat: dict[str, list[str]] = {}
        for path in self._dotted:
            self._flat.setdefault(path.replace(".", "_"), []).append(path)
        for old, path in other_names(module).items():
            self._dotted.setdefault(old, path)
            self._flat.setdefault(old.replace(".", "_"), [path])

    def find(self, path: str, key: str, flat: bool = False) -> str | None:
        """Return the layer's path, or None if there is no such layer.

        Args:
            path: dotted, with underscores, or both.
            key: the file's key, for the error.
            flat: whether underscores in a path without dots may stand for dots.

        Raises:
            AdapterError: several layers have that path.
        """
        if path in self._dotted and not (flat and "." not in path):
            return self._dotted[path]
        found = self._flat.get(path.replace(".", "_"), [])
        if len(found) > 1:
            raise AdapterError(f"{key!r} is ambiguous, it may mean {' or '.join(found)}: save it in PEFT's format")
        return found[0] if found else None


def find(keys: Sequence[Key], tensors: Mapping[str, Tensor], module: nn.Module) -> Found:
    """Return what a file's keys mean in a model.

    Keys that name another part of a pipeline, as of a text encoder beside a U-Net, are left out if they are whole
    adapters themselves and mean nothing in this model.

    Args:
        keys: all of the file's.
        tensors: the file's.
        module: the base model.

    Raises:
        AdapterError: a key means no layer, or may mean several, or parts of two adapters meet in a layer.
    """
    layers = Layers(module)
    groups: dict[str, list[Key]] = {}
    for key in keys:
        groups.setdefault(key.prefix, []).append(key)
    families = [_family(members, layers, alone=len(groups) == 1) for members in groups.values()]
    chosen = _chosen([family for family in families if family.full], tensors, layers)
    if not chosen:
        best = max(families, key=lambda family: len(family.paths) / len({key.stem for key in family.keys}))
        raise _no_layer(best.missing().name)
    others = [family for family in families if not any(family is one for one in chosen)]
    named = {family.component for family in chosen}
    for family in others:
        _check_other(family, named, chosen[0])
    found: dict[str, dict[str, Key]] = {}
    for family in chosen:
        for key in family.keys:
            parts = found.setdefault(family.paths[key.stem], {})
            first = next(iter(parts.values()), key)
            if key.part in parts or first.stem != key.stem:
                path = family.paths[key.stem]
                raise AdapterError(f"{path} is written twice, as {parts.get(key.part, first).name!r} and {key.name!r}")
            parts[key.part] = key
    prefixes = dict.fromkeys(family.keys[0].stem[: family.cut] for family in chosen)
    return Found(found, tuple(prefixes), {one.label: [key.name for key in one.keys] for one in others})


def _family(keys: list[Key], layers: Layers, alone: bool) -> _Family:
    stems = {key.stem: key.name for key in keys}
    first = keys[0].stem.partition(".")[0] + "."
    cuts = list(keys[0].cuts)
    if alone and cuts == [0] and all(stem.startswith(first) for stem in stems):
        cuts.append(len(first))  # a part of a pipeline that is in no table
    best: _Family | None = None
    for cut in cuts:
        paths = {stem: layers.find(stem[cut:], name, stem[:cut].endswith("_")) for stem, name in stems.items()}
        known = {stem: path for stem, path in paths.items() if path is not None}
        full = len(known) == len(stems)
        if best is None or len(known) > len(best.paths):
            best = _Family(keys, cut, known, full, component(keys[0].stem[:cut]) if full else component(keys[0].prefix))
        if full:
            break
    assert best is not None
    return best


def _chosen(full: list[_Family], tensors: Mapping[str, Tensor], layers: Layers) -> list[_Family]:
    """Return the families that are for this model: of one part of a pipeline only, told by their shapes if need be."""
    named = {family.component for family in full} - {""}
    if len(named) > 1:
        fitting = [family for family in full if _fits(family, tensors, layers)]
        left = {family.component for family in fitting} - {""}
        if len(left) != 1:
            labels = " and ".join(family.label for family in (fitting if len(left) > 1 else full) if family.component)
            raise AdapterError(f"the file has adapters of several components, {labels}, that fit alike: save one alone")
        return fitting
    return full


def _fits(family: _Family, tensors: Mapping[str, Tensor], layers: Layers) -> bool:
    """Return whether the first dimensions of what a family holds are those of its layers."""
    for key in family.keys:
        weight = getattr(layers.module[family.paths[key.stem]], "weight", None)
        tensor = tensors[key.name]
        if weight is None or not tensor.dim() or not weight.dim():
            continue
        if key.part in (UP, "diff") and tensor.shape[0] != weight.shape[0]:
            return False
        if key.part == DOWN and tensor.dim() > 1 and tensor.shape[1:].numel() != weight.shape[1:].numel():
            return False
    return True


def _check_other(family: _Family, named: Iterable[str], chosen: _Family) -> None:
    """Raise `AdapterError` unless a family that is not for this model is an adapter of another part of a pipeline."""
    if not family.component or family.component in named:
        raise _no_layer(family.keys[0].name if family.full else family.missing().name)
    parts: dict[str, set[str]] = {}
    for key in family.keys:
        parts.setdefault(key.stem, set()).add(key.part)
    for stem, names in parts.items():
        if not any(whole <= names for whole in _WHOLE):
            key = next(key for key in family.keys if key.stem == stem)
            label = chosen.label or "this model's"
            raise AdapterError(
                f"{key.name!r} matches no layer of the model, and it is incomplete, in a file with adapters of several "
                f"components, {label} and {family.label}: get it again, or save one alone"
            )


def _no_layer(name: str) -> AdapterError:
    return AdapterError(f"{name!r} matches no layer of the model; it was made for another model")
