"""PEFT's names and shapes for an adapter's factors, and ours for what PEFT cannot express.

PEFT: ``base_model.model.<module path>.lora_A.weight`` (rank, in, *kernel) and ``….lora_B.weight`` (out, rank, *ones);
for embeddings ``….lora_embedding_A`` (rank, rows) and ``….lora_embedding_B`` (features, rank); for transformers'
``Conv1D`` as for linear layers, never transposed. Ours: ``zoo.<parameter name>.lora_A`` (rank, inputs) and ``….lora_B``
(outputs, rank), with the weight seen as a matrix as ``zoo.adapters.targets.layout_of`` says.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from zoo.adapters.targets import is_hf_conv1d
from zoo.errors import AdapterError
from zoo.weights.manage import Site
from zoo.weights.update import Layout, LowRank

PREFIX = "base_model.model."
OWN = "zoo."
_KEY = re.compile(r"(?P<path>.*?)\.?(?P<kind>lora_embedding|lora)_(?P<factor>[AB])(?:\.weight)?")


def kind_of(site: Site) -> str | None:
    """How PEFT writes the factors of the weight at ``site``: "linear", "conv", "embedding"; None where it cannot."""
    layer = site.layer
    if site.attribute != "weight" or not site.path:
        return None
    if isinstance(layer, nn.modules.linear.NonDynamicallyQuantizableLinear):
        return None  # an nn.MultiheadAttention's, whose forward never calls it
    if isinstance(layer, nn.Linear) or is_hf_conv1d(layer):
        return "linear"
    if isinstance(layer, nn.modules.conv._ConvNd):
        plain = not isinstance(layer, nn.modules.conv._ConvTransposeNd) and layer.groups == 1
        return "conv" if plain else None
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


def parse(key: str) -> tuple[bool, str, str, str]:
    """(whether it is our own key, path, "lora" or "lora_embedding", "A" or "B") of a file's key.

    Raises ``AdapterError`` for any other key.
    """
    own = key.startswith(OWN)
    rest = key.removeprefix(OWN) if own else key.removeprefix(PREFIX)
    match = _KEY.fullmatch(rest)
    if match is None or not match["path"] or not (own or key.startswith(PREFIX)):
        raise AdapterError(f"unexpected key {key!r}: expected {PREFIX}<module path>.lora_A.weight and the like")
    return own, match["path"], match["kind"], match["factor"]


def read_pair(site: Site, layout: Layout, shape: torch.Size, A: Tensor, B: Tensor, own: bool) -> tuple[Tensor, Tensor]:
    """The factors A (rank, inputs) and B (outputs, rank) of an update with ``layout``, from a file's two tensors.

    Raises ``AdapterError`` that names the weight, what was expected and what was found.
    """
    kind = None if own else kind_of(site)
    rows, columns = torch.Size(shape[: layout.split]).numel(), torch.Size(shape[layout.split :]).numel()
    if kind is None:
        first, second, inputs_first = A.flatten(1), B.flatten(1), layout.transposed
        grouped = getattr(site.layer, "groups", 1)
        if not own and grouped > 1 and B.dim() == len(shape) and B.shape[1] * grouped == A.shape[0]:
            first, second = A.flatten(1), _block_diagonal(B.flatten(1), grouped)
    else:
        inputs_first = kind == "embedding" or is_hf_conv1d(site.layer)
        first, second = A.flatten(1), B.flatten(1)
    inputs, outputs = (rows, columns) if inputs_first else (columns, rows)
    rank = first.shape[0]
    if tuple(first.shape) != (rank, inputs) or tuple(second.shape) != (outputs, rank):
        raise AdapterError(
            f"{site.name}: the adapter's factors have shapes {tuple(A.shape)} and {tuple(B.shape)}, expected "
            f"(rank, {inputs}) and ({outputs}, rank); it was made for another model"
        )
    return (first, second) if inputs_first == layout.transposed else (second.t(), first.t())


def _block_diagonal(B: Tensor, groups: int) -> Tensor:
    """PEFT's grouped factor (outputs, rank / groups) as (outputs, rank): each group sees its own part of the rank."""
    outputs, width = B.shape
    wide = B.new_zeros(groups, outputs // groups, groups, width)
    for group in range(groups):
        wide[group, :, group] = B.view(groups, outputs // groups, width)[group]
    return wide.view(outputs, groups * width)
