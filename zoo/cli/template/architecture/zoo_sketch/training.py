"""Batches, loss and metrics on held-out data."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch.nn import functional as F
from zoo.data.stream import stream
from zoo.data.text import text_data
from zoo.metrics import Scores

from .model import encode

if TYPE_CHECKING:
    import zoo
    from torch import Tensor
    from zoo.metrics import Figures

_EVALUATED = 4096  # predictions at most


def batches(model: zoo.Model, data: Any, request: zoo.BatchRequest) -> Iterable[dict[str, Tensor]]:
    """Return batches of `tokens` int64 [n, context + 1], of which the last is predicted from the others.

    Args:
        model: its configuration says how long the context is.
        data: None ("text:english"), another name that `zoo.data.text` knows, a text file, a folder, texts.
        request: batch size, split and seed.
    """
    return stream({"tokens": _windows(model, data, request.split)}, request)


def loss(model: zoo.Model, batch: dict[str, Tensor]) -> Tensor:
    """Return the cross entropy of the next character, in nats."""
    tokens = batch["tokens"].to(model.device)
    return F.cross_entropy(model.module(tokens[:, :-1]).float(), tokens[:, -1])


def evaluate(model: zoo.Model, data: Any) -> Figures:
    """Return `bits_per_character` of held-out text (a uniform guess: 6.6) and `accuracy`, the share predicted right."""
    windows = _windows(model, data, "test")
    windows = windows[:: max(1, len(windows) // _EVALUATED)][:_EVALUATED].to(model.device)
    logits, last = model.module(windows[:, :-1]).float(), windows[:, -1]
    scores = Scores("characters")
    scores.mean("bits_per_character", F.cross_entropy(logits, last, reduction="none") / math.log(2))
    scores.mean("accuracy", (logits.argmax(1) == last).float())
    return scores.figures()


def _windows(model: zoo.Model, data: Any, split: str) -> Tensor:
    """Return every run of context + 1 characters, as a view [m, context + 1]."""
    text = "\n\n".join(text_data(data, split=split))
    return encode(text).unfold(0, model.entry.config["context"] + 1, 1)
