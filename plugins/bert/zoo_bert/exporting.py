"""The call that an exported file makes: token ids and their mask in, scores out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from zoo import ForwardPass
from zoo.integrations.packed import takes

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zoo import Model

LENGTH = 14  # tokens in a row, beside one for each row


def forward_pass(model: Model, count: int, generator: torch.Generator) -> ForwardPass:
    """Return the call with rows of token ids, of which the last ones are padding."""
    shape = (count, LENGTH + count)
    inputs = {"input_ids": torch.randint(model.module.config.vocab_size, shape, generator=generator)}
    if takes(model.module, "attention_mask"):
        lengths = torch.randint(2, shape[1] + 1, (count, 1), generator=generator)
        inputs["attention_mask"] = (torch.arange(shape[1]) < lengths).long()
    return ForwardPass(inputs, scores)


def scores(module: nn.Module, **inputs: Tensor) -> dict[str, Tensor]:
    """Return the logits, [n, t, v] of tokens or [n, classes]; of a body without a head its last states [n, t, d]."""
    found = module(**inputs)
    return {name: found[name] for name in ("logits", "last_hidden_state") if name in found}
