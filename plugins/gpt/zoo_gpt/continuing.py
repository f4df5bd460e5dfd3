"""Continuous batching: many texts of many requests, each under its own adapter, a token of each at a step."""

from __future__ import annotations

import secrets
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from zoo import Samples
from zoo.integrations.transformers import tokenizer_of
from zoo.plugin.engines import Ended, Prepared, Said

from .choosing import FOLLOWED, Way, drawn, scores
from .model import is_classifier
from .pieces import Pieces
from .rows_cache import Reader, RowsCache
from .sampling import Asked, asked, ends

if TYPE_CHECKING:
    from zoo import Model, SampleRequest

READ_AT_ONCE = 4096  # tokens of new prompts in one step, with their padding; at least one prompt


def engine(model: Model, room: int) -> Continuing | None:
    """Return what continues many texts at once; None for a head, and for a model whose texts are not kept apart."""
    module: Any = model.module
    if is_classifier(module) or not hasattr(module, "generation_config"):
        return None
    if set(module.generation_config.to_diff_dict()) - FOLLOWED:
        return None  # generate does something else with the logits
    with torch.no_grad():
        reader = Reader(model)
        return Continuing(model, room, reader) if reader.keeps_apart() else None


@dataclass(eq=False)
class _Row:
    """One text that is continued."""

    talk: _Talk
    index: int  # of the request's samples
    pieces: Pieces
    left: int  # tokens that may follow
    reason: str = ""

    @property
    def last(self) -> int:
        return self.pieces.ids[-1]


@dataclass(eq=False)
class _Talk:
    """A request that is worked on: the texts of one prompt at a time, as they share random numbers, in order."""

    key: Hashable
    adapter: str | Mapping[str, float] | None
    asked: Asked
    n: int
    stop: tuple[str, ...]
    way: Way
    generator: torch.Generator
    rows: list[_Row] = field(default_factory=list)  # those of all prompts so far
    said: int = 0  # tokens

    def now(self) -> list[_Row]:
        """Return the rows of the prompt that is worked on."""
        return self.rows[-self.n :]


class Continuing:
    """The engine of `zoo.plugin.engines`.

    Args:
        model: the model.
        room: texts at once.
        reader: reads texts with the model.
    """

    def __init__(self, model: Model, room: int, reader: Reader) -> None:
        self._model, self._room, self._reader = model, room, reader
        self._tokenizer = tokenizer_of(model.entry)
        self._ends = set(ends(self._tokenizer, model.module.generation_config) or ())  # type: ignore[attr-defined]
        self._waiting: list[_Row] = []  # not read yet
        self._rows: list[_Row] = []  # as in `_cache`
        self._cache: RowsCache | None = None

    def prepare(self, request: SampleRequest, stop: tuple[str, ...] = ()) -> Prepared | None:
        """Return the request's tokens and settings; None for a beam search, and more texts than there is room for."""
        wanted = asked(self._model, request)
        if wanted.options["num_beams"] > 1 or request.n > self._room:
            return None
        texts = request.n * len(wanted.starts)
        begins = "" if wanted.answers else str(self._tokenizer.decode(wanted.starts[0], skip_special_tokens=True))
        return Prepared(request.n, (request, wanted, stop), texts, begins)

    def admit(self, key: Hashable, prepared: Prepared, adapter: str | Mapping[str, float] | None) -> None:
        """Take a request; its prompt is read in the next step."""
        request, wanted, stop = prepared.plan
        options = wanted.options
        way = Way(
            options["do_sample"],
            *(options[name] for name in ("temperature", "top_k", "top_p")),
            *(options[name] for name in ("repetition_penalty", "no_repeat_ngram_size")),
        )
        seed = secrets.randbits(63) if request.seed is None else request.seed % 2**64
        generator = torch.Generator(self._model.device).manual_seed(seed)
        talk = _Talk(key, adapter, wanted, request.n, stop, way, generator)
        self._begin(talk)

    def step(self) -> Iterator[Said | Ended]:
        """Read new prompts, add a token to every text, and yield what is new."""
        with torch.no_grad():
            logits, rows = self._logits()
        chosen = self._chosen(logits, rows)
        events: list[Said | Ended] = []
        for row, token in zip(rows, chosen, strict=True):
            events += self._add(row, token)
        self._only([row for row in rows if not row.reason])
        for talk in dict.fromkeys(row.talk for row in rows):
            if all(row.reason for row in talk.now()):
                events += self._next_prompt(talk)
        return iter(events)

    def drop(self, key: Hashable) -> None:
        """Forget a request."""
        self._waiting = [row for row in self._waiting if row.talk.key != key]
        self._only([row for row in self._rows if row.talk.key != key])

    def _begin(self, talk: _Talk) -> None:
        at = len(talk.rows) // talk.n
        ids, limit = talk.asked.starts[at], talk.asked.limits[at]
        for _ in range(talk.n):
            pieces = Pieces(self._tokenizer, ids, talk.stop, talk.asked.answers)
            talk.rows.append(_Row(talk, len(talk.rows), pieces, limit))
        self._waiting += talk.now()

    def _logits(self) -> tuple[torch.Tensor, list[_Row]]:
        """Return what follows each text [b, v], those of `_waiting` that were read now behind the others."""
        parts = []
        if self._rows:
            assert self._cache is not None
            adapters = [row.talk.adapter for row in self._rows]
            logits, self._cache = self._reader.go_on(self._cache, [row.last for row in self._rows], adapters)
            parts.append(logits)
        new = self._readable()
        if new:
            logits, read = self._reader.begin([row.pieces.ids for row in new], [row.talk.adapter for row in new])
            parts.append(logits)
            self._cache = read if self._cache is None else self._cache.joined(read)
            self._rows = self._rows + new
            self._waiting = [row for row in self._waiting if row not in new]
        return torch.cat(parts) if parts else torch.zeros(0, 1), self._rows

    def _readable(self) -> list[_Row]:
        """Return waiting rows to read now: the next prompts that are not too much together, all rows of each."""
        new: list[_Row] = []
        longest = 0
        for row in self._waiting:
            longest = max(longest, len(row.pieces.ids))
            if new and row.talk is not new[-1].talk and longest * (len(new) + row.talk.n) > READ_AT_ONCE:
                break
            new.append(row)
        return sorted(new, key=lambda row: repr(row.talk.adapter))

    def _chosen(self, logits: torch.Tensor, rows: list[_Row]) -> list[int]:
        """Return the next token of each text; a request's are drawn together, those that have ended too, as alone."""
        found = scores(logits, [row.talk.way for row in rows], [row.pieces.ids for row in rows])
        likeliest: list[int] = found.argmax(-1).tolist()
        places = {row: number for number, row in enumerate(rows)}
        for talk in dict.fromkeys(row.talk for row in rows):
            if talk.way.sampled:
                own = found.new_zeros(talk.n, found.shape[1])
                here = [(at, places[row]) for at, row in enumerate(talk.now()) if row in places]
                for at, place in here:
                    own[at] = found[place]
                tokens = drawn(own, talk.generator).tolist()
                for at, place in here:
                    likeliest[place] = tokens[at]
        return likeliest

    def _add(self, row: _Row, token: int) -> Iterator[Said]:
        text = row.pieces.add(token)
        row.left -= 1
        row.talk.said += 1
        if token in self._ends or row.pieces.stopped:
            row.reason = "stop"
        elif not row.left:
            row.reason = "length"
        if row.reason:
            text += row.pieces.end()
        if text:
            yield Said(row.talk.key, text, row.index)

    def _only(self, rows: list[_Row]) -> None:
        """Keep these of the rows, those of one adapter side by side."""
        wanted = sorted(rows, key=lambda row: repr(row.talk.adapter))
        if wanted == self._rows:
            return
        places = {row: number for number, row in enumerate(self._rows)}
        assert self._cache is not None
        self._cache = self._cache.only([places[row] for row in wanted]) if wanted else None
        self._rows = wanted

    def _next_prompt(self, talk: _Talk) -> Iterator[Ended]:
        if len(talk.rows) < talk.n * len(talk.asked.starts):
            self._begin(talk)
            return
        prompts = sum(len(ids) for ids in talk.asked.starts)
        yield Ended(
            talk.key,
            Samples([self._sample(row) for row in talk.rows], "text", talk.asked.captions),
            tuple(row.pieces.text for row in talk.rows),
            tuple(row.reason for row in talk.rows),
            {"prompt_tokens": prompts, "completion_tokens": talk.said},
        )

    def _sample(self, row: _Row) -> str:
        """Return a text as `sample` returns it."""
        if row.talk.asked.answers:
            return row.pieces.text
        given = row.talk.asked.starts[row.index // row.talk.n]
        if row.pieces.stopped:
            return str(self._tokenizer.decode(given, skip_special_tokens=True)) + row.pieces.text
        return str(self._tokenizer.decode(row.pieces.ids, skip_special_tokens=True))
