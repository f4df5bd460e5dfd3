"""PEFT's names and shapes for what an adapter trains, and ours for what PEFT cannot express.

PEFT, after `base_model.model.<module path>.`: `lora_A.weight` (rank, in, *kernel) and `lora_B.weight` (out, rank,
*ones); for embeddings `lora_embedding_A` (rank, rows) and `lora_embedding_B` (features, rank); for transformers'
`Conv1D` as for linear layers, never transposed; `lora_magnitude_vector` (out,), for convolutions (1, out, *ones).
Of `nn.MultiheadAttention` at `att`: `att.lora_A.weight` is that of `in_proj_weight` and
`att.base_layer.out_proj.lora_A.weight` that of `out_proj`. Of the raw parameters that `target_parameters` names
in one module, the last one's factors lie at the module, each earlier one's under one more `.base_layer`. Ours:
`zoo.<parameter name>.<factor>`, with the weight seen as a matrix as `zoo.weights.layout.layout_of` says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from zoo.errors import AdapterError
from zoo.weights.layout import Layout, is_hf_conv1d
from zoo.weights.parameters import parameter_names
from zoo.weights.walk import ParameterRef, library_modules, parameter_ref

PREFIX = "base_model.model."
ZOO_PREFIX = "zoo."
WRAPPED = ".base_layer"
# PEFT adds the update of an attention's out_proj to its weight twice, merged or not (peft 0.14 to 0.21 at least).
OUT_PROJ = 2.0
_LORA = re.compile(r"(?P<path>.+)\.lora_(?:(?P<factor>[AB])\.weight|(?P<other>embedding_[AB]|magnitude_vector))")


class Slot(NamedTuple):
    """Where PEFT keeps the adapter of the weight at `site`.

    kind: "linear", "conv", "embedding", "attention" (its `in_proj_weight`), "out_proj" (an attention's),
    "parameter", "experts" (a raw one of three dimensions), or "" where PEFT adapts no such layer. path: what its keys
    begin with after `base_model.model.`. name: what the configuration's targets and patterns call it.
    """

    site: ParameterRef
    kind: str
    path: str
    name: str

    def reason_against(self) -> str | None:
        """Why PEFT's low-rank adapter of it is not one that zoo computes alike; None where it is."""
        layer = self.site.layer
        if self.kind == "linear" and isinstance(layer, NonDynamicallyQuantizableLinear):
            return "nn.MultiheadAttention never calls it, so PEFT's adapter there does nothing"
        if not self.kind:
            return f"PEFT adapts no {type(layer).__name__}"
        if self.kind == "conv":
            if layer.groups != 1:
                return "it is a grouped convolution, and PEFT's adapter reaches across its groups"
            if layer.padding_mode != "zeros":
                return f"it pads with {layer.padding_mode!r}, and PEFT's adapter pads with zeros"
            if any(step != 1 for step in layer.dilation):  # type: ignore[union-attr]
                return "it is a dilated convolution, and PEFT's adapter is not dilated"
        return None

    @property
    def is_parameter(self) -> bool:
        """Whether `target_parameters` names it, and not `target_modules`."""
        return self.kind in ("parameter", "experts")

    @property
    def inputs_first(self) -> bool:
        """Whether the weight's rows are what A takes in, as in embeddings and transformers' `Conv1D`."""
        return not self.is_parameter and (self.kind == "embedding" or is_hf_conv1d(self.site.layer))


def slots(module: nn.Module, parameters: Iterable[str] = ()) -> dict[str, Slot]:
    """Where PEFT keeps what of a model, by what the keys begin with. parameters: the `target_parameters`."""
    wanted = tuple(parameters)
    found: dict[str, Slot] = {}
    inside: dict[str, str] = {}  # path of a module → the same with what wraps the modules above it
    for path, layer in library_modules(module, remove_duplicate=False):
        above, _, own = path.rpartition(".")
        here = inside.get(above, above)
        here = f"{here}.{own}" if here else own
        raw = [name for name in parameter_names(layer) if _named(f"{path}.{name}", wanted)] if wanted and path else []
        inside[path] = here + WRAPPED * len(raw)
        if raw:
            for depth, attribute in enumerate(reversed(raw)):
                site = parameter_ref(path, layer, attribute)
                kind = "experts" if _is_experts(site) else "parameter"
                found[here + WRAPPED * depth] = Slot(site, kind, here + WRAPPED * depth, f"{path}.{attribute}")
        elif isinstance(layer, nn.MultiheadAttention):
            if layer._qkv_same_embed_dim and path:
                found[here] = Slot(parameter_ref(path, layer, "in_proj_weight"), "attention", here, path)
                out = f"{here}{WRAPPED}.out_proj"
                found[out] = Slot(parameter_ref(f"{path}.out_proj", layer.out_proj, "weight"), "out_proj", out, path)
        elif path and "weight" in parameter_names(layer):
            found[here] = Slot(parameter_ref(path, layer, "weight"), _kind(layer), here, path)
    return found


def _named(name: str, wanted: tuple[str, ...]) -> bool:
    return any(name == target or name.endswith("." + target) for target in wanted)


def _is_experts(site: ParameterRef) -> bool:
    shape = getattr(site.layer, site.attribute).shape
    return len(shape) == 3 and shape[0] > 1


def _kind(layer: nn.Module) -> str:
    if isinstance(layer, nn.Linear) or is_hf_conv1d(layer):
        return "linear"
    if isinstance(layer, nn.modules.conv._ConvNd):
        return "" if isinstance(layer, nn.modules.conv._ConvTransposeNd) else "conv"
    return "embedding" if isinstance(layer, nn.Embedding) else ""


# The layers for which PEFT has its other kinds.
_PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d)
_KINDS: dict[str, tuple[type[nn.Module], ...]] = {
    "loha": _PRODUCTS,
    "lokr": _PRODUCTS,
    "ia3": (nn.Linear, nn.Conv2d, nn.Conv3d),
}


def has_kind(kind: str, slot: Slot) -> bool:
    """Whether PEFT has adapters of a kind other than LoRA for a slot's layer, and computes what zoo does with it."""
    layer = slot.site.layer
    if slot.site.attribute != "weight" or isinstance(layer, NonDynamicallyQuantizableLinear):
        return False
    if kind == "ia3" and is_hf_conv1d(layer):
        return True
    padded = kind != "ia3" and getattr(layer, "padding_mode", "zeros") != "zeros"
    return isinstance(layer, _KINDS.get(kind, ())) and not padded


def wrapped(placed: Iterable[Slot]) -> dict[str, int]:
    """How many of PEFT's layers are around which modules, for adapters at these slots."""
    count: dict[str, int] = {}
    for slot in placed:
        count[slot.site.path] = count.get(slot.site.path, 0) + 1
    return count


def file_path(path: str, around: Mapping[str, int], inside: bool) -> str:
    """A module's path in PEFT's files. around: what wraps which module; inside: the module itself within its own."""
    parts, result = path.split("."), ""
    for number, part in enumerate(parts):
        result += f".{part}" if result else part
        if inside or number < len(parts) - 1:
            result += WRAPPED * around.get(".".join(parts[: number + 1]), 0)
    return result


def bare_name(rest: str) -> str:
    """A parameter's own name from a key's rest, without what wraps the modules that it is in."""
    return rest.replace(WRAPPED + ".", ".")


def parameters_of(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """(name, layer) of every parameter in a module and below, managed or not."""
    return [
        (f"{path}.{name}" if path else name, layer)
        for path, layer in library_modules(module)
        for name in parameter_names(layer)
    ]


def magnitude_shape(slot: Slot, shape: torch.Size) -> tuple[int, ...]:
    """The shape of DoRA's magnitudes in PEFT's files."""
    if slot.kind == "conv":
        return (1, shape[0], *(1 for _ in shape[2:]))
    return (shape[1],) if slot.inputs_first else (shape[0],)


def factors_to_file(slot: Slot, A: Tensor, B: Tensor, shape: torch.Size, transposed: bool) -> dict[str, Tensor]:
    """The file's tensors for a low-rank update, A (rank, inputs) and B (outputs, rank), of a weight of `shape`.

    transposed: the rows of the update's own matrix are its inputs, see `Layout`.
    """
    # The same product in the other orientation: (B @ A).T = A.T @ B.T.
    first, second = (A, B) if slot.inputs_first == transposed else (B.t(), A.t())
    path = PREFIX + slot.path
    if slot.kind == "embedding":
        tensors = {f"{path}.lora_embedding_A": first, f"{path}.lora_embedding_B": second}
    else:
        if slot.kind == "conv":
            kernel = shape[2:]
            first, second = (
                first.reshape(first.shape[0], -1, *kernel),
                second.reshape(*second.shape, *[1] * len(kernel)),
            )
        if slot.kind == "out_proj":
            second = second / OUT_PROJ
        tensors = {f"{path}.lora_A.weight": first, f"{path}.lora_B.weight": second}
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def factors_from_file(slot: Slot, layout: Layout, shape: torch.Size, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """A (rank, inputs) and B (outputs, rank) of an update with `layout`, from PEFT's two tensors.

    Raises `AdapterError` that names the weight, what was expected and what was found.
    """
    if slot.is_parameter:
        outputs, inputs = shape[-2:].numel() // shape[-1], shape[-1]
    else:
        rows, columns = shape[: layout.split].numel(), shape[layout.split :].numel()
        inputs, outputs = (rows, columns) if slot.inputs_first else (columns, rows)
    rank = A.shape[0] if A.dim() else 0
    kernel = tuple(shape[2:]) if slot.kind == "conv" else ()
    first = (rank, shape[1], *kernel) if kernel else (rank, inputs)
    check_shapes(slot.site, (A, B), (first, (outputs, rank, *(1 for _ in kernel))))
    if slot.kind == "out_proj":
        B = B * OUT_PROJ
    A, B = A.flatten(1), B.flatten(1)
    return (A, B) if slot.inputs_first == layout.transposed else (B.t(), A.t())


def check_shapes(site: ParameterRef, found: Iterable[Tensor], expected: Iterable[tuple[int, ...]]) -> None:
    """`AdapterError` where an adapter's tensors have other shapes than its weight wants."""
    got, wanted = [tuple(tensor.shape) for tensor in found], list(expected)
    if got != wanted:
        shown = [" and ".join(map(str, shapes)) for shapes in (got, wanted)]
        raise AdapterError(
            f"{site.name}: the adapter's factors have shapes {shown[0]}, expected {shown[1]}; it was made for another "
            "model"
        )


def parse_lora(rest: str, layers: Mapping[str, Slot]) -> tuple[str, str] | None:
    """A slot's path and the factor ("A", "B", "magnitude") that a key speaks of; None for a key of any other form."""
    match = _LORA.fullmatch(rest)
    if match is None:
        return None
    factor = match["factor"] or match["other"]
    if factor == "magnitude_vector":
        return match["path"], "magnitude"
    slot = layers.get(match["path"])
    embedded = slot is not None and slot.kind == "embedding"
    return (match["path"], factor[-1]) if embedded == (match["other"] is not None) else None
