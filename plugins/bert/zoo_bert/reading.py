"""A user's data as windows of tokens for a masked language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from zoo import DataError, ZooError
from zoo.data.corpus import DOCUMENTS, PROSE, TOKEN_ROWS, Corpus, read_corpus
from zoo.data.report import record
from zoo.data.text import beginning
from zoo.data.token_rows import IGNORED, PADDING, TOKENS, padded
from zoo.integrations.packed import takes
from zoo.integrations.tokens import around, plain_tokens

from .model import check_vocabulary, context_of, tokenizer_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from zoo import Model

# Notation of the shapes: n windows, t tokens in a window.
WINDOW = 512  # tokens in a training or evaluation window, if the model's context is not shorter


class Vocabulary(NamedTuple):
    """The token ids that matter to masking.

    Attributes:
        mask: the mask's.
        filler: the padding's.
        ordinary: [o], of all tokens that are not special.
        before: the tokens that the tokenizer puts before a text.
        after: those behind it.
    """

    mask: int
    filler: int
    ordinary: Tensor
    before: list[int]
    after: list[int]


def vocabulary_of(model: Model, tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    """Return which tokens of a tokenizer are ordinary, and what encloses a text.

    Raises:
        ZooError: the tokenizer has no mask.
    """
    if tokenizer.mask_token_id is None:
        raise ZooError(f"{model.entry.name}: expected a tokenizer with a mask token, got one without")
    size = min(len(tokenizer), model.module.config.vocab_size)
    special = set(tokenizer.all_special_ids)
    ordinary = torch.tensor([token for token in range(size) if token not in special])
    before, after = around(tokenizer)
    filler = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.mask_token_id
    return Vocabulary(tokenizer.mask_token_id, filler, ordinary, before, after)


def read(model: Model, data: Any, split: str, vocabulary: Vocabulary, *, most: int | None = None) -> dict[str, Tensor]:
    """Return one split of a user's data, and record what was taken: "input_ids" and "attention_mask" int64 [n, t].

    Token ids bring what they came with, such as "labels" and "token_type_ids".

    Args:
        model: the model.
        data: what `read_corpus` takes.
        split: "train" or "test".
        vocabulary: the tokens that matter to masking.
        most: bytes of text to read, from its beginning; None: all.

    Raises:
        DataError: the data cannot be used.
    """
    used = [name for name in PADDING if name == "labels" or takes(model.module, name)]
    kinds = (PROSE, DOCUMENTS, TOKEN_ROWS)
    found = read_corpus(data, split=split, kinds=kinds, takes=used, called=model.entry.name)
    if found.kind == TOKEN_ROWS:
        record(found.report)
        return _given(model, found, vocabulary)
    texts: Sequence[str] = found.items if found.kind == PROSE else [document.text for document in found.items]
    texts = list(texts if most is None else beginning(texts, most))
    if found.kind == PROSE:
        texts = ["\n\n".join(texts)]
    tokenizer = tokenizer_of(model)
    rows = [plain_tokens(tokenizer, text) for text in texts]
    check_vocabulary(model, max((max(ids, default=0) for ids in rows), default=0))
    limit = min(WINDOW, context_of(model))
    room = limit - len(vocabulary.before) - len(vocabulary.after)
    longer = sum(len(ids) > room for ids in rows)
    notes = []
    if longer and found.kind == DOCUMENTS:
        notes.append(f"{longer} of {len(rows)} documents are longer than {limit} tokens: they are in several windows")
    record(replace(found.report, notes=(*found.report.notes, *notes)))
    return _windows(rows, room, vocabulary)


def _given(model: Model, found: Corpus, vocabulary: Vocabulary) -> dict[str, Tensor]:
    tensors = padded(found.items, vocabulary.filler)
    ids = tensors[TOKENS]
    if ids.shape[1] > context_of(model):
        raise DataError(
            f"expected windows of at most {context_of(model)} tokens, the model's context, got {ids.shape[1]}"
        )
    check_vocabulary(model, int(ids.max()))
    tensors.setdefault("attention_mask", (ids != vocabulary.filler).long())
    labels = tensors.get("labels")
    if labels is not None and labels.ndim != 2:
        raise DataError(
            f"{model.entry.name} fills masks: expected labels for each token, got one for each row; for classes load "
            "the model with classes=[…]"
        )
    if labels is None:
        wanted = torch.isin(ids, vocabulary.ordinary) & (tensors["attention_mask"] == 1)
    else:
        wanted = labels != IGNORED
    if not wanted.any(1).all():
        raise DataError("expected a token to predict in every window, got one of special tokens alone")
    return tensors


def _windows(texts: Sequence[list[int]], room: int, vocabulary: Vocabulary) -> dict[str, Tensor]:
    """Return texts as windows of at most `room` tokens, one after another, each between the tokenizer's own ends."""
    if room < 1 or not any(texts):
        raise DataError("expected a text of at least one token, got none: give a longer text")
    rows = [
        vocabulary.before + ids[at : at + room] + vocabulary.after for ids in texts for at in range(0, len(ids), room)
    ]
    inputs = torch.full((len(rows), max(map(len, rows))), vocabulary.filler)
    attention = torch.zeros_like(inputs)
    for row, tokens in enumerate(rows):
        inputs[row, : len(tokens)] = torch.tensor(tokens)
        attention[row, : len(tokens)] = 1
    return {"input_ids": inputs, "attention_mask": attention}
