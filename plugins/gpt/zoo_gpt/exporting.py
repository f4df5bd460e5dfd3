"""The call that an exported file makes: token ids in, scores of the next tokens out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from zoo import ForwardPass

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zoo import Model

LENGTH = 14  # tokens in a row, beside one for each row


def forward_pass(model: Model, count: int, generator: torch.Generator) -> ForwardPass:
    """Return the call with rows of token ids without padding."""
    ids = torch.randint(model.module.config.vocab_size, (count, LENGTH + count), generator=generator)
    return ForwardPass({"input_ids": ids}, logits)


def logits(module: nn.Module, input_ids: Tensor) -> dict[str, Tensor]:
    """Return the logits [n, t, v] of the token after each, or [n, classes] of a model with a head for classes."""
    return {"logits": module(input_ids=input_ids, use_cache=False).logits}
