"""Low-rank factors of weights that a library has joined to one (q, k and v; gate and up; a list of experts) or split.

The library's own operation is applied to the factors B. It only moves rows, so that it does to B @ A what it does to
the weights. Weights with factors A of their own are joined exactly at the sum of their ranks:

    [B₁ @ A₁; B₃ @ A₃] = [B₁ 0; 0 B₃] @ [A₁; A₃]

Notation for shapes: rows and columns of a weight as it was; experts, where the library stacks a list of weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoo.errors import AdapterError
from zoo.formats.peft import keys
from zoo.formats.peft.keys import PREFIX
from zoo.integrations.old_names import Conversion, Renamed
from zoo.methods.config import LoRA

A_KEY, B_KEY, MAGNITUDE = "lora_A.weight", "lora_B.weight", "lora_magnitude_vector"
ROWS = ("Concatenate", "Chunk", "Split", "Interleave", "PermuteForRope")  # transformers' operations that move rows


class Source(NamedTuple):
    """The factors of one weight as it was.

    Attributes:
        weight: its name then.
        renamed: what became of it.
        parts: PEFT's name of the factor → tensor.
    """

    weight: str
    renamed: Renamed
    parts: dict[str, Tensor]


class Joined(NamedTuple):
    """Factors of the weights of today, in PEFT's form.

    Attributes:
        tensors: the state dict.
        ranks: path, or name of the parameter → rank.
        alphas: the same → alpha.
        layers: paths of the layers.
        parameters: names for `target_parameters`.
    """

    tensors: dict[str, Tensor]
    ranks: dict[str, int]
    alphas: dict[str, float]
    layers: list[str]
    parameters: list[str]


class _Pair(NamedTuple):
    """left @ right · scale is what an adapter adds to a weight; a stack of experts has one of each for every matrix."""

    left: Tensor
    right: Tensor
    scale: float
    magnitude: Tensor | None = None


def join(
    module: nn.Module,
    own: Mapping[str, Any],
    groups: Mapping[str, list[Source]],
    config: LoRA,
    wanted: Callable[[str], bool] = lambda path: False,
) -> Joined:
    """Return the factors of the weights of today.

    Args:
        module: the base model.
        own: parameter's name → the parameter, of which only the shape is used.
        groups: name of the first of the weights that sources became → the sources.
        config: the adapter's configuration, for the names as they were.
        wanted: whether the configuration targets a path, as it was: a part of a joined weight without factors then is
            an error, and else stays as it is.

    Raises:
        AdapterError: a factor is missing or has another shape, or the library's operation is not one of rows.
    """
    pairs: dict[str, _Pair] = {}
    for name, sources in groups.items():
        conversion = sources[0].renamed.conversion
        if conversion is None:
            pairs[name] = _pair(sources[0], config)
        else:
            _check_parts(name, conversion, sources, own, wanted)
            pairs |= _converted(name, conversion, sources, own, config)
    for name, pair in pairs.items():
        shape = own[name].shape if name in own else ()
        if tuple(shape) != (*pair.left.shape[:-1], pair.right.shape[-1]):
            raise AdapterError(
                f"{name}: the file's factors make a weight of shape {(*pair.left.shape[:-1], pair.right.shape[-1])}, "
                f"expected {tuple(shape)}; it was made for another model"
            )
    return _in_pefts_form(module, own, pairs, config)


def _in_pefts_form(module: nn.Module, own: Mapping[str, Any], pairs: Mapping[str, _Pair], config: LoRA) -> Joined:
    modules = {slot.ref.name: slot for slot in keys.slots(module).values() if slot.kind in ("linear", "embedding")}
    parameters = [name for name in pairs if name not in modules]
    placed = {slot.ref.name: slot for slot in keys.slots(module, parameters).values()}
    made = Joined({}, {}, {}, [], parameters)
    for name, pair in pairs.items():
        slot, rank = placed[name], pair.right.shape[-2]
        made.ranks[slot.name] = rank
        made.alphas[slot.name] = pair.scale * (math.sqrt(rank) if config.rslora else rank)
        if not slot.is_parameter:
            made.layers.append(slot.name)
        left, right = pair.left, pair.right
        if left.dim() == 2:
            made.tensors.update(keys.factors_to_file(slot, right, left, own[name].shape, transposed=False))
        else:
            A, B = (left.mT, right.mT) if keys.stack_layout(slot.ref).transposed else (right, left)
            path = PREFIX + slot.path
            made.tensors[f"{path}.{A_KEY}"], made.tensors[f"{path}.{B_KEY}"] = keys.stack_to_file(A, B)
        if pair.magnitude is not None:
            made.tensors[f"{PREFIX}{slot.path}.{MAGNITUDE}"] = pair.magnitude
    return made


def _pair(source: Source, config: LoRA) -> _Pair:
    """Return the factors of a weight as it was: (rows, rank) and (rank, columns)."""
    parts, path = source.parts, source.weight.removesuffix(".weight")
    if unexpected := sorted(parts.keys() - {A_KEY, B_KEY, MAGNITUDE}):
        raise AdapterError(f"{path}: unexpected {unexpected[0]!r}, its weight is a part of {source.renamed.name} today")
    needed = {A_KEY, B_KEY} | ({MAGNITUDE} if config.dora else set())
    if missing := sorted(needed - parts.keys()):
        raise AdapterError(f"{path}: its {missing[0]} is missing")
    A, B, rank = parts[A_KEY], parts[B_KEY], config.rank_of(path)
    if A.dim() != 2 or B.dim() != 2 or A.shape[0] != B.shape[1] or A.shape[0] != rank:
        raise AdapterError(
            f"{path}: its factors have shapes {tuple(A.shape)} and {tuple(B.shape)}, expected matrices of rank {rank}"
        )
    magnitude = parts.get(MAGNITUDE)
    return _Pair(B, A, config.scale_of(path), None if magnitude is None else magnitude.flatten())


def _converted(
    name: str, conversion: Conversion, sources: list[Source], own: Mapping[str, Any], config: LoRA
) -> dict[str, _Pair]:
    """Return the factors of the weights that a conversion makes, by their names."""
    patterns = list(conversion.converter.source_patterns)
    stacks, transposes = _moves(name, conversion, sources[0])
    experts = own[name].shape[0] if stacks else 1
    found = {_place(source, patterns): _pair(source, config) for source in sources}
    columns = {pair.right.shape[1] for pair in found.values()}
    if len(columns) != 1 or max(found)[0] >= experts:
        raise AdapterError(f"{sources[0].weight}: it does not go with {name} of shape {tuple(own[name].shape)}")
    first = found[min(found)]
    rows = _rows(name, found, patterns, own[name].shape, (stacks, transposes))
    places = [[place for place in sorted(found) if place[0] == expert] for expert in range(experts)]
    rights, starts = zip(*(_stacked([found[place].right for place in each]) for each in places), strict=True)
    start_of = {
        place: start
        for each, own_starts in zip(places, starts, strict=True)
        for place, start in zip(each, own_starts, strict=True)
    }
    rank = max(right.shape[0] for right in rights if right is not None)
    wide: list[tuple[str, str, Tensor]] = []
    for expert in range(experts):
        for number, pattern in enumerate(patterns):
            left = first.left.new_zeros(rows[number], rank)
            if pair := found.get((expert, number)):
                share = pair.left if pair.scale == first.scale else pair.left * (pair.scale / first.scale)
                start = start_of[expert, number]
                left[:, start : start + share.shape[1]] = share
            wide.append((f"{expert}.{number}", pattern, left))
    lefts = conversion(name, wide, own)
    right = first.right.new_zeros(experts, rank, *columns)
    for expert, part in enumerate(rights):
        if part is not None:
            right[expert, : part.shape[0]] = part
    right = right if stacks else right[0]
    magnitudes = _magnitudes(name, conversion, found, own, transposes) if config.dora else {}
    return {
        target: _Pair(right.mT, left, first.scale)
        if transposes
        else _Pair(left, right, first.scale, magnitudes.get(target))
        for target, left in lefts.items()
    }


def _moves(name: str, conversion: Conversion, source: Source) -> tuple[bool, bool]:
    """Return whether a conversion stacks a list of weights, and whether it transposes them.

    Raises:
        AdapterError: it does more than that and moving rows.
    """
    stacks = transposes = False
    for operation in conversion.converter.operations:
        kind, dim = type(operation).__name__, getattr(operation, "dim", 0)
        rows = 1 if stacks else 0  # the dimension of the weights' rows
        if kind == "MergeModulelist" and dim == 0 and not (stacks or transposes):
            stacks = True
        elif kind == "Transpose" and {operation.dim0, operation.dim1} == {rows, rows + 1} and not operation.check_dims:
            transposes = not transposes
        elif kind not in ROWS or dim != rows or transposes or (kind == "PermuteForRope" and stacks):
            raise AdapterError(
                f"{source.weight}: it is a part of {name} today, which {kind} makes of it, and factors cannot follow "
                "that: save the adapter again with the release of transformers of its time"
            )
    if not stacks and any("*" in pattern for pattern in conversion.converter.source_patterns):
        raise AdapterError(
            f"{source.weight}: it is one of a list that {name} joins in a way that factors cannot follow"
        )
    return stacks, transposes


def _check_parts(
    name: str, conversion: Conversion, sources: list[Source], own: Mapping[str, Any], wanted: Callable[[str], bool]
) -> None:
    """Raise `AdapterError` if the configuration targets a part of a joined weight for which there are no factors."""
    patterns = list(conversion.converter.source_patterns)
    experts = own[name].shape[0] if _moves(name, conversion, sources[0])[0] else 1
    present = {_place(source, patterns) for source in sources}
    match = _found(sources[0], patterns)
    for expert in range(experts):
        for number, pattern in enumerate(patterns):
            part = _literal(pattern).replace("*", str(expert))
            path = (sources[0].weight[: match.start()] + part).removesuffix(".weight") if match else ""
            if (expert, number) not in present and wanted(path):
                raise AdapterError(f"the configuration targets {path}, for which the file has no factors")


def _literal(pattern: str) -> str:
    return pattern.replace("\\.", ".")


def _found(source: Source, patterns: list[str]) -> re.Match[str] | None:
    """Return the match of a source's name with its pattern, in which a group is the number of an expert."""
    literal = re.escape(_literal(patterns[patterns.index(source.renamed.pattern)]))
    return re.search(literal.replace(re.escape("*"), r"(\d+)"), source.weight)


def _place(source: Source, patterns: list[str]) -> tuple[int, int]:
    """Return the number of a source's expert, 0 where there are none, and of its pattern."""
    number = patterns.index(source.renamed.pattern)
    match = _found(source, patterns)
    return (int(match[1]) if match is not None and match.re.groups else 0), number


def _rows(
    name: str, found: Mapping[tuple[int, int], _Pair], patterns: list[str], shape: torch.Size, moves: tuple[bool, bool]
) -> list[int]:
    """Return the number of rows of the weight of each pattern; of those that the file lacks, what is left for them."""
    rows: dict[int, int] = {}
    for (_, number), pair in found.items():
        if rows.setdefault(number, pair.left.shape[0]) != pair.left.shape[0]:
            raise AdapterError(f"the factors of {patterns[number]} for {name} have different numbers of rows")
    lacking = [number for number in range(len(patterns)) if number not in rows]
    if lacking:
        left = shape[-1 if moves[1] else -2] - sum(rows.values())
        if left < 0 or lacking[-1] - lacking[0] >= len(lacking):  # the places of those between them are not known
            raise AdapterError(
                f"the file has factors for a part of {name} only, and lacks those of {patterns[lacking[0]]}, whose "
                "size is not known from it"
            )
        rows |= {**dict.fromkeys(lacking, 0), lacking[0]: left}  # only their sum counts
    return [rows[number] for number in range(len(patterns))]


def _stacked(rights: list[Tensor]) -> tuple[Tensor | None, list[int]]:
    """Return all different factors A below each other, and the first row of each; equal ones are the same rows."""
    different: list[Tensor] = []
    starts = []
    for right in rights:
        same = next((n for n, one in enumerate(different) if one.shape == right.shape and one.equal(right)), None)
        starts.append(sum(one.shape[0] for one in different[:same]))
        different += [right] if same is None else []
    return (torch.cat(different) if different else None), starts


def _magnitudes(
    name: str, conversion: Conversion, found: Mapping[tuple[int, int], _Pair], own: Mapping[str, Any], transposes: bool
) -> dict[str, Tensor]:
    """Return the magnitudes of a DoRA, one for each row, moved as the rows are."""
    patterns = conversion.converter.source_patterns
    if transposes or len(found) != len(patterns):
        raise AdapterError(f"a DoRA of a part of {name}, or of experts, has no form that zoo reads")
    return conversion(name, [(str(n), patterns[n], found[0, n].magnitude) for n in range(len(patterns))], own)
