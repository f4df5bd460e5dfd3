"""Texts as token ids: what a tokenizer puts around a text, where a document ends, and what a model is to predict."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.errors import CheckpointError, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # label of a token that is not to be predicted
_AT_ONCE = 1000  # texts that the tokenizer gets together


class Sequenced(NamedTuple):
    """Token ids [t] of one text, and the labels [t] of those that are to be predicted, IGNORED elsewhere."""

    ids: list[int]
    labels: list[int]


def encoded(tokenizer: PreTrainedTokenizerBase, texts: Any, **options: Any) -> Any:
    """Return what a tokenizer makes of a text or of several, as it returns it.

    Raises:
        CheckpointError: its file has an expression that takes too long to match, or another fault that stops it.
    """
    try:
        return tokenizer(texts, **options)
    except BaseException as error:  # tokenizers' panics are no Exceptions
        if type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(f"the model's tokenizer.json cannot read this text: {one_line(error, 200)}") from None


def around(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Return the tokens that a tokenizer puts before a text, and those behind it."""
    plain = encoded(tokenizer, "a", add_special_tokens=False)["input_ids"]
    full = encoded(tokenizer, "a")["input_ids"]
    start = next((at for at in range(len(full)) if full[at : at + len(plain)] == plain), 0)
    return full[:start], full[start + len(plain) :]


def prompt_tokens(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Return the tokens of a text that is to be continued: what a tokenizer puts behind a text is left out."""
    before, _ = around(tokenizer)
    return before + plain_tokens(tokenizer, prompt)


def plain_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the tokens of a text and nothing around it."""
    # verbose=False: a text may be longer than the context before it is cut.
    return encoded(tokenizer, text, add_special_tokens=False, verbose=False)["input_ids"]


def end_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the end-of-text token; nothing where the tokenizer has none."""
    return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]


def filler(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token that fills a place where there is no text."""
    return next((token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id) if token is not None), 0)


def document_tokens(tokenizer: PreTrainedTokenizerBase, documents: Sequence[tuple[str, bool]]) -> Iterable[Sequenced]:
    """Yield documents as tokens, all to be predicted: behind the beginning-of-text, where there is one.

    Args:
        tokenizer: the model's.
        documents: (text, whether it ends there), in which case the end-of-text token follows.
    """
    first = around(tokenizer)[0] or ([] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id])
    for start in range(0, len(documents), _AT_ONCE):
        part = documents[start : start + _AT_ONCE]
        texts = [text for text, _ in part]
        found = encoded(tokenizer, texts, add_special_tokens=False, verbose=False)["input_ids"]
        for ids, (_, ends) in zip(found, part, strict=True):
            tail = end_tokens(tokenizer) if ends else []
            yield Sequenced([*first, *ids, *tail], [*[IGNORED] * len(first), *ids, *tail])


def pair_tokens(tokenizer: PreTrainedTokenizerBase, prompt: str, completion: str) -> Sequenced:
    """Return a prompt with its completion and the end-of-text, of which the prompt is not to be predicted."""
    given = prompt_tokens(tokenizer, prompt)
    whole = prompt_tokens(tokenizer, prompt + completion)
    # As when sampling: the prompt's tokens do not depend on what follows.
    wanted = whole[len(given) :] if whole[: len(given)] == given else plain_tokens(tokenizer, completion)
    wanted = [*wanted, *end_tokens(tokenizer)]
    return Sequenced([*given, *wanted], [*[IGNORED] * len(given), *wanted])
