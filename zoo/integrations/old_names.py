"""Names that weights had in earlier releases of their library, and which of them it has joined or split since.

transformers keeps these renamings for its checkpoints, and so does `zoo.integrations.diffusers`; adapters go through
the same. A library is used only if the model is its own, and is imported then already.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import nn

from zoo.integrations.diffusers import current_name, older_name, original_names
from zoo.weights.walk import library_modules, named_buffers, tied_groups

_BASES = {
    "transformers": ("transformers.modeling_utils", "PreTrainedModel"),
    "diffusers": ("diffusers.models.modeling_utils", "ModelMixin"),
}


class Renamed(NamedTuple):
    """Where a weight of an earlier release is today.

    Attributes:
        name: the parameter's name; of the first of several that the weight was split into.
        conversion: how weights are joined or split; None if the weight is the same one.
        pattern: which of the conversion's sources this one is.
    """

    name: str
    conversion: Conversion | None = None
    pattern: str = ""


class Conversion(NamedTuple):
    """How a library joins or splits weights.

    Attributes:
        converter: transformers' `WeightConverter`.
        path: the library's model in the module.
        model: that model.
    """

    converter: Any
    path: str
    model: nn.Module

    def __call__(self, name: str, sources: Iterable[tuple[str, str, Any]], shapes: Mapping[str, Any]) -> dict[str, Any]:
        """Return target's name → tensor, of tensors that take the places of the weights.

        Args:
            name: the first target's.
            sources: (name, pattern, tensor) of each source, in their order.
            shapes: name → the parameter, of which only the shape is used.
        """
        from copy import deepcopy

        converter, start = deepcopy(self.converter), len(self.path) + 1 if self.path else 0
        short = name[start:]
        for source, pattern, tensor in sources:
            converter.add_tensor(short, source, pattern, tensor)
        stand_in = _Shapes(self.path, shapes)
        made = converter.convert(short, model=stand_in, config=self.model.config)
        return {name[:start] + key: value[0] if isinstance(value, list) else value for key, value in made.items()}


class _Shapes:
    """Stands for a model whose parameters are asked for their shapes."""

    def __init__(self, path: str, shapes: Mapping[str, Any]) -> None:
        self.path, self.shapes = path, shapes

    def get_parameter(self, name: str) -> Any:
        return self.shapes[f"{self.path}.{name}" if self.path else name]


def renamings(module: nn.Module) -> Callable[[Iterable[str]], dict[str, Renamed]] | None:
    """Return a function from earlier names to where those weights are today; None if no library has renamed any.

    Names that it does not know are left out of what it returns. `<path>.weight` stands for a module without a weight
    of its own too.
    """
    own = {ref.name for group in tied_groups(module) for ref in group.refs}
    known = own | {f"{path}.weight" for path, _ in library_modules(module)} | named_buffers(module).keys()
    parts = [(path, _transformers(path, model, own)) for path, model in _library_models(module, "transformers")]
    parts += [(path, _diffusers) for path, _ in _library_models(module, "diffusers")]
    if not parts:
        return None

    def today(names: Iterable[str]) -> dict[str, Renamed]:
        found: dict[str, Renamed] = {}
        for path, rename in parts:
            start = f"{path}." if path else ""
            inside = [name.removeprefix(start) for name in names if name.startswith(start)]
            for name, renamed in rename(inside).items():
                whole = renamed._replace(name=start + renamed.name)
                if whole.conversion is not None or (start + name not in known and whole.name in known):
                    found.setdefault(start + name, whole)
        return found

    return today


def old_names(module: nn.Module) -> dict[str, str]:
    """Return earlier path → today's path, of the layers that their library renamed and left as they were otherwise."""
    names = [ref.name for group in tied_groups(module) for ref in group.refs if ref.attribute == "weight"]
    earlier: dict[str, str] = {}
    for path, model in _library_models(module, "transformers"):
        earlier |= _earlier(path, names, _backwards(model))
    for path, _ in _library_models(module, "diffusers"):
        earlier |= _earlier(path, names, older_name)
    today = renamings(module) if earlier else None
    checked = today(earlier) if today is not None else {}
    return {
        old.removesuffix(".weight"): name.removesuffix(".weight")
        for old, name in earlier.items()
        if old in checked and checked[old].conversion is None and checked[old].name == name
    }


def other_names(module: nn.Module) -> dict[str, str]:
    """Return the same as `old_names`, with the names that a model's layers have in its authors' own code."""
    original = {
        f"{path}.{old}" if path else old: f"{path}.{name}" if path else name
        for path, model in _library_models(module, "diffusers")
        for old, name in original_names(model).items()
    }
    return original | old_names(module)


def _library_models(module: nn.Module, library: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield (path, model) of the library's models in a module that are in no other of them."""
    imported, name = _BASES[library]
    base = getattr(sys.modules.get(imported), name, None)
    outer: list[str] = []
    for path, layer in library_modules(module) if base is not None else ():
        if isinstance(layer, base) and not any(not one or path.startswith(one + ".") for one in outer):  # type: ignore[arg-type]
            outer.append(path)
            yield path, layer


def _earlier(path: str, names: Iterable[str], older: Callable[[str], str]) -> dict[str, str]:
    start = f"{path}." if path else ""
    inside = [name for name in names if name.startswith(start)]
    found = {start + older(name.removeprefix(start)): name for name in inside}
    return {old: name for old, name in found.items() if old != name}


def _diffusers(names: Iterable[str]) -> dict[str, Renamed]:
    return {name: Renamed(current_name(name)) for name in names}


def _transforms(model: Any, **options: Any) -> tuple[list[Any], list[Any]]:
    """Return transformers' renamings and converters of a model's checkpoints."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming

    # Code outside transformers still has its renamings in this attribute.
    own = getattr(model, "_checkpoint_conversion_mapping", None) or None
    transforms = get_model_conversion_mapping(model, key_mapping=own, **options)
    kinds: tuple[Any, Any] = (WeightRenaming, WeightConverter)
    return tuple([one for one in transforms if isinstance(one, kind)] for kind in kinds)  # type: ignore[return-value]


def _transformers(path: str, model: Any, own: set[str]) -> Callable[[Iterable[str]], dict[str, Renamed]]:
    start = f"{path}." if path else ""
    names_here = {name.removeprefix(start): True for name in own if name.startswith(start)}

    def rename(names: Iterable[str]) -> dict[str, Renamed]:
        from transformers.core_model_loading import dot_natural_key, rename_source_key

        renames, converters = _transforms(model)  # anew for each file: some remember what they have seen
        of_pattern = {pattern: one for one in converters for pattern in one.source_patterns}
        found = {}
        for name in sorted(names, key=dot_natural_key):  # in transformers' order, on which some renamings depend
            renamed, pattern = rename_source_key(name, renames, converters, model.base_model_prefix, names_here)
            if pattern is None:
                found[name] = Renamed(renamed)
            elif name not in names_here:
                found[name] = Renamed(renamed, Conversion(of_pattern[pattern], path, model), pattern)
        return found

    return rename


def _backwards(model: Any) -> Callable[[str], str]:
    """Return a function from a name of today to the one in checkpoints of the first release."""
    from transformers.core_model_loading import rename_source_key

    renames, _ = _transforms(model, add_legacy=False)
    reverse = [one.reverse_transform() for one in reversed(renames)]

    def older(name: str) -> str:
        return rename_source_key(name, reverse, [])[0]

    return older
