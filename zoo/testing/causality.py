"""Whether a language model sees the tokens that it is to predict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def moved_by_last_token(module: nn.Module, vocabulary: int, *, tokens: int = 12, seed: int = 0) -> tuple[float, float]:
    """Return by how much another last token moves the logits before it, and those at its own place.

    Of a causal model the first is 0, up to rounding, and the second is not.

    Args:
        module: takes `input_ids` [b, t] and returns `logits` [b, t, v]; in evaluation mode.
        vocabulary: token ids are below it, and from 3 on, where special tokens rarely are.
        tokens: t.
        seed: of the token ids.

    >>> import torch
    >>> from types import SimpleNamespace
    >>> class Last(torch.nn.Module):
    ...     def forward(self, input_ids):
    ...         return SimpleNamespace(logits=torch.nn.functional.one_hot(input_ids, 9).float())
    >>> moved_by_last_token(Last(), 9)
    (0.0, 1.0)
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    one = torch.randint(3, vocabulary, (2, tokens), generator=generator)
    other = one.clone()
    other[:, -1] = 3 + (other[:, -1] - 3 + 1) % (vocabulary - 3)
    arguments: dict[str, Any] = {"use_cache": False} if hasattr(getattr(module, "config", None), "use_cache") else {}
    with torch.no_grad():
        moved = (module(input_ids=one, **arguments).logits - module(input_ids=other, **arguments).logits).abs()
    return moved[:, :-1].max().item(), moved[:, -1].max().item()
