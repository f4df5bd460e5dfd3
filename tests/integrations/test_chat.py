"""Chat templates: which tokens are the assistant's, by the template's own marks and without them; ends of texts."""

from __future__ import annotations

import re

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from zoo import DataError
from zoo.integrations.chat import conversation_tokens, question_tokens
from zoo.integrations.tokens import around, document_tokens, pair_tokens, prompt_tokens

CHATML = (
    "{% for m in messages %}<|start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|end|>"
    "{% endgeneration %}{% else %}{{ m.content }}<|end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
UNMARKED = re.sub(r"{% (end)?generation %}", "", CHATML)
TALK = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "hi there"},
    {"role": "assistant", "content": "hello  you"},
    {"role": "user", "content": "and?"},
    {"role": "assistant", "content": "bye"},
]


def tokenizer(template: str | None = None, *, appends: bool = False, begins: bool = False) -> PreTrainedTokenizerFast:
    """Letters as tokens, with special tokens of the usual kinds."""
    special = ["<s>", "</s>", "<pad>", "<|start|>", "<|end|>"]
    letters = [*special, *pre_tokenizers.ByteLevel.alphabet()]
    made = Tokenizer(models.BPE(vocab={letter: at for at, letter in enumerate(letters)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    if appends or begins:
        single = f"{'<s> ' if begins else ''}$A{' </s>' if appends else ''}"
        made.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", 0), ("</s>", 1)])
    found = PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<|start|>", "<|end|>"],
    )
    found.chat_template = template
    return found


def counted(made: PreTrainedTokenizerFast, found) -> str:
    return made.decode([token for token in found.labels if token != -100])


@pytest.mark.parametrize("template", [CHATML, UNMARKED])
def test_answers_and_their_ends_count(template: str) -> None:
    made = tokenizer(template)
    found = conversation_tokens(made, TALK)
    assert made.decode(found.ids) == made.apply_chat_template(TALK, tokenize=False)
    assert counted(made, found) == "hello  you<|end|>bye<|end|>"
    assert all(label in (-100, token) for token, label in zip(*found, strict=True))


@pytest.mark.parametrize("template", [CHATML, UNMARKED, None])
def test_a_question_is_the_beginning_of_its_conversation(template: str | None) -> None:
    made = tokenizer(template)
    found = conversation_tokens(made, TALK)
    for number in (2, 4):
        asked = question_tokens(made, TALK[:number])
        assert found.ids[: len(asked)] == asked
        assert found.labels[len(asked)] != -100
        assert found.labels[len(asked) - 1] == -100


def test_answers_before_the_first_that_counts_do_not() -> None:
    for template in (CHATML, UNMARKED):
        made = tokenizer(template)
        assert counted(made, conversation_tokens(made, TALK, 3)) == "bye<|end|>"


def test_without_a_template_a_plain_one_ends_answers() -> None:
    made = tokenizer()
    found = conversation_tokens(made, TALK)
    text = "<s>Be short.\n\nUser: hi there\nAssistant: hello  you</s>\nUser: and?\nAssistant: bye</s>\n"
    assert made.decode(found.ids) == text
    assert counted(made, found) == " hello  you</s> bye</s>"


def test_a_template_that_ends_no_answer_gets_an_end_of_text() -> None:
    made = tokenizer("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
                     "{% if add_generation_prompt %}assistant: {% endif %}")  # fmt: skip
    found = conversation_tokens(made, TALK)
    assert counted(made, found) == "hello  youbye</s>"


def test_a_template_that_rewrites_the_past_is_refused() -> None:
    """As those do that drop earlier reasoning."""
    made = tokenizer(
        "{% for m in messages %}{{ m.role }}: {{ m.content if loop.last else m.content[:2] }}\n{% endfor %}"
    )
    with pytest.raises(DataError, match="one answer each"):
        conversation_tokens(made, TALK)


def test_a_template_that_refuses_messages_is_one_clear_line() -> None:
    made = tokenizer("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(DataError, match="refuses a conversation: roles must alternate"):
        conversation_tokens(made, TALK)


@pytest.mark.parametrize("begins", [False, True])
@pytest.mark.parametrize("appends", [False, True])
def test_a_prompt_is_sent_without_what_is_put_behind_it(begins: bool, appends: bool) -> None:
    made = tokenizer(appends=appends, begins=begins)
    assert around(made) == ([0] * begins, [1] * appends)
    assert made.decode(prompt_tokens(made, "abc")) == ("<s>abc" if begins else "abc")
    pair = pair_tokens(made, "ab:", "cd")
    assert made.decode(pair.ids) == ("<s>ab:cd</s>" if begins else "ab:cd</s>")
    assert counted(made, pair) == "cd</s>"
    [whole, part] = document_tokens(made, [("abc", True), ("de", False)])
    assert made.decode(whole.ids) == "<s>abc</s>"
    assert counted(made, whole) == "abc</s>"
    assert made.decode(part.ids) == "<s>de"
