"""Texts for a head of transformers: batches of tokens with labels, the loss, metrics, and what a text is.

Encoders and decoders have the same heads, so every plugin of theirs uses this. Notation of the shapes: b texts in a
batch, t tokens of each, c classes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from zoo.data.classes import are_names
from zoo.data.labelled_texts import labelled_texts
from zoo.data.labelled_tokens import has_tokens, labelled_tokens
from zoo.data.sources import read_table
from zoo.data.spec import Data, as_data
from zoo.data.stream import stream
from zoo.data.table import Table
from zoo.data.task_labels import IGNORED, token_labels
from zoo.data.task_scores import task_loss, task_metrics
from zoo.data.text import given_texts
from zoo.data.token_rows import PADDING, trimmed
from zoo.errors import DataError, ZooError
from zoo.integrations import tokens
from zoo.integrations.packed import takes
from zoo.integrations.transformers import check_vocabulary
from zoo.integrations.transformers_heads import names_of, task_of
from zoo.samples.samples import Samples
from zoo.torch_state.spread import spread

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from zoo.metrics.figures import Figures
    from zoo.plugin.contract import LoadedModel
    from zoo.plugin.requests import BatchRequest, SampleRequest

WINDOW = 512  # tokens of a text at most, if the model's context is not shorter
SHOWN = 5  # classes that a sample names at most
_CHUNK = 16


@dataclass(frozen=True)
class TextTask:
    """What a model with a head on texts is to do, and how it reads them.

    Attributes:
        model: the model.
        tokenizer: its tokenizer.
        context: the longest text that it takes, in tokens.
    """

    model: LoadedModel
    tokenizer: PreTrainedTokenizerBase
    context: int

    @property
    def task(self) -> str:
        """One of `zoo.catalog.head.TASKS`."""
        return task_of(self.model.module) or "classify"

    @property
    def takes(self) -> list[str]:
        """What the module's forward uses of a row of token ids."""
        return [name for name in PADDING if name != "labels" and takes(self.model.module, name)]

    @property
    def names(self) -> list[str]:
        """The classes' names, in order."""
        return names_of(self.model.module)

    def batches(self, data: Any, request: BatchRequest) -> Iterable[dict[str, Tensor]]:
        """Return batches of "input_ids" and "attention_mask" int64 [b, t], and "labels".

        Labels are int64 [b] of classes, float32 [b, c] of numbers or of several classes, int64 [b, t] of tokens, with
        IGNORED for special tokens and all but the first token of a word. Longer texts are cut, which is said.

        Args:
            data: as `zoo.data.labelled_texts.labelled_texts` takes it.
            request: batch size, split and seed.

        Raises:
            DataError: the data cannot be used.
        """
        tensors = self._read(data, request.split)
        return stream(tensors, request).map(lambda batch, _: trimmed(batch))

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the mean loss of a batch: a scalar, see `zoo.data.task_scores.task_loss`.

        Raises:
            DataError: the batch has no labels.
        """
        if "labels" not in batch:
            raise DataError(f"{self.model.entry.name} learns labels: a batch needs them, got {', '.join(batch)}")
        return task_loss(self.task, self.logits(batch), batch["labels"])

    def count(self, batch: dict[str, Tensor]) -> int:
        """Return what the loss of a batch is the mean of: texts, or words with a tag."""
        return int((batch["labels"] != IGNORED).sum()) if self.task == "tokens" else len(batch["input_ids"])

    def evaluate(self, data: Any) -> Figures:
        """Return the metrics on held-out texts, see `zoo.data.task_scores.task_metrics`."""
        import torch

        def predicted(part: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            logits = self.logits({name: tensor.to(self.model.device) for name, tensor in part.items()}).cpu()
            if self.task != "tokens":
                return logits, part["labels"]
            found, labels = [], []
            for row, tags in zip(logits, part["labels"], strict=True):
                counted = tags != IGNORED
                found.append(torch.cat([row[counted], row[:1]]))
                labels.append(torch.cat([tags[counted], tags.new_tensor([IGNORED])]))
            return torch.cat(found), torch.cat(labels)

        parts = spread(_parts(self._read(data, "test")), predicted)
        scores, labels = map(torch.cat, zip(*parts, strict=True))
        return task_metrics(self.task, scores, labels, self.names, "texts")

    def sample(self, request: SampleRequest) -> Samples:
        """Return `request.n` times what each text is, captioned by the text.

        That is the probability of each class, its numbers ("stars 3.42"), or every word with its tag ("Ada B-PER
        wrote O"). Options: text or texts. Nothing is drawn, so the seed changes nothing.

        Raises:
            ZooError: there is no text.
        """
        import torch

        texts = given_texts(request.take(text=None, texts=None), "text", "texts")
        if texts is None:
            raise ZooError("expected texts to classify, got none: give text= or texts=")
        words = [text.split() for text in texts] if self.task == "tokens" else None
        tensors = self.encode(texts if words is None else words)
        found: list[str] = []
        scores: list[Tensor] = []
        for part in _parts(tensors):
            logits = self.logits({name: tensor.to(self.model.device) for name, tensor in part.items()}).cpu()
            if words is None:
                scores.append(logits)
                continue
            for row, places in zip(logits, part["words"], strict=True):
                found.append(self._tagged(words[len(found)], row, places.tolist()))
        captions = [text for text in texts for _ in range(request.n)]
        if words is None and self.task != "regress":
            return self._classes(torch.cat(scores).repeat_interleave(request.n, 0), captions)
        found = found if words is not None else [self._numbers(row) for row in torch.cat(scores)]
        return Samples([line for line in found for _ in range(request.n)], "text", captions)

    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        """Return logits float32 [b, c], of tokens [b, t, c]."""
        others = {"labels", "words"}
        if "attention_mask" not in self.takes:  # FNet's: its library's own padding is read too
            others.add("attention_mask")
        inputs = {name: tensor for name, tensor in batch.items() if name not in others}
        for name in inputs:
            if name not in self.takes:
                raise DataError(
                    f"{self.model.entry.name} does not use {name!r}, it would be ignored: leave it out of the batch"
                )
        return self.model.module(**inputs).logits.float()

    def encode(
        self,
        texts: Sequence[Any],
        tags: Sequence[Sequence[int]] | None = None,
        seconds: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Return "input_ids" and "attention_mask" int64 [n, t] of texts, or of lists of words.

        Of lists of words there is also "words" int64 [n, t]: the word that each token begins, else IGNORED; of pairs of
        texts "token_type_ids", where the model has them.

        Args:
            texts: n of them.
            tags: a class for each word; "labels" int64 [n, t] then hold the first token's of every word.
            seconds: the second text of each, where they are pairs.
        """
        import torch

        words = bool(texts) and not isinstance(texts[0], str)
        encoded = self._tokens([" ".join(text) for text in texts] if words else list(texts), words, seconds)
        rows = encoded["input_ids"]
        filler = self._filler()
        rows = [row or [filler] for row in rows]  # a decoder's tokenizer makes nothing of an empty text
        check_vocabulary(self.model.entry, self.model.module.config.vocab_size, max(map(max, rows), default=0))  # type: ignore[arg-type, union-attr]
        shape = (len(rows), max(map(len, rows), default=0))
        made = {"input_ids": torch.full(shape, filler), "attention_mask": torch.zeros(shape, dtype=torch.int64)}
        for row, ids in enumerate(rows):
            made["input_ids"][row, : len(ids)] = torch.tensor(ids)
            made["attention_mask"][row, : len(ids)] = 1
        if seconds is not None and "token_type_ids" in encoded and "token_type_ids" in self.takes:
            made["token_type_ids"] = torch.zeros(shape, dtype=torch.int64)
            for row, kinds in enumerate(encoded["token_type_ids"]):
                made["token_type_ids"][row, : len(kinds)] = torch.tensor(kinds)
        if words:
            made["words"] = torch.full(shape, IGNORED)
            for row, (text, offsets) in enumerate(zip(texts, encoded["offset_mapping"], strict=True)):
                begun = token_labels(range(len(text)), _words(text, offsets), {at: at for at in range(len(text))})
                made["words"][row, : len(begun)] = torch.tensor(begun)
        if tags is not None:
            places = made.pop("words")  # [n, t]
            made["labels"] = torch.full(shape, IGNORED)
            for row, own in enumerate(tags):
                counted = places[row] != IGNORED
                made["labels"][row, counted] = torch.tensor(own)[places[row, counted]]
        return made

    def _tokens(self, texts: list[str], words: bool, seconds: Sequence[str] | None = None) -> Any:
        if words and not self.tokenizer.is_fast:
            raise DataError(
                f"{self.model.entry.name}: tags of words need a tokenizer that says where its tokens begin: expected "
                "a tokenizer.json beside the weights"
            )
        limit = min(WINDOW, self.context)
        found = tokens.encoded(
            self.tokenizer,
            texts,
            text_pair=None if seconds is None else list(seconds),
            truncation=True,
            max_length=limit,
            return_offsets_mapping=words,
            verbose=False,
        )
        cut = sum(bool(one.overflowing) for one in found.encodings or ())
        if cut:
            logging.getLogger("zoo").warning(
                "%s: %d of %d texts are longer than %d tokens and are cut",
                self.model.entry.name,
                cut,
                len(texts),
                limit,
            )
        return found

    def _filler(self) -> int:
        """Return the token of padding: the one that the module knows, by which a decoder finds a text's last token."""
        own = getattr(self.model.module.config, "pad_token_id", None)
        places = (own, self.tokenizer.pad_token_id, self.tokenizer.eos_token_id)
        return next((token for token in places if isinstance(token, int) and token >= 0), 0)

    def _read(self, data: Any, split: str) -> dict[str, Tensor]:
        given = as_data(data)
        if given.source is not None:
            table = read_table(given, kind="text")
            given = replace(given, source=table)
            if has_tokens(table):
                return self._given(table, given, split)
        found = labelled_texts(given, split, task=self.task, names=self.names, model=self.model.entry.name)
        if isinstance(found.labels, list):
            return self.encode(found.texts, found.labels)
        return {**self.encode(found.texts, seconds=found.seconds), "labels": found.labels}

    def _given(self, table: Table, given: Data, split: str) -> dict[str, Tensor]:
        """Return token ids that the user brings, which are used as they are."""
        tensors = labelled_tokens(
            table,
            given,
            split,
            task=self.task,
            names=self.names,
            model=self.model.entry.name,
            takes=self.takes,
            filler=self._filler(),
        )
        ids = tensors["input_ids"]
        if ids.shape[1] > self.context:
            raise DataError(f"expected rows of at most {self.context} tokens, the model's context, got {ids.shape[1]}")
        config: Any = self.model.module.config
        check_vocabulary(self.model.entry, config.vocab_size, int(ids.max()))
        if "attention_mask" not in tensors:
            own = config.pad_token_id
            tensors["attention_mask"] = (ids != own).long() if isinstance(own, int) else ids.new_ones(ids.shape)
        return tensors

    def _classes(self, logits: Tensor, captions: list[str]) -> Samples:
        several = self.task == "multilabel"
        shares = logits.sigmoid() if several else logits.softmax(-1)  # [n, c]
        kind = "probabilities" if several else "posterior"
        return Samples(shares, kind, captions, labels=self.names, top=SHOWN)

    def _numbers(self, scores: Tensor) -> str:
        names = self.names
        called = [f"{name} " for name in names] if are_names(names) else [""] * len(names)
        return ", ".join(f"{name}{value:.6g}" for name, value in zip(called, scores.tolist(), strict=True))

    def _tagged(self, words: list[str], logits: Tensor, places: list[int]) -> str:
        tags = {place: self.names[int(logits[at].argmax())] for at, place in enumerate(places) if place != IGNORED}
        return "  ".join(f"{word} {tags.get(at, '(cut)')}" for at, word in enumerate(words))


def _words(words: Sequence[str], offsets: Sequence[tuple[int, int]]) -> list[int | None]:
    """Return which word each token is of, by the last character that it covers; None for special tokens."""
    of: list[int | None] = []
    for at, word in enumerate(words):
        of += [*([None] if at else []), *([at] * len(word))]  # a space before every word but the first
    return [of[end - 1] if end > start else None for start, end in offsets]


def _parts(tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    for start in range(0, len(tensors["input_ids"]), _CHUNK):
        yield trimmed({name: tensor[start : start + _CHUNK] for name, tensor in tensors.items()})
