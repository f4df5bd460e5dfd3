"""Masked language modelling: windows of tokens, masks, the loss and metrics on held-out text."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from zoo import DataError, ZooError
from zoo.data.stream import stream
from zoo.data.text import beginning, text_data

from .model import check_vocabulary, context_of, tokenizer_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from zoo import BatchRequest, Model

# Notation of the shapes: b windows in a batch, t tokens in a window, m places to predict, v tokens in the vocabulary.
WINDOW = 512  # tokens in a training or evaluation window, if the model's context is not shorter
HELD_OUT = 2**16  # bytes of held-out text that `evaluate` reads at most
LOGITS = 2**27  # how many of them `evaluate` computes at once, at most, if one window has no more
IGNORED = -100  # label of a token that is not to be predicted
RATE = 0.15  # share of the tokens that are to be predicted (arXiv 1810.04805, section 3.1)
PRETRAINING_RATE = 0.25  # the same while a model is trained from random weights
ANY_RATE = 1 / 8  # share of the windows that are then masked at a rate from 0 to 1


class Vocabulary(NamedTuple):
    """The token ids that matter to masking.

    Attributes:
        mask: the mask's.
        filler: the padding's.
        ordinary: [o], of all tokens that are not special.
        before: the tokens that the tokenizer puts before a text.
        after: those behind it.
    """

    mask: int
    filler: int
    ordinary: Tensor
    before: list[int]
    after: list[int]


def vocabulary_of(model: Model, tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    """Return which tokens of a tokenizer are ordinary, and what encloses a text.

    Raises:
        ZooError: the tokenizer has no mask.
    """
    if tokenizer.mask_token_id is None:
        raise ZooError(f"{model.entry.name}: expected a tokenizer with a mask token, got one without")
    size = min(len(tokenizer), model.module.config.vocab_size)
    special = set(tokenizer.all_special_ids)
    ordinary = torch.tensor([token for token in range(size) if token not in special])
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    start = next((at for at in range(len(full)) if full[at : at + len(plain)] == plain), 0)
    filler = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.mask_token_id
    return Vocabulary(tokenizer.mask_token_id, filler, ordinary, full[:start], full[start + len(plain) :])


def batches(model: Model, data: Any, request: BatchRequest) -> Iterable[dict[str, Tensor]]:
    """Return batches of "input_ids", "attention_mask" and "labels", each int64 [b, t]: windows with masks in them.

    The masks are drawn here, from the request's seed: a batch has one loss, on every device. Labels are the tokens at
    the places to predict, and IGNORED elsewhere.

    Args:
        model: the model.
        data: what `zoo.data.text.text_data` takes, or token ids: a Tensor [n, t] or {"input_ids": Tensor [n, t]}.
        request: batch size, split and seed.

    Raises:
        DataError: the data cannot be used.
    """
    tokenizer = tokenizer_of(model)
    vocabulary = vocabulary_of(model, tokenizer)
    windows = _read(model, data, request.split, tokenizer, vocabulary)
    generator = torch.Generator().manual_seed(request.seed)
    rates = _pretraining_rates if model.entry.weights == "random" else _usual_rates
    return (
        {**batch, **draw_masks(batch, vocabulary, generator, rates(len(batch["input_ids"]), generator))}
        for batch in stream(windows, request)
    )


def _read(
    model: Model, data: Any, split: str, tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary
) -> dict[str, Tensor]:
    ids = data.get("input_ids") if isinstance(data, dict) else data
    if isinstance(ids, Tensor):
        return _given_windows(model, ids, vocabulary)
    paragraphs = text_data(data, split=split)
    if split != "train":
        paragraphs = list(beginning(paragraphs, HELD_OUT))
    # verbose=False: a text is longer than the context before it is cut into windows.
    text = tokenizer("\n\n".join(paragraphs), add_special_tokens=False, verbose=False)["input_ids"]
    check_vocabulary(model, max(text, default=0))
    return _windows(text, min(WINDOW, context_of(model)), vocabulary)


def _given_windows(model: Model, ids: Tensor, vocabulary: Vocabulary) -> dict[str, Tensor]:
    if ids.ndim != 2 or ids.is_floating_point() or not ids.numel():
        raise DataError(f"expected token ids as an integer Tensor [n, t], got {ids.dtype} {tuple(ids.shape)}")
    if ids.shape[1] > context_of(model):
        raise DataError(
            f"expected windows of at most {context_of(model)} tokens, the model's context, got {ids.shape[1]}"
        )
    check_vocabulary(model, int(ids.max()))
    if not torch.isin(ids, vocabulary.ordinary).any(1).all():
        raise DataError("expected a token to predict in every window, got one of special tokens alone")
    return {"input_ids": ids.long(), "attention_mask": (ids != vocabulary.filler).long()}


def _windows(ids: list[int], size: int, vocabulary: Vocabulary) -> dict[str, Tensor]:
    """Return token ids as windows of `size`, one after another, each between the tokenizer's own ends."""
    room = size - len(vocabulary.before) - len(vocabulary.after)
    if not ids or room < 1:
        raise DataError("expected a text of at least one token, got none: give a longer text")
    room = min(room, len(ids))
    rows = [vocabulary.before + ids[at : at + room] + vocabulary.after for at in range(0, len(ids), room)]
    inputs = torch.full((len(rows), max(map(len, rows))), vocabulary.filler)
    attention = torch.zeros_like(inputs)
    for row, tokens in enumerate(rows):
        inputs[row, : len(tokens)] = torch.tensor(tokens)
        attention[row, : len(tokens)] = 1
    return {"input_ids": inputs, "attention_mask": attention}


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


def _predicted(model: Model, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return logits [m, v] and tokens [m] of the places to predict."""
    places = batch["labels"] != IGNORED  # [b, t]
    attention = batch.get("attention_mask")
    logits = model.module(input_ids=batch["input_ids"], attention_mask=attention).logits  # [b, t, v]
    return logits[places].float(), batch["labels"][places]


def evaluate(model: Model, data: Any) -> dict[str, float]:
    """Return {"accuracy", "loss", "perplexity"} of the tokens to predict in held-out text, the same every time.

    The text is cut at HELD_OUT bytes. "accuracy": share of the places whose likeliest token is the one that was there.
    "loss": nats per place; "perplexity": its exponential.
    """
    tokenizer = tokenizer_of(model)
    vocabulary = vocabulary_of(model, tokenizer)
    windows = _read(model, data, "test", tokenizer, vocabulary)
    tensors = windows | draw_masks(windows, vocabulary, torch.Generator().manual_seed(0))
    total, right, count = 0.0, 0, 0
    number, length = tensors["input_ids"].shape
    rows = min(16, max(1, LOGITS // (length * model.module.config.vocab_size)))
    for start in range(0, number, rows):
        part = {name: tensor[start : start + rows].to(model.device) for name, tensor in tensors.items()}
        logits, wanted = _predicted(model, part)
        total += float(functional.cross_entropy(logits, wanted, reduction="sum"))
        right += int((logits.argmax(-1) == wanted).sum())
        count += len(wanted)
    mean = total / count
    return {"accuracy": right / count, "loss": mean, "perplexity": math.exp(min(mean, 700.0))}
