"""What the loop needs of a model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import Parameter


class Tunable(Protocol):
    """The part of a model that the loop uses; `zoo.Model` has it."""

    @property
    def module(self) -> nn.Module:
        """The module that trains."""

    @property
    def device(self) -> torch.device:
        """Where its weights are."""

    def loss(self, batch: Any) -> Tensor:
        """Return the mean loss of a batch."""

    def count(self, batch: Any) -> float:
        """Return what the loss of a batch is the mean of."""

    def evaluate(self, data: Any = None) -> dict[str, float]:
        """Return metrics on held-out data."""

    def batches(self, data: Any = None, *, batch_size: int, split: str = "train", seed: int = 0) -> Iterable[Any]:
        """Return endless batches."""

    def trainable_parameters(self) -> Iterable[tuple[str, Parameter]]:
        """Return what trains."""

    def train(self) -> Any:
        """Set training mode."""
