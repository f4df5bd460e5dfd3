"""Conversations, as OpenAI's and ShareGPT's files have them, as lists of {"role", "content"}."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zoo.bounded.json_text import json_value
from zoo.errors import DataError

ROLES = ("system", "user", "assistant", "tool")
# What ShareGPT and others call the roles.
_ROLES = {
    "human": "user",
    "person": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "ai": "assistant",
    "model": "assistant",
    "developer": "system",
    "function": "tool",
    "observation": "tool",
}
_NAMES = {"role": ("role", "from"), "content": ("content", "value", "text")}

Message = dict[str, Any]


def as_messages(value: Any) -> list[Message]:
    """Return a conversation as messages of "role" and "content", with what else a message has, such as "tool_calls".

    Args:
        value: a list of {"role", "content"} or {"from", "value"}; a content may be a list of {"type": "text", "text"};
            or such a list as JSON, or one text, which a user says.

    Raises:
        DataError: it is none, a role is not known, or a content is no text.
    """
    if isinstance(value, str):
        found = _json_list(value)
        value = [{"role": "user", "content": value}] if found is None else found
    if isinstance(value, Mapping) and any(name in value for name in ("messages", "conversations")):
        value = value.get("messages") or value.get("conversations")
    if not isinstance(value, Sequence) or isinstance(value, bytes) or not value:
        raise DataError(f"expected a list of messages, got {_shown(value)}")
    return [_message(one) for one in value]


def answered(messages: Sequence[Message], first: int = 0) -> bool:
    """Return whether there is an answer of the assistant in messages from number `first` on."""
    return any(message["role"] == "assistant" for message in messages[first:])


def _message(one: Any) -> Message:
    if not isinstance(one, Mapping):
        raise DataError(f'expected a message as {{"role": …, "content": …}}, got {_shown(one)}')
    one = {name: value for name, value in one.items() if value is not None}  # as tables fill what a row does not have
    found = {what: next((name for name in names if name in one), None) for what, names in _NAMES.items()}
    role = one.get(found["role"]) if found["role"] else None
    if not isinstance(role, str):
        raise DataError(f'expected a message with a "role" (or "from"), got {_shown(one)}')
    known = _ROLES.get(role.lower(), role.lower())
    if known not in ROLES:
        raise DataError(f"expected a role of {', '.join(ROLES)}, got {role!r}")
    more = {name: value for name, value in one.items() if name not in found.values()}
    content = one.get(found["content"]) if found["content"] else None
    if content is None and not more:
        raise DataError(f'expected a message with a "content" (or "value"), got {_shown(one)}')
    return {"role": known, "content": "" if content is None else _text(content), **more}


def _text(content: Any) -> str:
    """Return a content as one text; parts that are no text are refused."""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence) and not isinstance(content, bytes):
        parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
        if all(isinstance(part, str) for part in parts):
            return "".join(str(part) for part in parts)
        kinds = sorted({str(part.get("type")) for part in content if isinstance(part, Mapping)} - {"text"})
        raise DataError(f"expected a message of text, got one with {' and '.join(kinds) or _shown(content)}")
    raise DataError(f"expected a message's content as text, got {_shown(content)}")


def _json_list(text: str) -> list[Any] | None:
    if not text.lstrip().startswith("["):
        return None
    try:
        found = json_value(text)
    except ValueError:
        return None
    return found if isinstance(found, list) else None


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}…"
