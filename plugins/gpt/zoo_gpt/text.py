"""The loss, its batches, and metrics on held-out text: windows of prose, documents, conversations, pairs, tokens."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn import functional

from zoo import DataError
from zoo.data.report import record
from zoo.data.stream import stream
from zoo.data.token_rows import IGNORED, PADDING, TOKENS, trimmed
from zoo.integrations.packed import takes

from .model import context_of
from .reading import HELD_OUT, read
from .sampling import sample

if TYPE_CHECKING:
    from zoo import BatchRequest, Model

__all__ = ["HELD_OUT", "batches", "context_of", "count", "evaluate", "loss", "sample"]

# Notation of the shapes: b rows in a batch, t tokens, v tokens in the vocabulary.
LOGITS = 2**27  # how many of them `evaluate` computes at once, at most, if one window has no more


def batches(model: Model, data: Any, request: BatchRequest) -> Iterable[dict[str, Tensor]]:
    """Return batches of "input_ids" and "labels" int64 [b, t], and whatever else the rows need.

    Prose is in windows that begin with the last token of the one before, so every token is predicted once. Documents
    are packed into windows, each as if it were alone ("position_ids"), or one in each row ("attention_mask") for a
    model that cannot keep them apart; the end-of-text token follows each. Conversations and pairs have a row each, in
    which only what the model is to say is predicted. Labels are the inputs, with IGNORED where nothing is predicted.

    Args:
        model: the model.
        data: what `zoo.data.corpus.read_corpus` takes, token ids among it.
        request: batch size, split and seed.

    Raises:
        DataError: the data cannot be used.
    """
    found = read(model, data, request.split)
    record(found.report)
    return stream(found.tensors, request).map(lambda batch, _: trimmed(batch))


def loss(model: Model, batch: dict[str, Tensor]) -> Tensor:
    """Return the mean cross entropy, in nats, of every token to be predicted given those before it.

    Args:
        model: the model.
        batch: "input_ids" int64 [b, t]; "labels" int64 [b, t] if not the same, IGNORED where nothing counts;
            "attention_mask", 0 where there is padding on either side, "position_ids" and "token_type_ids", if the
            model has them.

    Raises:
        DataError: the batch has something that would be ignored.
    """
    total, count = _summed_cross_entropy(model, batch)
    return total / count


def count(model: Model, batch: dict[str, Tensor]) -> int:
    """Return how many tokens of a batch are to be predicted: what its loss is the mean of."""
    return int((targets_of(batch) != IGNORED).sum())


def targets_of(batch: dict[str, Tensor]) -> Tensor:
    """Return what each place but the first is to be predicted as: int64 [b, t - 1].

    Padding counts nowhere, nor does a row's first token behind padding on the left.
    """
    targets = batch.get("labels", batch[TOKENS])[:, 1:]
    mask = batch.get("attention_mask")
    return targets if mask is None else targets.masked_fill((mask[:, 1:] == 0) | (mask[:, :-1] == 0), IGNORED)


def _summed_cross_entropy(model: Model, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    targets = targets_of(batch)  # [b, t - 1]
    logits = model.module(**_inputs(model, batch), use_cache=False).logits[:, :-1]  # [b, t - 1, v]
    total = functional.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return total, (targets != IGNORED).sum()


def _inputs(model: Model, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the arguments of the module's forward; positions are counted from where padding on the left ends."""
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    if not takes(model.module, "attention_mask"):
        inputs.pop("attention_mask", None)  # padding behind a text is seen by nothing that counts
    for name in inputs:
        if name not in PADDING or not takes(model.module, name):
            raise DataError(f"{model.entry.name} does not use {name!r}, it would be ignored: leave it out of the batch")
    mask = inputs.get("attention_mask")
    if mask is not None and "position_ids" not in inputs and takes(model.module, "position_ids"):
        inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    return inputs


def evaluate(model: Model, data: Any) -> dict[str, float]:
    """Return {"perplexity", "loss"} of held-out data, and "bits_per_byte" of text, at most HELD_OUT bytes of it.

    "loss": nats per token that is to be predicted. "bits_per_byte": of the text's UTF-8, comparable between tokenizers,
    a document's end counting as one byte; conversations, pairs and token ids have none. Every token is predicted once,
    from those before it in its window; the first from the beginning-of-text token, where the tokenizer has one.
    """
    found = read(model, data, "test", most=HELD_OUT)
    record(found.report)
    total, count = 0.0, 0
    windows, length = found.tensors[TOKENS].shape
    rows = min(8, max(1, LOGITS // (length * model.module.config.vocab_size)))
    for start in range(0, windows, rows):
        part = trimmed({name: tensor[start : start + rows] for name, tensor in found.tensors.items()})
        sums, tokens = _summed_cross_entropy(model, {name: tensor.to(model.device) for name, tensor in part.items()})
        total, count = total + float(sums), count + int(tokens)
    loss = total / count
    metrics = {"perplexity": math.exp(min(loss, 700.0)), "loss": loss}
    return metrics if not found.size else {**metrics, "bits_per_byte": total / math.log(2) / found.size}
