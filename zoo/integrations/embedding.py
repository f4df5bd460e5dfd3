"""Vectors of texts: the mean of what a transformer's body says of their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from zoo.errors import ZooError
from zoo.integrations.packed import takes
from zoo.integrations.tokens import encoded, filler

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

_CHUNK = 16  # texts at once


def mean_states(
    module: nn.Module, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], context: int, name: str
) -> Tensor:
    """Return float32 [n, d]: of each text the mean over its tokens of the body's last hidden states.

    The tokens are those that the tokenizer makes, with what it puts around a text.

    Args:
        module: of transformers, with any head or none.
        tokenizer: its tokenizer.
        texts: n of them.
        context: the longest text that the module takes, in tokens.
        name: the model's, in errors.

    Raises:
        ZooError: a text has no token, or too many.
    """
    import torch

    rows = [encoded(tokenizer, text, verbose=False)["input_ids"] for text in texts]
    for number, row in enumerate(rows):
        if not 0 < len(row) <= context:
            raise ZooError(f"{name}: expected texts of 1 to {context} tokens, text {number} has {len(row)}: cut it")
    body: Any = getattr(module, "base_model", module)
    device = next(module.parameters()).device
    found = []
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        shape = (len(part), max(map(len, part)))
        ids = torch.full(shape, filler(tokenizer), device=device)  # [b, t]
        mask = torch.zeros(shape, dtype=torch.int64, device=device)
        for place, row in enumerate(part):
            ids[place, : len(row)] = torch.tensor(row)
            mask[place, : len(row)] = 1
        more = {"attention_mask": mask} if takes(module, "attention_mask") else {}
        states = body(input_ids=ids, **more)[0].float()  # [b, t, d]
        shares = mask[..., None] / mask.sum(1)[:, None, None]  # [b, t, 1]
        found.append((states * shares).sum(1).cpu())
    return torch.cat(found)
