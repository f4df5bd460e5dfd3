"""What a model answers to the held-out prompts of pairs and conversations, and what it should."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from zoo import DataError
from zoo.data import corpus as kinds
from zoo.data.corpus import read_corpus
from zoo.integrations.tokens import IGNORED
from zoo.integrations.transformers import tokenizer_of

from .model import context_of
from .reading import encoded
from .sampling import greedy

if TYPE_CHECKING:
    from zoo import Model

ANSWERED = 64  # prompts at most, unless the user says
_MORE = 16  # tokens that an answer may have beyond twice its reference's


def answers(model: Model, data: Any, most: int) -> tuple[list[str], list[str]]:
    """Return what the model answers and the references, of at most `most` prompts: the last answer of each example.

    Raises:
        DataError: the data have no prompts with answers, or none fits the model's context.
    """
    found = read_corpus(data, split="test", called=model.entry.name)
    if found.kind not in (kinds.CONVERSATIONS, kinds.PAIRS):
        raise DataError(
            f"{found.report.origin}: metrics of answers need prompts with references: columns prompt and "
            "completion, or conversations"
        )
    tokenizer = tokenizer_of(model.entry)
    said, references = [], []
    for row in encoded(tokenizer, found.items[:most], []):
        last = max((at for at, label in enumerate(row.labels) if label != IGNORED), default=-1)
        first = last
        while first > 0 and row.labels[first - 1] != IGNORED:
            first -= 1
        wanted = row.ids[first : last + 1]
        limit = min(2 * len(wanted) + _MORE, context_of(model) - first)
        if last < 0 or first < 1 or limit < len(wanted):
            continue
        ids = greedy(model, torch.tensor([row.ids[:first]], device=model.device), limit)
        said.append(tokenizer.decode(ids, skip_special_tokens=True).strip())
        references.append(tokenizer.decode(wanted, skip_special_tokens=True).strip())
    if not said:
        raise DataError(f"{found.report.origin}: none of its answers fits {model.entry.name}'s context")
    return said, references
