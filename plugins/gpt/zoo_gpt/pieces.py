"""A text that grows token by token: what may be shown of it already, and where it stops."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BEFORE = 6  # tokens of the prompt with which the first ones are decoded, as some tokenizers write a text's first apart
_HALF = "\ufffd"  # at the end of what is decoded: the rest of a character is still to come


class Pieces:
    """What is said behind a prompt.

    Args:
        tokenizer: the model's.
        prompt: its tokens.
        stop: texts at which it stops, without them.
        stripped: whether white space at its beginning and its end does not belong to it.

    Attributes:
        ids: all tokens, the prompt's too.
        text: all that was said.
        stopped: whether a stop text has come; `text` ends before it.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, prompt: list[int], stop: tuple[str, ...], stripped: bool
    ) -> None:
        self.ids, self.text, self.stopped = list(prompt), "", False
        self._tokenizer, self._stop, self._stripped = tokenizer, tuple(filter(None, stop)), stripped
        self._from, self._read = max(0, len(prompt) - _BEFORE), len(prompt)  # decoded together; what is in `text`
        self._shown = 0

    def add(self, token: int) -> str:
        """Add a token; returns the text that may be shown now."""
        self.ids.append(token)
        known = self._decoded(self._from, self._read)
        now = self._decoded(self._from, len(self.ids))
        if len(now) > len(known) and not now.endswith(_HALF):
            self._take(now[len(known) :])
            self._from, self._read = self._read, len(self.ids)
        return self._shown_until(len(self.text) if self.stopped else len(self.text) - self._held())

    def end(self) -> str:
        """Return the rest of the text, when no token comes any more."""
        if not self.stopped:
            known = self._decoded(self._from, self._read)
            self._take(self._decoded(self._from, len(self.ids))[len(known) :])
        if self._stripped:
            self.text = self.text.rstrip()
        return self._shown_until(len(self.text))

    def _take(self, new: str) -> None:
        before = len(self.text)
        self.text += new
        if self._stripped and not before:
            self.text = self.text.lstrip()
        first = max(0, before - max(map(len, self._stop), default=0))
        found = min((at for one in self._stop if (at := self.text.find(one, first)) >= 0), default=None)
        if found is not None:
            self.text, self.stopped = self.text[:found], True
            if self._stripped:
                self.text = self.text.rstrip()

    def _held(self) -> int:
        """Return how much of the end of the text may be the beginning of a stop text, or white space at the end."""
        longest = 0
        for one in self._stop:
            for size in range(min(len(one) - 1, len(self.text)), longest, -1):
                if self.text.endswith(one[:size]):
                    longest = size
                    break
        if not self._stripped:
            return longest
        rest = self.text[: len(self.text) - longest]
        return longest + len(rest) - len(rest.rstrip())

    def _shown_until(self, end: int) -> str:
        start, self._shown = self._shown, max(self._shown, end)
        return self.text[start : self._shown]

    def _decoded(self, first: int, last: int) -> str:
        return str(self._tokenizer.decode(self.ids[first:last], skip_special_tokens=True))
