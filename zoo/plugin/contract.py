"""What zoo's own code knows of a loaded model: a small protocol, so that nothing below `zoo.model` imports it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import nn

    from zoo.catalog.entry import Entry


class LoadedModel(Protocol):
    """A model as the plugin hooks get it; at run time it is always a `zoo.Model`.

    module: the library's own `nn.Module`. entry: where it came from. device: where its weights are. dtype: the type
    it computes in.
    """

    @property
    def module(self) -> nn.Module: ...

    @property
    def entry(self) -> Entry: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...
