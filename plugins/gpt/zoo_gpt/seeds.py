"""A seed for each text of a batch that transformers' generate draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class OwnSeeds(TorchFunctionMode):
    """A block in which `torch.multinomial` draws each row from a generator of its own.

    That is what generate draws tokens with, and beams of one text, which are one row. A row is drawn as if it were
    alone, so a text is that of a batch of one from its seed.

    Args:
        generators: one for each text, on the device.
    """

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        self._generators = list(generators)

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in (torch.multinomial, Tensor.multinomial):
            return func(*args, **(kwargs or {}))
        shares, *others = args
        rows = zip(shares.split(1), self._generators, strict=True)
        return torch.cat([func(row, *others, **{**(kwargs or {}), "generator": own}) for row, own in rows])
