"""Chosen rows of a table as an update, for new tokens of a vocabulary: PEFT's `trainable_token_indices`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.errors import AdapterError, did_you_mean
from zoo.methods.config import Adapter, LoRA
from zoo.methods.targets import matches
from zoo.weights.lazy_weight import LazyWeight
from zoo.weights.update import Update
from zoo.weights.walk import TiedGroup, library_modules, unwrapped


class RowsUpdate(Update):
    """A replacement of some of the weight's rows, which start as copies of the base's.

    Args:
        weight: The weight, (rows, features).
        indices: Which rows.

    Attributes:
        indices: Which rows, in the order of `rows`.
        rows: The parameter, (len(indices), features), in float32 or better.
    """

    kind = "rows"
    index: Tensor

    def __init__(self, weight: LazyWeight, indices: Sequence[int]) -> None:
        super().__init__()
        self.indices = tuple(indices)
        dtype = torch.promote_types(weight.dtype, torch.float32)
        self.register_buffer("index", torch.tensor(self.indices, device=weight.device), persistent=False)
        if weight.is_meta:
            start = torch.empty(len(self.indices), *weight.shape[1:], dtype=dtype, device="meta")
        else:
            start = weight.base(dtype)[self.index]  # (len(indices), features)
        self.rows = nn.Parameter(start)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight with these rows replaced."""
        return weight.index_copy(0, self.index, self._parameters["rows"].to(weight.dtype))  # type: ignore[union-attr]

    def look_up(self, index: Tensor, rows: Tensor) -> Tensor:
        """Return the rows at `index`, given the base's: see `Update.look_up`."""
        hits = index.unsqueeze(-1) == self.index  # (..., len(indices))
        own = F.embedding(hits.int().argmax(-1), self._parameters["rows"].to(rows.dtype))  # type: ignore[union-attr]
        return torch.where(hits.any(-1, keepdim=True), own, rows)

    def extra_repr(self) -> str:
        """Return the shape for the module's repr."""
        return f"{tuple(self.rows.shape)}"


def with_names(config: Adapter, module: nn.Module) -> Adapter:
    """Return the configuration with `trainable_token_indices` by the path of the embedding.

    Args:
        config: Any adapter's.
        module: The model, which is asked for its input embedding if a list of indices names none.

    Raises:
        AdapterError: the model does not say which its input embedding is.
    """
    if not isinstance(config, LoRA) or not isinstance(config.trainable_token_indices, tuple):
        return config
    layer: Any = None
    with suppress(AttributeError, NotImplementedError):
        layer = unwrapped(module).get_input_embeddings()  # type: ignore[operator]
    path = next((path for path, other in library_modules(module) if other is layer and path), None)
    if path is None:
        raise AdapterError(
            f"trainable_token_indices: {type(module).__name__} does not say which its input embedding is: expected the "
            "indices by its path, as in {'embed_tokens': [7, 8]}, got a list"
        )
    return replace(config, trainable_token_indices={path: config.trainable_token_indices})


def with_rows_of(config: Adapter, updates: Mapping[str, Update]) -> Adapter:
    """Return the configuration with the rows that the updates of a file have; it may hold more than were named."""
    rows = {name.removesuffix(".weight"): one.indices for name, one in updates.items() if isinstance(one, RowsUpdate)}
    known = getattr(config, "trainable_token_indices", None) or {}
    new = {path: indices for path, indices in rows.items() if indices not in known.values()}
    if not isinstance(config, LoRA) or not new:
        return config
    kept = {path: indices for path, indices in known.items() if indices in rows.values()}
    return replace(config, trainable_token_indices={**kept, **new})


def row_groups(groups: list[TiedGroup], config: Adapter) -> dict[str, tuple[TiedGroup, tuple[int, ...]]]:
    """Return the weights of which the adapter trains rows, by their first name, each with its rows.

    Args:
        groups: The module's parameters.
        config: The adapter's configuration, from `with_names`.

    Raises:
        AdapterError: a name matches no table, or a row is not in it.
    """
    found: dict[str, tuple[TiedGroup, tuple[int, ...]]] = {}
    wanted = getattr(config, "trainable_token_indices", None) or {}
    tables = [group for group in groups if len(group.value.shape) == 2 and group.value.dtype.is_floating_point]
    paths = {ref.path for group in tables for ref in group.refs if ref.attribute == "weight"}
    for target, indices in wanted.items():
        chosen = [
            group
            for group in tables
            if any(ref.attribute == "weight" and ref.path and matches(ref.path, (target,)) for ref in group.refs)
        ]
        if not chosen:
            raise AdapterError(
                f"trainable_token_indices: {target!r} matches no layer with a table.{did_you_mean(target, paths)}"
            )
        for group in chosen:
            rows = group.value.shape[0]
            if max(indices) >= rows:
                raise AdapterError(
                    f"trainable_token_indices: {group.name} has the rows 0 to {rows - 1}, got {max(indices)}: resize "
                    "the embedding before the model is wrapped"
                )
            if found.get(group.name, (group, indices))[1] != indices:
                raise AdapterError(
                    f"trainable_token_indices: {group.name} is one weight in several places, and they have different "
                    "indices; zoo keeps tied weights tied"
                )
            found[group.name] = (group, indices)
    return found
