"""Conversations as a tokenizer's chat template writes them, and which of their tokens are the assistant's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from zoo.errors import DataError, one_line
from zoo.integrations.tokens import IGNORED, Sequenced, encoded, end_tokens, plain_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# For a tokenizer that has no template: "User: …", a line, "Assistant: …" and the end-of-text.
PLAIN = (
    "{{ bos_token or '' }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ 'Assistant:' }}{% generation %}{{ ' ' + message['content'] + (eos_token or '') }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ message['role'] | capitalize + ': ' + message['content'] + '\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
PLAIN_SAID = 'the tokenizer has no chat template: messages are "User: …" and "Assistant: …", a line each'
_GENERATION = re.compile(r"{%-?\s*generation\s*-?%}")

Message = dict[str, Any]


def template_of(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the template by which a tokenizer writes a conversation; None: it has none of its own, PLAIN counts."""
    own = getattr(tokenizer, "chat_template", None)
    if isinstance(own, dict):
        own = own.get("default")
    return own or None


def question_tokens(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Return the tokens of a conversation up to where the assistant is to answer.

    Raises:
        DataError: the template refuses the messages.
    """
    return plain_tokens(tokenizer, _written(tokenizer, messages, answer=True))


def conversation_tokens(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], first: int = 0) -> Sequenced:
    """Return a conversation's tokens, of which those that the assistant says are to be predicted.

    The template says which they are (`{% generation %}`). Where it does not, the conversation is written up to each
    answer and behind it, and what is between is the answer.

    Args:
        tokenizer: the model's.
        messages: of "role" and "content".
        first: the number of the first message whose answer counts.

    Raises:
        DataError: the template refuses the messages, or writes a message otherwise once others follow, so that its
            answers cannot be told.
    """
    if first == 0 and _GENERATION.search(template_of(tokenizer) or PLAIN) and tokenizer.is_fast:
        made = _applied(tokenizer, messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
        ids, said = made["input_ids"], made["assistant_masks"]
    else:
        ids, said = _by_prefixes(tokenizer, messages, first)
    ids, said = list(ids), [bool(one) for one in said]
    end = _missing_end(tokenizer, ids, said, messages)
    ids, said = [*ids, *end], [*said, *[True] * len(end)]
    return Sequenced(ids, [token if one else IGNORED for token, one in zip(ids, said, strict=True)])


def _by_prefixes(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], first: int
) -> tuple[list[int], list[bool]]:
    whole = _written(tokenizer, messages)
    spans = []
    for number, message in enumerate(messages):
        if message["role"] != "assistant" or number < first:
            continue
        asked = _written(tokenizer, messages[:number], answer=True)
        answered = _written(tokenizer, messages[: number + 1])
        if not (answered.startswith(asked) and whole.startswith(answered)):
            raise DataError(
                "the tokenizer's chat template writes earlier messages otherwise once others follow, so that the "
                "assistant's tokens cannot be told: give conversations of one answer each, or a template with "
                "{% generation %} around the answers"
            )
        spans.append((len(asked), len(asked) + len(answered[len(asked) :].rstrip())))
    if tokenizer.is_fast:
        made = encoded(tokenizer, whole, add_special_tokens=False, verbose=False, return_offsets_mapping=True)
        places = made["offset_mapping"]
        said = [any(start < last and end > begin for begin, last in spans) for start, end in places]
        return made["input_ids"], said
    ids = plain_tokens(tokenizer, whole)
    said = [False] * len(ids)
    for begin, last in spans:
        before, until = (plain_tokens(tokenizer, whole[:place]) for place in (begin, last))
        if ids[: len(before)] != before or ids[: len(until)] != until:
            raise DataError(
                "the tokenizer joins an answer's first or last token with what is beside it, so that the assistant's "
                "tokens cannot be told: a tokenizer.json beside the weights says where each token begins"
            )
        said[len(before) : len(until)] = [True] * (len(until) - len(before))
    return ids, said


def _missing_end(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], said: Sequence[bool], messages: Sequence[Message]
) -> list[int]:
    """Return the end-of-text, if a conversation ends with an answer behind which the template puts no special token."""
    if messages[-1]["role"] != "assistant":
        return []
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    last = next((at for at in range(len(ids) - 1, -1, -1) if said[at]), None)
    ended = last is not None and any(token in special for token in ids[last : last + 3])
    return [] if ended else end_tokens(tokenizer)


def _written(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, answer: bool = False) -> str:
    return str(_applied(tokenizer, messages, tokenize=False, add_generation_prompt=answer))


def _applied(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], **options: Any) -> Any:
    template = None if template_of(tokenizer) else PLAIN
    try:
        return tokenizer.apply_chat_template(list(messages), chat_template=template, **options)
    except Exception as error:  # whatever a template raises
        raise DataError(f"the tokenizer's chat template refuses a conversation: {one_line(error, 200)}") from error
