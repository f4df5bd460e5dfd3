"""Conversations in the forms that files have them."""

from __future__ import annotations

from typing import Any

import pytest

import zoo
from zoo import DataError
from zoo.data.conversations import as_messages
from zoo.data.corpus import CONVERSATIONS, Conversation, read_corpus

SAME = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]


@pytest.mark.parametrize(
    "given",
    [
        SAME,
        [{"from": "system", "value": "s"}, {"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}],
        [{"role": "system", "content": [{"type": "text", "text": "s"}]}, *SAME[1:]],
        '[{"role": "system", "content": "s"}, {"from": "human", "value": "u"}, {"role": "model", "content": "a"}]',
        {"messages": SAME},
        [{**message, "weight": None} for message in SAME],
    ],
)
def test_every_form_is_the_same(given: Any) -> None:
    assert as_messages(given) == SAME


def test_one_text_is_what_a_user_says() -> None:
    assert as_messages("Hello [there]") == [{"role": "user", "content": "Hello [there]"}]


def test_what_else_a_message_has_stays() -> None:
    call = {"role": "assistant", "tool_calls": [{"name": "f"}]}
    assert as_messages([call]) == [{**call, "content": ""}]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "list of messages"),
        (7, "list of messages"),
        (["hi"], "expected a message as"),
        ([{"content": "x"}], '"role"'),
        ([{"role": "narrator", "content": "x"}], "got 'narrator'"),
        ([{"role": "user"}], '"content"'),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], "image_url"),
        ([{"role": "user", "content": 3}], "as text"),
    ],
)
def test_what_is_no_conversation_is_one_clear_line(given: Any, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        as_messages(given)
    assert "\n" not in str(caught.value)


def test_conversations_that_cannot_be_used_are_skipped_and_said() -> None:
    rows = [{"messages": SAME}, {"messages": SAME[:2]}, {"messages": [{"role": "owl", "content": "x"}]}]
    found = read_corpus(zoo.Data(rows, split="all"), split="train")
    assert found.items == [Conversation(SAME)]
    assert [name for name, _ in found.report.skipped] == ["row 1", "row 2"]
    assert found.report.skipped[0][1] == "it has no answer of the assistant"
    assert "got 'owl'" in found.report.skipped[1][1]


def test_pairs_of_messages_are_conversations_of_which_the_completion_counts() -> None:
    rows = [{"prompt": SAME, "completion": [{"role": "assistant", "content": "b"}]}]
    found = read_corpus(zoo.Data(rows, split="all"), split="train")
    assert found.kind == CONVERSATIONS
    assert found.items == [Conversation([*SAME, {"role": "assistant", "content": "b"}], 3)]
