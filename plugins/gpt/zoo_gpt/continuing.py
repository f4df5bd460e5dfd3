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

READ_AT_ONCE = 4096  # tokens of new prompts in one step, with their padding
READ_BESIDE = 256  # the same while other texts are continued, which wait for it; as many of one longer prompt, too


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


@dataclass(eq=False)
class _Prompt:
    """What is read of a request before its texts begin, once for all of them."""

    talk: _Talk
    rows: list[_Row]
    ids: list[int]
    at: int = 0  # tokens that are read
    read: RowsCache | None = None


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
        self._waiting: list[_Prompt] = []  # not read yet, or not all of it
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
        if not rows:  # a long prompt is not read to its end
            return iter(())
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
        self._waiting = [prompt for prompt in self._waiting if prompt.talk.key != key]
        self._only([row for row in self._rows if row.talk.key != key])

    def _begin(self, talk: _Talk) -> None:
        at = len(talk.rows) // talk.n
        ids, limit = talk.asked.starts[at], talk.asked.limits[at]
        for _ in range(talk.n):
            pieces = Pieces(self._tokenizer, ids, talk.stop, talk.asked.answers)
            talk.rows.append(_Row(talk, len(talk.rows), pieces, limit))
        self._waiting.append(_Prompt(talk, talk.now(), ids))

    def _logits(self) -> tuple[torch.Tensor, list[_Row]]:
        """Return what follows each text [b, v], those of `_waiting` that were read now behind the others."""
        parts = []
        if self._rows:
            assert self._cache is not None
            adapters = [row.talk.adapter for row in self._rows]
            logits, self._cache = self._reader.go_on(self._cache, [[row.last] for row in self._rows], adapters)
            parts.append(logits)
        most = READ_BESIDE if self._rows else READ_AT_ONCE
        for logits, read, rows in (*self._read_whole(most), *self._read_piece(most)):
            parts.append(logits)
            self._cache = read if self._cache is None else self._cache.joined(read)
            self._rows = self._rows + rows
        return torch.cat(parts) if parts else torch.zeros(0, 1), self._rows

    def _read_whole(self, most: int) -> Iterator[tuple[torch.Tensor, RowsCache, list[_Row]]]:
        """Read the next short prompts together, at most so many tokens; those that are equal once."""
        chosen: dict[tuple[Hashable, ...], list[_Prompt]] = {}
        longest = 0
        for prompt in [one for one in self._waiting if one.read is None and len(one.ids) <= most]:
            longest = max(longest, len(prompt.ids))
            key = (repr(prompt.talk.adapter), *prompt.ids)
            if longest * len({*chosen, key}) > most:
                break
            chosen.setdefault(key, []).append(prompt)
        if not chosen:
            return
        groups = [chosen[key] for key in sorted(chosen, key=lambda key: str(key[0]))]
        logits, read = self._reader.begin([one[0].ids for one in groups], [one[0].talk.adapter for one in groups])
        yield self._each_row(logits, read, groups)

    def _read_piece(self, most: int) -> Iterator[tuple[torch.Tensor, RowsCache, list[_Row]]]:
        """Read so many tokens of the first long prompt, which is there when all are read."""
        prompt = next((one for one in self._waiting if len(one.ids) > most or one.read is not None), None)
        if prompt is None:
            return
        piece = prompt.ids[prompt.at : prompt.at + most]
        adapters = [prompt.talk.adapter]
        if prompt.read is None:
            logits, prompt.read = self._reader.begin([piece], adapters)
        else:
            logits, prompt.read = self._reader.go_on(prompt.read, [piece], adapters)
        prompt.at += len(piece)
        if prompt.at == len(prompt.ids):
            yield self._each_row(logits, prompt.read, [[prompt]])

    def _each_row(
        self, logits: torch.Tensor, read: RowsCache, groups: list[list[_Prompt]]
    ) -> tuple[torch.Tensor, RowsCache, list[_Row]]:
        """Return what was read of each group of equal prompts for each row of theirs, which are no longer waiting."""
        rows = [(at, row) for at, group in enumerate(groups) for prompt in group for row in prompt.rows]
        places = [at for at, _ in rows]
        gone = {id(prompt) for group in groups for prompt in group}
        self._waiting = [prompt for prompt in self._waiting if id(prompt) not in gone]
        if places != list(range(len(groups))):
            logits, read = logits[places], read.only(places)
        return logits, read, [row for _, row in rows]

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
