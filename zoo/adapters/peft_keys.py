"""PEFT's names and shapes for an adapter's factors, and ours for what PEFT cannot express.

PEFT: ``base_model.model.<module path>.lora_A.weight`` (rank, in, *kernel) and ``….lora_B.weight`` (out, rank, *ones);
for embeddings ``….lora_embedding_A`` (rank, rows) and ``….lora_embedding_B`` (features, rank); for transformers'
``Conv1D`` as for linear layers, never transposed. Ours: ``zoo.<parameter name>.lora_A`` (rank, inputs) and ``….lora_B``
(outputs, rank), with the weight seen as a matrix as ``zoo.adapters.targets.layout_of`` says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoo.adapters.targets import is_hf_conv1d
from zoo.errors import AdapterError
from zoo.weights.manage import Site
from zoo.weights.update import Layout, LowRank

PREFIX = "base_model.model."
OWN = "zoo."
_OWN = re.compile(r"zoo\.(?P<path>.+)\.lora_(?P<factor>[AB])")
_PEFT = re.compile(r"base_model\.model\.(?P<path>.+)\.lora_(?:(?P<factor>[AB])\.weight|embedding_(?P<embedding>[AB]))")
_BASE = re.compile(r"base_model\.model\.(?P<path>.+?)(?:\.base_layer)?\.weight")


def kind_of(site: Site) -> str | None:
    """How PEFT writes the factors of the weight at ``site``: "linear", "conv", "embedding"; None where it cannot."""
    return None if reason_against(site) else _kind(site.layer)


def reason_against(site: Site) -> str | None:
    """Why PEFT cannot express an adapter of the weight at ``site`` as zoo computes it; None where it can."""
    layer = site.layer
    if site.attribute != "weight" or not site.path:
        return "it is not a layer's weight"
    if isinstance(layer, nn.modules.linear.NonDynamicallyQuantizableLinear):
        return "nn.MultiheadAttention never calls it, so PEFT's adapter there does nothing"
    kind = _kind(layer)
    if kind is None:
        return f"PEFT adapts no {type(layer).__name__}"
    if kind == "conv":
        if layer.groups != 1:
            return "it is a grouped convolution, and PEFT's adapter reaches across its groups"
        if layer.padding_mode != "zeros":
            return f"it pads with {layer.padding_mode!r}, and PEFT's adapter pads with zeros"
        if any(step != 1 for step in layer.dilation):  # type: ignore[union-attr]
            return "it is a dilated convolution, and PEFT's adapter is not dilated"
    return None


def _kind(layer: nn.Module) -> str | None:
    if isinstance(layer, nn.Linear) or is_hf_conv1d(layer):
        return "linear"
    if isinstance(layer, nn.modules.conv._ConvNd):
        return None if isinstance(layer, nn.modules.conv._ConvTransposeNd) else "conv"
    return "embedding" if isinstance(layer, nn.Embedding) else None


def written(sites: list[Site], update: LowRank) -> dict[str, Tensor]:
    """The file's keys and tensors for one update: in PEFT's terms at every place where PEFT can express it.

    A tied weight is written once per place, so that PEFT, which adapts each place by itself, computes the same.
    """
    A, B = update.A.detach(), update.B.detach()
    if not all(kind_of(site) for site in sites):
        return {f"{OWN}{sites[0].name}.lora_A": A, f"{OWN}{sites[0].name}.lora_B": B}
    tensors: dict[str, Tensor] = {}
    for site in sites:
        kind, path = kind_of(site), PREFIX + site.path
        inputs_first = kind == "embedding" or is_hf_conv1d(site.layer)
        # The same product in the other orientation: (B @ A).T = A.T @ B.T.
        first, second = (A, B) if inputs_first == update.transposed else (B.t(), A.t())
        if kind == "embedding":
            tensors |= {f"{path}.lora_embedding_A": first, f"{path}.lora_embedding_B": second}
        else:
            kernel = update.shape[2:] if kind == "conv" else ()
            tensors[f"{path}.lora_A.weight"] = first.reshape(first.shape[0], -1, *kernel) if kernel else first
            tensors[f"{path}.lora_B.weight"] = second.reshape(*second.shape, *(1 for _ in kernel))
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


class Key(NamedTuple):
    """What a file's key speaks of. own: it is one of ours, and path a parameter's name; else PEFT's, and a layer's."""

    own: bool
    path: str
    factor: str


def parse(key: str, layers: Mapping[str, nn.Module]) -> Key:
    """A file's key taken apart. layers: the model's, by path. Raises ``AdapterError`` for a key of any other form."""
    if match := _OWN.fullmatch(key):
        return Key(True, match["path"], match["factor"])
    if match := _PEFT.fullmatch(key):
        embedded = isinstance(layers.get(match["path"]), nn.Embedding)
        if embedded == (match["embedding"] is not None):
            return Key(False, match["path"], match["embedding"] or match["factor"])
    raise AdapterError(f"unexpected key {key!r}: expected {PREFIX}<layer's path>.lora_A.weight and the like")


def base_path(key: str) -> str | None:
    """The path of the layer whose own weight a key holds: PEFT puts embeddings and heads that it adapts beside them."""
    match = _BASE.fullmatch(key)
    return match["path"] if match else None


def read_pair(site: Site, layout: Layout, shape: torch.Size, A: Tensor, B: Tensor, own: bool) -> tuple[Tensor, Tensor]:
    """The factors A (rank, inputs) and B (outputs, rank) of an update with ``layout``, from a file's two tensors.

    Raises ``AdapterError`` that names the weight, what was expected and what was found.
    """
    if not own and (reason := reason_against(site)):
        raise AdapterError(f"{site.name}: its adapter is not one that zoo can apply: {reason}")
    kind = None if own else kind_of(site)
    rows, columns = torch.Size(shape[: layout.split]).numel(), torch.Size(shape[layout.split :]).numel()
    inputs_first = layout.transposed if own else kind == "embedding" or is_hf_conv1d(site.layer)
    inputs, outputs = (rows, columns) if inputs_first else (columns, rows)
    rank = A.shape[0] if A.dim() else 0
    kernel = tuple(shape[2:]) if kind == "conv" else ()
    first = (rank, shape[1], *kernel) if kernel else (rank, inputs)
    second = (outputs, rank, *(1 for _ in kernel))
    if tuple(A.shape) != first or tuple(B.shape) != second:
        raise AdapterError(
            f"{site.name}: the adapter's factors have shapes {tuple(A.shape)} and {tuple(B.shape)}, expected "
            f"{_shown(first)} and {_shown(second)}; it was made for another model"
        )
    A, B = A.flatten(1), B.flatten(1)
    return (A, B) if inputs_first == layout.transposed else (B.t(), A.t())


def _shown(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"
