"""The arguments of OpenAI's text endpoints: those that are used, those that change nothing, and no others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from zoo.errors import did_you_mean
from zoo.serving.http.abilities import Abilities
from zoo.serving.http.errors import Refusal
from zoo.serving.http.options import taken

STOPS = 16  # texts at which one request ends
# Notes of the client's own: the answer would be the same without them.
HARMLESS = ("user", "metadata", "safety_identifier", "prompt_cache_key", "service_tier")
# Taken with the value that changes nothing, refused by name with any other.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
}


class StreamOptions(BaseModel):
    """What a stream has beside its pieces."""

    model_config = ConfigDict(extra="forbid", strict=True)
    include_usage: bool = False
    include_obfuscation: bool = Field(False, description="Random padding: taken, and none is sent.")


class TextBody(BaseModel):
    """The arguments of both endpoints. Options that the model declares, such as `top_k`, may be given as well."""

    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=())
    model: str | None = Field(None, description="The base's name or an adapter's; by default the base.")
    max_tokens: int | None = Field(None, ge=1, description="Of the new text; by default the model's own number.")
    temperature: float | None = Field(None, ge=0, le=2, description="0: the likeliest token each time.")
    top_p: float | None = Field(None, ge=0, le=1)
    n: int | None = Field(None, ge=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**64, description="Equal seeds give equal texts.")
    stop: str | list[str] | None = Field(None, description="Texts at which the new text ends, without them.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts at which the new text ends.

        Raises:
            Refusal: there are too many, or an empty one.
        """
        found = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if len(found) > STOPS or not all(0 < len(one) <= 1000 for one in found):
            message = f"stop: expected at most {STOPS} texts, none empty, got {len(found)}"
            raise Refusal(400, message, param="stop", code="invalid_value")
        return found

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with the counted tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    def limit(self) -> int | None:
        """Return how many tokens the new text may have."""
        return self.max_tokens

    def settings(self, abilities: Abilities, inputs: tuple[str, ...]) -> dict[str, Any]:
        """Return the sampling options of a request, under the names that the model's architecture has for them.

        Args:
            abilities: of the model.
            inputs: names of options that are the text itself, which have arguments of their own.

        Raises:
            Refusal: an argument would be ignored, or its value cannot be.
        """
        if self.stream_options is not None and not self.stream:
            raise Refusal(400, "stream_options: only with stream", param="stream_options", code="invalid_value")
        found: dict[str, Any] = {}
        if self.limit() is not None:
            found["max_new_tokens"] = self.limit()
        if self.temperature is not None:
            draws = "do_sample" in abilities.options
            found |= {"do_sample": self.temperature > 0} if draws else {}
            found |= {"temperature": self.temperature} if self.temperature > 0 or not draws else {}
        if self.top_p is not None:
            found["top_p"] = self.top_p
        renamed = {"max_new_tokens": "max_tokens", "do_sample": "temperature"}
        for name in found:
            if name not in abilities.options:
                said = renamed.get(name, name)
                raise Refusal(400, f"{said}: {abilities.name} has no such setting", param=said, code="unsupported")
        more = _more(self.model_extra or {}, abilities, (*inputs, *found), tuple(type(self).model_fields))
        return taken(abilities, {**found, **more}, where="")


class CompletionBody(TextBody):
    """The arguments of `/v1/completions`."""

    prompt: str | list[str] | None = Field(None, description="The text to continue, or several; null: from nothing.")
    echo: bool | None = Field(None, description="Whether the answer begins with the prompt.")

    @property
    def prompts(self) -> list[str]:
        """The texts to continue."""
        return [self.prompt] if isinstance(self.prompt, str) else list(self.prompt or [])


class ChatBody(TextBody):
    """The arguments of `/v1/chat/completions`."""

    messages: list[dict[str, Any]] = Field(min_length=1, description='Of {"role", "content"}: the conversation.')
    max_completion_tokens: int | None = Field(None, ge=1, description="As max_tokens.")

    def limit(self) -> int | None:
        """Return how many tokens the answer may have.

        Raises:
            Refusal: two arguments say so.
        """
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            message = "expected max_tokens or max_completion_tokens, got both"
            raise Refusal(400, message, param="max_tokens", code="invalid_value")
        return self.max_completion_tokens if self.max_tokens is None else self.max_tokens


def _more(
    given: Mapping[str, Any], abilities: Abilities, used: tuple[str, ...], named: tuple[str, ...]
) -> dict[str, Any]:
    """Return those of the other arguments that are options of the model; refuse what would be ignored."""
    found = {}
    for name, value in given.items():
        if name in HARMLESS or value is None:
            continue
        if name in abilities.options and name not in used:
            found[name] = value
        elif name in NEUTRAL:
            if not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in NEUTRAL[name]):
                message = f"{name}: it is not supported, and would be ignored: leave it out"
                raise Refusal(400, message, param=name, code="unsupported")
        elif name in used:
            raise Refusal(400, f"{name}: another argument says so already", param=name, code="unsupported")
        else:
            known = [*named, *(one for one in abilities.options if one not in used)]
            near = did_you_mean(name, known)
            message = f"{name}: no such argument, it would be ignored.{near} There are {', '.join(known)}"
            raise Refusal(400, message, param=name, code="unknown_argument")
    return found
