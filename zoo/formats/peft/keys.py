"""PEFT's names and shapes of an adapter's tensors, and zoo's for what PEFT cannot express.

PEFT, after `base_model.model.<module path>.`: `lora_A.weight` (rank, in, *kernel) and `lora_B.weight` (out, rank,
*ones); for embeddings `lora_embedding_A` (rank, rows) and `lora_embedding_B` (features, rank); for transformers'
`Conv1D` as for linear layers, never transposed; `lora_magnitude_vector` (out,), for convolutions (1, out, *ones).
Of `nn.MultiheadAttention` at `att`: `att.lora_A.weight` is that of `in_proj_weight` and
`att.base_layer.out_proj.lora_A.weight` that of `out_proj`. Of the parameters that `target_parameters` names in one
module, the last one's factors are at the module, each earlier one's under one more `.base_layer`. zoo's keys:
`zoo.<parameter name>.<factor>`, with the weight as a matrix in the layout of `zoo.weights.layout.layout_of`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from zoo.errors import AdapterError
from zoo.weights.foreign.weight import acts_as
from zoo.weights.layout import Layout, is_hf_conv1d
from zoo.weights.parameters import parameter_names
from zoo.weights.walk import ParameterRef, library_modules, parameter_ref, unwrapped

PREFIX = "base_model.model."
ZOO_PREFIX = "zoo."
WRAPPED = ".base_layer"
TOKENS = ".trainable_tokens_delta"
TOKENS_LAYER = ".token_adapter"  # before it, of a LoRA's `trainable_token_indices`
# PEFT adds the update of an attention's out_proj to its weight twice, merged or not (peft 0.14 to 0.21 at least).
OUT_PROJ = 2.0
_LORA = re.compile(r"(?P<path>.+)\.lora_(?:(?P<factor>[AB])\.weight|(?P<other>embedding_[AB]|magnitude_vector))")


class Slot(NamedTuple):
    """PEFT's place for the adapter of one weight.

    Attributes:
        ref: the weight.
        kind: "linear", "conv", "embedding", "attention" (its `in_proj_weight`), "out_proj" (an attention's),
            "parameter" (named in `target_parameters`), "experts" (such a one of three dimensions), or "" if PEFT adapts
            no such layer.
        path: the prefix of its keys after `base_model.model.`.
        name: its name in the configuration's targets and patterns.
    """

    ref: ParameterRef
    kind: str
    path: str
    name: str

    def reason_against(self) -> str | None:
        """Return why zoo does not compute the same as PEFT's low-rank adapter of this weight; None if it does."""
        layer = self.ref.layer
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
        """Whether it is named in `target_parameters`, and not in `target_modules`."""
        return self.kind in ("parameter", "experts")

    @property
    def inputs_first(self) -> bool:
        """Whether the weight's rows are A's inputs, as in embeddings and transformers' `Conv1D`."""
        return not self.is_parameter and (self.kind == "embedding" or is_hf_conv1d(self.ref.layer))


def slots(module: nn.Module, parameters: Iterable[str] = ()) -> dict[str, Slot]:
    """Return prefix of the keys → PEFT's place, for every weight of a model that PEFT could adapt.

    Args:
        module: the base model.
        parameters: the configuration's `target_parameters`.
    """
    wanted = tuple(parameters)
    found: dict[str, Slot] = {}
    inside: dict[str, str] = {}  # path of a module → the same with the wrappers of the modules above it
    for path, layer in library_modules(module, remove_duplicate=False):
        above, _, last = path.rpartition(".")
        here = inside.get(above, above)
        here = f"{here}.{last}" if here else last
        names = parameter_names(layer) if wanted and path else ()
        targeted = [name for name in names if _named(f"{path}.{name}", wanted)]
        inside[path] = here + WRAPPED * len(targeted)
        if targeted:
            for depth, attribute in enumerate(reversed(targeted)):
                ref = parameter_ref(path, layer, attribute)
                kind = "experts" if _is_experts(ref) else "parameter"
                found[here + WRAPPED * depth] = Slot(ref, kind, here + WRAPPED * depth, f"{path}.{attribute}")
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


def _is_experts(ref: ParameterRef) -> bool:
    shape = getattr(ref.layer, ref.attribute).shape
    return len(shape) == 3 and shape[0] > 1


def _kind(layer: nn.Module) -> str:
    if isinstance(layer, nn.Linear) or is_hf_conv1d(layer) or acts_as(layer) == "linear":
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
    """Return whether PEFT has adapters of a kind other than LoRA for a slot's layer, and computes the same as zoo."""
    layer = slot.ref.layer
    if slot.ref.attribute != "weight" or isinstance(layer, NonDynamicallyQuantizableLinear):
        return False
    if kind == "ia3" and is_hf_conv1d(layer):
        return True
    padded = kind != "ia3" and getattr(layer, "padding_mode", "zeros") != "zeros"
    return isinstance(layer, _KINDS.get(kind, ())) and not padded


def ties_rows(module: nn.Module, refs: list[ParameterRef]) -> bool:
    """Return whether PEFT's `trainable_token_indices` of a weight's first place reach all its places."""
    module = unwrapped(module)
    try:
        first = module.get_input_embeddings() is refs[0].layer  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        first = False
    tied = first and bool(getattr(getattr(module, "config", None), "tie_word_embeddings", False))
    return len(refs) == 1 or tied


def wrapped(placed: Iterable[Slot]) -> dict[str, int]:
    """Return module path → how many of PEFT's layers wrap it, for adapters at these slots."""
    count: dict[str, int] = {}
    for slot in placed:
        count[slot.ref.path] = count.get(slot.ref.path, 0) + 1
    return count


def file_path(path: str, around: Mapping[str, int], inside: bool) -> str:
    """Return a module's path in PEFT's files.

    Args:
        path: the module's path.
        around: from `wrapped`.
        inside: whether to add the module's own wrappers to those of the modules above it.
    """
    parts, result = path.split("."), ""
    for number, part in enumerate(parts):
        result += f".{part}" if result else part
        if inside or number < len(parts) - 1:
            result += WRAPPED * around.get(".".join(parts[: number + 1]), 0)
    return result


def bare_name(rest: str) -> str:
    """Return a parameter's name from a key without its prefix, leaving out the wrappers of the modules above it."""
    return rest.replace(WRAPPED + ".", ".")


def parameters_of(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return (name, layer) of every parameter in a module and below, managed or not."""
    return [
        (f"{path}.{name}" if path else name, layer)
        for path, layer in library_modules(module)
        for name in parameter_names(layer)
    ]


def magnitude_shape(slot: Slot, shape: torch.Size) -> tuple[int, ...]:
    """Return the shape of DoRA's magnitudes in PEFT's files."""
    if slot.kind == "conv":
        return (1, shape[0], *(1 for _ in shape[2:]))
    return (shape[1],) if slot.inputs_first else (shape[0],)


def factors_to_file(slot: Slot, A: Tensor, B: Tensor, shape: torch.Size, transposed: bool) -> dict[str, Tensor]:
    """Return the file's tensors for a low-rank update.

    Args:
        slot: the weight's place.
        A: `[rank, inputs]`.
        B: `[outputs, rank]`.
        shape: of the weight.
        transposed: whether the rows of the update's matrix are its inputs, see `Layout`.
    """
    # The same product in the other orientation: (B @ A).T = A.T @ B.T. first [rank, ...], second [..., rank]
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
    """Return A `[rank, inputs]` and B `[outputs, rank]` of an update from PEFT's two tensors.

    Args:
        slot: the weight's place.
        layout: of the update's matrix.
        shape: of the weight.
        A: PEFT's `lora_A`.
        B: PEFT's `lora_B`.

    Raises:
        AdapterError: the tensors have other shapes than the weight requires.
    """
    if slot.is_parameter:
        outputs, inputs = shape[-2:].numel() // shape[-1], shape[-1]
    else:
        rows, columns = shape[: layout.split].numel(), shape[layout.split :].numel()
        inputs, outputs = (rows, columns) if slot.inputs_first else (columns, rows)
    rank = A.shape[0] if A.dim() else 0
    kernel = tuple(shape[2:]) if slot.kind == "conv" else ()
    first = (rank, shape[1], *kernel) if kernel else (rank, inputs)
    check_shapes(slot.ref, (A, B), (first, (outputs, rank, *(1 for _ in kernel))))
    if slot.kind == "out_proj":
        B = B * OUT_PROJ
    A, B = A.flatten(1), B.flatten(1)
    return (A, B) if slot.inputs_first == layout.transposed else (B.t(), A.t())


def stack_layout(ref: ParameterRef) -> Layout:
    """Return the layout of a stack of matrices as PEFT sees it: a layer may say that its inputs come first."""
    return Layout(transposed=bool(getattr(ref.layer, "is_transposed", False)), stacked=True)


def stack_to_file(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """Return PEFT's two matrices for the factors of a stack of matrices: (matrices · rank, in), (out, rank · matrices).

    Args:
        A: (matrices, rank, in).
        B: (matrices, out, rank).
    """
    return A.flatten(0, 1), B.permute(1, 2, 0).flatten(1)


def stack_from_file(slot: Slot, layout: Layout, shape: torch.Size, rank: int, A: Tensor, B: Tensor) -> list[Tensor]:
    """Return the factors of a stack of matrices, the reverse of `stack_to_file`.

    Args:
        slot: the weight's place.
        layout: of the weight, stacked.
        shape: of the weight.
        rank: of each matrix's factors.
        A: PEFT's `lora_A`.
        B: PEFT's `lora_B`.

    Raises:
        AdapterError: the tensors have other shapes than the weight requires.
    """
    outputs, inputs = layout.matrix(shape)
    check_shapes(slot.ref, (A, B), ((rank * shape[0], inputs), (outputs, rank * shape[0])))
    return [A.view(shape[0], rank, inputs), B.view(outputs, rank, shape[0]).permute(2, 0, 1)]


def check_shapes(ref: ParameterRef, found: Iterable[Tensor], expected: Iterable[tuple[int, ...]]) -> None:
    """Raise `AdapterError` if an adapter's tensors have other shapes than its weight requires."""
    got, wanted = [tuple(tensor.shape) for tensor in found], list(expected)
    if got != wanted:
        shown = [" and ".join(map(str, shapes)) for shapes in (got, wanted)]
        raise AdapterError(
            f"{ref.name}: the adapter's factors have shapes {shown[0]}, expected {shown[1]}; it was made for another "
            "model"
        )


def parse_lora(rest: str, layers: Mapping[str, Slot]) -> tuple[str, str] | None:
    """Return a slot's path and the factor ("A", "B", "magnitude") of a key; None for a key of another form."""
    match = _LORA.fullmatch(rest)
    if match is None:
        return None
    factor = match["factor"] or match["other"]
    if factor == "magnitude_vector":
        return match["path"], "magnitude"
    slot = layers.get(match["path"])
    embedded = slot is not None and slot.kind == "embedding"
    return (match["path"], factor[-1]) if embedded == (match["other"] is not None) else None
