"""Vectors of texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.integrations.embedding import mean_states

from .model import context_of, tokenizer_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from zoo import Model


def embed(model: Model, texts: Sequence[str]) -> Tensor:
    """Return float32 [n, d]: the mean of the body's last hidden states over the tokens of each of n texts."""
    return mean_states(model.module, tokenizer_of(model), texts, context_of(model), model.entry.name)
