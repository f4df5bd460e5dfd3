"""Names that layers had in earlier releases of their library. Libraries are used only if the model is theirs."""

from __future__ import annotations

from torch import nn


def old_names(module: nn.Module) -> dict[str, str]:
    """Return earlier path → today's path of the layers that their library has renamed."""
    return {}
