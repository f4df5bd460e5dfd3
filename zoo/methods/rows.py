"""Chosen rows of a table as an update, for new tokens of a vocabulary: PEFT's `trainable_token_indices`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.errors import AdapterError, did_you_mean
from zoo.methods.config import Adapter, LoRA, Targets, Tokens, check_rows
from zoo.methods.peft_fields import HARMLESS
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

    def step_sizes(self, weight: Callable[[], Tensor]) -> dict[str, float]:
        """Return 1: the parameter is the rows."""
        return {"rows": 1.0}

    def look_up(self, index: Tensor, rows: Tensor) -> Tensor:
        """Return the rows at `index`, given the base's: see `Update.look_up`."""
        hits = index.unsqueeze(-1) == self.index  # (..., len(indices))
        own = F.embedding(hits.int().argmax(-1), self._parameters["rows"].to(rows.dtype))  # type: ignore[union-attr]
        return torch.where(hits.any(-1, keepdim=True), own, rows)

    def extra_repr(self) -> str:
        """Return the shape for the module's repr."""
        return f"{tuple(self.rows.shape)}"


@dataclass(frozen=True)
class TrainableTokens(Adapter):
    """Training of chosen rows of embeddings alone, for new tokens, as PEFT's `TrainableTokensConfig`.

    Attributes:
        token_indices: Which rows.
        targets: Which embeddings: suffixes of their paths, or a regular expression; None for the model's own input
            embedding. A head that is tied to one has the same rows.

    Raises:
        AdapterError: a value is out of range.
    """

    token_indices: Tokens = None
    targets: Targets = None

    kind: ClassVar[str] = "trainable_tokens"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "token_indices", check_rows("token_indices", self.token_indices))

    def to_peft(self) -> dict[str, Any]:
        """Return PEFT's configuration."""
        targets = list(self.targets) if isinstance(self.targets, tuple) else self.targets
        rows = list(self.token_indices or ())
        return {"peft_type": self.kind.upper(), "token_indices": rows, "target_modules": targets} | _UNUSED

    @classmethod
    def from_peft(cls, raw: Mapping[str, Any]) -> TrainableTokens:
        """Return the configuration that an `adapter_config.json` describes; the reverse of `to_peft`."""
        for key, value in raw.items():
            if key not in {"token_indices", "target_modules", *_UNUSED, *HARMLESS} and value:
                raise AdapterError(
                    f"{key} = {value!r:.80} is a feature of PEFT that zoo does not have; save without it"
                )
        return cls(raw.get("token_indices"), raw.get("target_modules"))


_UNUSED: dict[str, Any] = {"inference_mode": True, "init_weights": True, "task_type": None}


def with_names(config: Any, module: nn.Module) -> Any:
    """Return the configuration with the path of the embedding where it means the model's own input embedding.

    Args:
        config: Any adapter's, or another way to say which adapter.
        module: The model, which is asked for its input embedding.

    Raises:
        AdapterError: the model does not say which its input embedding is.
    """
    listed = isinstance(config, LoRA) and isinstance(config.trainable_token_indices, tuple)
    if not listed and not (isinstance(config, TrainableTokens) and config.targets is None):
        return config
    layer: Any = None
    with suppress(AttributeError, NotImplementedError):
        layer = unwrapped(module).get_input_embeddings()  # type: ignore[operator]
    path = next((path for path, other in library_modules(module) if other is layer and path), None)
    if path is None:
        raise AdapterError(
            f"trainable_token_indices: {type(module).__name__} does not say which its input embedding is: expected its "
            "path, as in zoo.LoRA(trainable_token_indices={'embed_tokens': [7, 8]}), got none"
        )
    if isinstance(config, TrainableTokens):
        return replace(config, targets=(path,))
    return replace(config, trainable_token_indices={path: config.trainable_token_indices})


def with_rows_of(config: Adapter, updates: Mapping[str, Update], groups: list[TiedGroup]) -> Adapter:
    """Return the configuration with the rows that the updates of a file have; it may hold more than were named.

    Args:
        config: As the file says.
        updates: As the file has them.
        groups: The module's parameters.
    """
    rows = {name: one.indices for name, one in updates.items() if isinstance(one, RowsUpdate)}
    if rows == {name: indices for name, (_, indices) in row_groups(groups, config).items()}:
        return config
    paths = {name.removesuffix(".weight"): indices for name, indices in rows.items()}
    if isinstance(config, LoRA):
        return replace(config, trainable_token_indices=paths)
    if isinstance(config, TrainableTokens) and len(set(paths.values())) == 1:
        return replace(config, token_indices=next(iter(paths.values())), targets=tuple(paths))
    raise AdapterError(f"it holds rows of {', '.join(paths)} that its configuration does not name")


def _wanted(config: Adapter) -> list[tuple[Targets, tuple[int, ...]]]:
    if isinstance(config, TrainableTokens):
        rows: tuple[int, ...] = config.token_indices  # type: ignore[assignment]
        targets = config.targets if isinstance(config.targets, tuple) else (config.targets,)
        whole = isinstance(config.targets, str)
        return [(target if whole else (target,), rows) for target in targets if target]  # type: ignore[misc]
    return [((name,), rows) for name, rows in (getattr(config, "trainable_token_indices", None) or {}).items()]


def row_groups(groups: list[TiedGroup], config: Adapter) -> dict[str, tuple[TiedGroup, tuple[int, ...]]]:
    """Return the weights of which the adapter trains rows, by their first name, each with its rows.

    Args:
        groups: The module's parameters.
        config: The adapter's configuration, from `with_names`.

    Raises:
        AdapterError: a name matches no table, or a row is not in it.
    """
    found: dict[str, tuple[TiedGroup, tuple[int, ...]]] = {}
    tables = [group for group in groups if len(group.value.shape) == 2 and group.value.dtype.is_floating_point]
    paths = {ref.path for group in tables for ref in group.refs if ref.attribute == "weight"}
    for targets, indices in _wanted(config):
        chosen = [
            group
            for group in tables
            if any(ref.attribute == "weight" and ref.path and matches(ref.path, targets) for ref in group.refs)
        ]
        if not chosen:
            name = targets if isinstance(targets, str) else targets[0]  # type: ignore[index]
            raise AdapterError(
                f"trainable_token_indices: {name!r} matches no layer with a table.{did_you_mean(name, paths)}"
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
