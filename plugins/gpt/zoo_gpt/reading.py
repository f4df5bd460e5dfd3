"""A user's data as rows of tokens for a causal language model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from zoo import DataError, ZooError
from zoo.data import corpus as kinds
from zoo.data.corpus import Conversation, Corpus, read_corpus
from zoo.data.documents import Document
from zoo.data.report import Report
from zoo.data.text import beginning
from zoo.data.token_rows import PADDING, TOKENS, padded
from zoo.data.windows import continuous, cut, in_windows, one_in_each, packed
from zoo.integrations import tokens
from zoo.integrations.chat import PLAIN_SAID, conversation_tokens, template_of
from zoo.integrations.packed import keeps_apart, takes
from zoo.integrations.tokens import Sequenced
from zoo.integrations.transformers import check_vocabulary, tokenizer_of

from .model import context_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from zoo import Model

WINDOW = 512  # tokens in a window of prose or documents, if the model's context is not shorter
LONGEST = 1024  # tokens of a conversation or a pair, which is cut there, if the model's context is not shorter
HELD_OUT = 2**16  # bytes of held-out text that `evaluate` reads at most


@dataclass(frozen=True)
class Read:
    """Rows of tokens.

    Attributes:
        tensors: "input_ids" int64 [n, t], and what belongs to them.
        size: bytes of text that are predicted; None where that is not known.
        report: what was taken of the data.
    """

    tensors: dict[str, Tensor]
    size: int | None
    report: Report


def read(model: Model, data: Any, split: str, *, most: int | None = None) -> Read:
    """Return one split of a user's data.

    Args:
        model: the model.
        data: what `read_corpus` takes.
        split: "train" or "test".
        most: bytes of text to read, from its beginning; prose then begins behind the beginning-of-text token, where
            there is one. None: all.

    Raises:
        DataError: the data cannot be used.
    """
    used = [TOKENS, "labels", *(name for name in PADDING if name not in (TOKENS, "labels"))]
    used = [name for name in used if name == "labels" or takes(model.module, name)]
    found = read_corpus(data, split=split, takes=used, called=model.entry.name)
    if found.kind == kinds.TOKEN_ROWS:
        return _given(model, found)
    if found.kind == kinds.PROSE:
        return _prose(model, found, most)
    if found.kind == kinds.DOCUMENTS:
        return _documents(model, found, most)
    return _said(model, found, split, most)


def _given(model: Model, found: Corpus) -> Read:
    tensors = padded(found.items, _filler(model))
    ids = tensors[TOKENS]
    if ids.shape[1] < 2:
        raise DataError(f"expected token ids as an integer Tensor [n, t] with t > 1, got {tuple(ids.shape)}")
    if ids.shape[1] > context_of(model):
        raise DataError(
            f"expected windows of at most {context_of(model)} tokens, the model's context, got {ids.shape[1]}"
        )
    _check(model, int(ids.max()))
    if tensors.get("labels", ids).ndim != 2:
        raise DataError(f"{model.entry.name} predicts tokens: expected labels for each token, got one for each row")
    if "labels" not in tensors:
        mask = tensors.get("attention_mask")
        tensors["labels"] = ids if mask is None else ids.masked_fill(mask == 0, tokens.IGNORED)
    if not bool((tensors["labels"][:, 1:] != tokens.IGNORED).any(1).all()):
        raise DataError("expected a label to predict in every row, got one with -100 alone: leave such rows out")
    return Read(tensors, None, found.report)


def _prose(model: Model, found: Corpus, most: int | None) -> Read:
    tokenizer = tokenizer_of(model.entry)
    text = "\n\n".join(found.items if most is None else beginning(found.items, most))
    ids = tokens.plain_tokens(tokenizer, text)
    _check(model, max(ids, default=0))
    size = len(text.encode())
    if most is not None and tokenizer.bos_token_id is not None:
        ids = [tokenizer.bos_token_id, *ids]
    elif ids:
        size -= len(tokenizer.decode(ids[:1]).encode())
    return Read(continuous(ids, min(WINDOW, context_of(model)), tokens.filler(tokenizer)), size, found.report)


def _documents(model: Model, found: Corpus, most: int | None) -> Read:
    tokenizer = tokenizer_of(model.entry)
    documents: list[Document] = list(found.items)
    if most is not None:
        documents = documents[: len(list(beginning((document.text for document in documents), most)))]
    made = list(tokens.document_tokens(tokenizer, [(document.text, document.ends) for document in documents]))
    ends = bool(tokens.end_tokens(tokenizer))
    size = sum(len(document.text.encode()) + (ends and document.ends) for document in documents)
    # Without a beginning-of-text the first token of a document is not predicted.
    size -= sum(len(tokenizer.decode(ids[:1]).encode()) for ids, labels in made if labels[0] != tokens.IGNORED)
    limit = min(WINDOW, context_of(model))
    longer = sum(len(ids) > limit for ids, _ in made)
    notes = []
    if longer:
        notes.append(f"{longer} of {len(made)} documents are longer than {limit} tokens: they are in several windows")
    if tokenizer.eos_token_id is None:
        notes.append("the tokenizer has no end-of-text token: the model does not learn to stop")
    rows = in_windows(made, limit)
    if not rows:
        raise DataError(f"{found.report.origin}: expected documents of at least two tokens, got shorter ones")
    _check(model, max(max(row.ids) for row in rows))
    if len(rows) == 1 or not keeps_apart(model.module):
        tensors = one_in_each(rows, tokens.filler(tokenizer))
        if len(rows) > 1:
            notes.append("each document is in a row of its own: the model cannot keep documents in one window apart")
    else:
        tensors = packed(rows, limit, tokens.filler(tokenizer))
    return Read(tensors, size, replace(found.report, notes=(*found.report.notes, *notes)))


def _said(model: Model, found: Corpus, split: str, most: int | None) -> Read:
    tokenizer = tokenizer_of(model.entry)
    notes = []
    items = found.items
    if most is not None:
        items = items[: len(list(beginning(map(_words, items), most)))]
    if found.kind == kinds.CONVERSATIONS and template_of(tokenizer) is None:
        notes.append(PLAIN_SAID)
    if tokenizer.eos_token_id is None:
        notes.append("the tokenizer has no end-of-text token: the model does not learn to stop")
    refused: list[DataError] = []
    made = list(encoded(tokenizer, items, refused))
    limit = min(LONGEST, context_of(model))
    rows, longer, empty = cut(made, limit)
    if refused:
        notes.append(f"{len(refused)} of {len(items)} {found.kind} of {split} are left out: {refused[0]}")
    if longer:
        notes.append(f"{longer} of {len(items)} {found.kind} of {split} are cut at {limit} tokens")
    if empty:
        notes.append(
            f"{empty} of {len(items)} {found.kind} of {split} are left out: nothing to predict in their first {limit} "
            "tokens"
        )
    if not rows:
        why = refused[0] if refused else notes[-1]
        raise DataError(f"{found.report.origin}: none of its {found.kind} can be used: {why}")
    _check(model, max(max(row.ids) for row in rows))
    return Read(one_in_each(rows, _filler(model)), None, replace(found.report, notes=(*found.report.notes, *notes)))


def encoded(tokenizer: PreTrainedTokenizerBase, items: Sequence[Any], refused: list[DataError]) -> Iterator[Sequenced]:
    """Yield the tokens of conversations and pairs; why one cannot be written goes to `refused`."""
    for item in items:
        if isinstance(item, Conversation):
            try:
                yield conversation_tokens(tokenizer, item.messages, item.first)
            except DataError as error:
                refused.append(error)
        else:
            yield tokens.pair_tokens(tokenizer, *item)


def _words(item: Any) -> str:
    if isinstance(item, Conversation):
        return "".join(str(message["content"]) for message in item.messages)
    return "".join(item)


def _filler(model: Model) -> int:
    try:
        return tokens.filler(tokenizer_of(model.entry))
    except ZooError:  # token ids need no tokenizer
        return 0


def _check(model: Model, highest: int) -> None:
    check_vocabulary(model.entry, model.module.config.vocab_size, highest)
