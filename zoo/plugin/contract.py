"""The protocol of a loaded model, so that nothing below `zoo.model` imports it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import nn

    from zoo.catalog.entry import Entry


class LoadedModel(Protocol):
    """A model as hooks get it. At run time it is always a `zoo.Model`.

    Attributes:
        module: the library's own `nn.Module`.
        entry: where the model came from.
        device: where its weights are.
        dtype: the type it computes in.
    """

    @property
    def module(self) -> nn.Module: ...

    @property
    def entry(self) -> Entry: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...
