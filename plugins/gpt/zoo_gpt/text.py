"""The loss, its batches, and metrics on held-out text: windows of prose, documents, conversations, pairs, tokens."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn import functional

from zoo import DataError
from zoo.data.report import record
from zoo.data.stream import stream
from zoo.data.token_rows import IGNORED, PADDING, TOKENS, trimmed
from zoo.integrations.packed import takes
from zoo.metrics import TokenScores, add_answers
from zoo.metrics.texts import ANSWERS
from zoo.torch_state.spread import spread

from .answers import ANSWERED, answers
from .model import context_of
from .reading import HELD_OUT, read
from .sampling import sample

if TYPE_CHECKING:
    from zoo import BatchRequest, EvaluationRequest, Model
    from zoo.metrics import Figures

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
    logits, targets = _predicted(model, batch)
    total = functional.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return total / (targets != IGNORED).sum()


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


def _predicted(model: Model, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return logits [b, t - 1, v] and what is to be predicted, int64 [b, t - 1]."""
    return model.module(**_inputs(model, batch), use_cache=False).logits[:, :-1], targets_of(batch)


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


def evaluate(model: Model, data: Any, request: EvaluationRequest) -> Figures:
    """Return {"perplexity", "loss"} of held-out data, and "bits_per_byte" of text, at most HELD_OUT bytes of it.

    "loss": nats per token that is to be predicted. "bits_per_byte": of the text's UTF-8, comparable between tokenizers,
    a document's end counting as one byte; conversations, pairs and token ids have none. Every token is predicted once,
    from those before it in its window; the first from the beginning-of-text token, where the tokenizer has one.

    Where they are wanted "accuracy" and "top5_accuracy" of the tokens, and of conversations and pairs how like the
    model's own answers are to those of the data, see `zoo.metrics.add_answers`: the likeliest token each time, at most
    ANSWERED of them unless the request says.
    """
    wanted = request.take("accuracy", "top5_accuracy", *ANSWERS, usual=("perplexity", "loss", "bits_per_byte"))
    found = read(model, data, "test", most=HELD_OUT)
    record(found.report)
    new = partial(TokenScores, "rows of text", accuracy="accuracy" in wanted, top="top5_accuracy" in wanted)
    windows, length = found.tensors[TOKENS].shape
    rows = min(8, max(1, LOGITS // (length * model.module.config.vocab_size)))

    def scored(start: int) -> TokenScores:
        part = trimmed({name: tensor[start : start + rows] for name, tensor in found.tensors.items()})
        logits, targets = _predicted(model, {name: tensor.to(model.device) for name, tensor in part.items()})
        places = targets != IGNORED
        return new().add(logits[places], targets[places], places.sum(1))

    tokens = new()
    tokens.join(spread(range(0, windows, rows), scored))
    scores = tokens.scores()
    if found.size:
        tokens.bits_per_byte(scores, found.size)
    named = [name for name in wanted if name in ANSWERS]
    if named:
        said, references = answers(model, data, request.samples or ANSWERED)
        add_answers(scores, said, references, named)
    return scores.figures("perplexity", "loss", "bits_per_byte")
