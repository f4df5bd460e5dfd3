"""Masked language modelling: windows of tokens, masks, the loss and metrics on held-out text."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from zoo import DataError
from zoo.data.batches import generator_of
from zoo.data.stream import stream
from zoo.data.token_rows import IGNORED, PADDING, trimmed
from zoo.integrations.packed import takes
from zoo.metrics import TokenScores
from zoo.torch_state.spread import spread

from .model import tokenizer_of
from .reading import WINDOW, Vocabulary, read, vocabulary_of

if TYPE_CHECKING:
    from zoo import BatchRequest, EvaluationRequest, Model
    from zoo.metrics import Figures

__all__ = ["WINDOW", "Vocabulary", "batches", "count", "draw_masks", "evaluate", "loss", "vocabulary_of"]

# Notation of the shapes: b windows in a batch, t tokens in a window, m places to predict, v tokens in the vocabulary.
HELD_OUT = 2**16  # bytes of held-out text that `evaluate` reads at most
LOGITS = 2**27  # how many of them `evaluate` computes at once, at most, if one window has no more
RATE = 0.15  # share of the tokens that are to be predicted (arXiv 1810.04805, section 3.1)
PRETRAINING_RATE = 0.25  # the same while a model is trained from random weights
ANY_RATE = 1 / 8  # share of the windows that are then masked at a rate from 0 to 1


def batches(model: Model, data: Any, request: BatchRequest) -> Iterable[dict[str, Tensor]]:
    """Return batches of "input_ids", "attention_mask" and "labels", each int64 [b, t]: windows with masks in them.

    A window holds nothing of two documents; a long document is in several. The masks are drawn here, from the request's
    seed: a batch has one loss, on every device. Labels are the tokens at the places to predict, and IGNORED elsewhere.
    Token ids that come with labels are used as they are, and nothing is masked.

    Args:
        model: the model.
        data: what `zoo.data.corpus.read_corpus` takes: prose, documents, or token ids.
        request: batch size, split and seed.

    Raises:
        DataError: the data cannot be used.
    """
    vocabulary = vocabulary_of(model, tokenizer_of(model))
    windows = read(model, data, request.split, vocabulary)
    rates = _pretraining_rates if model.entry.weights == "random" else _usual_rates
    found = stream(windows, request).map(lambda batch, _: trimmed(batch))
    if "labels" in windows:
        return found

    def masked(batch: dict[str, Tensor], number: int) -> dict[str, Tensor]:
        generator = generator_of(request.seed, number)
        return {**batch, **draw_masks(batch, vocabulary, generator, rates(len(batch["input_ids"]), generator))}

    return found.map(masked)


def _usual_rates(count: int, generator: torch.Generator | None = None) -> Tensor:
    """Return the share of the tokens to predict in each of `count` windows [count]."""
    return torch.full((count,), RATE)


def _pretraining_rates(count: int, generator: torch.Generator) -> Tensor:
    """Return the same for training from random weights, where more masks teach more (arXiv 2212.05096).

    One window in eight is masked at a rate drawn from all rates, as mask-predict needs.
    """
    any_rate, rates = torch.rand(2, count, generator=generator)
    return torch.where(any_rate < ANY_RATE, rates, PRETRAINING_RATE)


def draw_masks(
    batch: dict[str, Tensor], vocabulary: Vocabulary, generator: torch.Generator | None, rates: Tensor | None = None
) -> dict[str, Tensor]:
    """Return {"input_ids", "labels"} of windows with masks in them.

    Of the tokens to predict 80 % become the mask, 10 % any ordinary token, and 10 % stay.

    Args:
        batch: windows without masks.
        vocabulary: which tokens are ordinary.
        generator: of all that is drawn; None: torch's own.
        rates: share [b] of each window's ordinary tokens that are to be predicted, at least one; None: RATE.
    """
    ids = batch["input_ids"].cpu()
    eligible = torch.isin(ids, vocabulary.ordinary) & (batch.get("attention_mask", torch.tensor(1)).cpu() == 1)
    rates = _usual_rates(len(ids)) if rates is None else rates  # [b]
    count = (rates * eligible.sum(1)).round().clamp(min=1)  # [b]
    order = torch.rand(ids.shape, generator=generator).masked_fill(~eligible, 2.0).argsort(1).argsort(1)  # [b, t]
    chosen = eligible & (order < count[:, None])
    fate = torch.rand(ids.shape, generator=generator)
    other = vocabulary.ordinary[torch.randint(len(vocabulary.ordinary), ids.shape, generator=generator)]
    inputs = torch.where(chosen & (fate < 0.8), vocabulary.mask, ids)
    inputs = torch.where(chosen & (fate >= 0.9), other, inputs)
    return {"input_ids": inputs, "labels": ids.masked_fill(~chosen, IGNORED)}


def loss(model: Model, batch: dict[str, Tensor]) -> Tensor:
    """Return the mean cross entropy, in nats, of the tokens at the places to predict: a scalar.

    A user's own batch may be {"input_ids": Tensor [b, t]} alone; masks are then drawn from torch's global
    generator.
    """
    if "labels" not in batch:
        drawn = draw_masks(batch, vocabulary_of(model, tokenizer_of(model)), None)
        batch = {**batch, **{name: tensor.to(batch["input_ids"].device) for name, tensor in drawn.items()}}
    logits, wanted = _predicted(model, batch)
    return functional.cross_entropy(logits, wanted)


def count(model: Model, batch: dict[str, Tensor]) -> float:
    """Return how many places of a batch are to be predicted; 1 for token ids alone, whose masks are drawn later."""
    return int((batch["labels"] != IGNORED).sum()) if "labels" in batch else 1


def _predicted(model: Model, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return logits [m, v] and tokens [m] of the places to predict."""
    places = batch["labels"] != IGNORED  # [b, t]
    # Without such an argument (FNet) the model reads padding, as in its library.
    others = {"labels"} if takes(model.module, "attention_mask") else {"labels", "attention_mask"}
    inputs = {name: tensor for name, tensor in batch.items() if name not in others}
    for name in inputs:
        if name not in PADDING or not takes(model.module, name):
            raise DataError(f"{model.entry.name} does not use {name!r}, it would be ignored: leave it out of the batch")
    logits = model.module(**inputs).logits  # [b, t, v]
    chosen = places.flatten().nonzero().squeeze(1)  # [m]: looked for once, which waits for an accelerator
    return logits.flatten(0, 1)[chosen].float(), batch["labels"].flatten()[chosen]


def evaluate(model: Model, data: Any, request: EvaluationRequest) -> Figures:
    """Return {"accuracy", "loss", "perplexity"} of the tokens to predict in held-out text, the same every time.

    The text is cut at HELD_OUT bytes; an example is a row of tokens. "accuracy": share of the places whose likeliest
    token is the one that was there. "loss": nats per place; "perplexity": its exponential. Where it is wanted
    "top5_accuracy": the share of the places whose token is among the five likeliest.
    """
    wanted = request.take("top5_accuracy", usual=("accuracy", "loss", "perplexity"))
    vocabulary = vocabulary_of(model, tokenizer_of(model))
    tensors = read(model, data, "test", vocabulary, most=HELD_OUT)
    if "labels" not in tensors:
        tensors |= draw_masks(tensors, vocabulary, torch.Generator().manual_seed(0))
    new = partial(TokenScores, "rows of text", accuracy=True, top=bool(wanted))
    number, length = tensors["input_ids"].shape
    rows = min(16, max(1, LOGITS // (length * model.module.config.vocab_size)))

    def scored(start: int) -> TokenScores:
        part = trimmed({name: tensor[start : start + rows] for name, tensor in tensors.items()})
        logits, found = _predicted(model, {name: tensor.to(model.device) for name, tensor in part.items()})
        return new().add(logits, found, (part["labels"] != IGNORED).sum(1))

    tokens = new()
    tokens.join(spread(range(0, number, rows), scored))
    return tokens.scores().figures("accuracy", "loss", "perplexity")
