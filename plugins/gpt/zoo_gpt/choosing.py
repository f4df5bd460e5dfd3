"""The next token of each of many texts, as transformers' generate chooses it for each alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

# Settings of generation_config.json that are followed, or that say nothing about which token is chosen.
FOLLOWED = {"do_sample", "temperature", "top_k", "top_p", "num_beams", "repetition_penalty", "no_repeat_ngram_size"}
FOLLOWED |= {"max_length", "max_new_tokens", "bos_token_id", "eos_token_id", "pad_token_id", "use_cache"}
FOLLOWED |= {"transformers_version", "_from_model_config", "output_attentions", "output_hidden_states", "return_dict"}


@dataclass(frozen=True)
class Way:
    """How tokens are chosen.

    Attributes:
        sampled: whether they are drawn; else the likeliest is taken.
        temperature: as generate's, and so the others.
        top_k: 0 for none.
        top_p: 1 for none.
        repetition_penalty: 1 for none.
        no_repeat_ngram_size: 0 for none.
    """

    sampled: bool
    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float
    no_repeat_ngram_size: int

    def of_text(self) -> list[Any]:
        """Return transformers' processors that look at the text, in generate's order."""
        from transformers import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

        found: list[Any] = []
        if self.repetition_penalty != 1.0:
            found.append(RepetitionPenaltyLogitsProcessor(self.repetition_penalty))
        if self.no_repeat_ngram_size > 0:
            found.append(NoRepeatNGramLogitsProcessor(self.no_repeat_ngram_size))
        return found

    def of_logits(self) -> list[Any]:
        """Return transformers' processors that look at the logits alone, in generate's order."""
        from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

        found: list[Any] = []
        if self.sampled and self.temperature != 1.0:
            found.append(TemperatureLogitsWarper(self.temperature))
        if self.sampled and self.top_k:
            found.append(TopKLogitsWarper(self.top_k))
        if self.sampled and self.top_p < 1.0:
            found.append(TopPLogitsWarper(self.top_p))
        return found


def scores(logits: Tensor, ways: Sequence[Way], texts: Sequence[list[int]]) -> Tensor:
    """Return the logits as the way of each text changes them, [b, v] → [b, v]; they are written over.

    Args:
        logits: of what follows each text.
        ways: of each text.
        texts: the tokens so far, of each text.
    """
    together: dict[Way, list[int]] = {}
    for row, way in enumerate(ways):
        for processor in way.of_text():
            ids = torch.tensor(texts[row], device=logits.device)[None]  # [1, t]
            logits[row : row + 1] = processor(ids, logits[row : row + 1])
        together.setdefault(way, []).append(row)
    for way, rows in together.items():
        processors = way.of_logits()
        if processors:
            index = torch.tensor(rows, device=logits.device)
            part = logits.index_select(0, index)
            for processor in processors:
                part = processor(None, part)
            logits.index_copy_(0, index, part)
    return logits


def drawn(scores: Tensor, generator: torch.Generator) -> Tensor:
    """Return a token for each row, int64 [b], from scores [b, v]."""
    return torch.multinomial(torch.softmax(scores, -1), 1, generator=generator)[:, 0]
