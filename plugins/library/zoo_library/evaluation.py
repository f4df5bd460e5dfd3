"""Metrics on held-out rows: the library's own loss, and those of the tokens or classes that it is the loss of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from zoo import BatchRequest, DataError
from zoo.metrics import Scores, TokenScores, add_classification

from .batches import batches
from .forward import answer

if TYPE_CHECKING:
    from torch import Tensor

    from zoo import Model
    from zoo.metrics import Figures

_ROWS = 8  # rows in one call
_HELD_OUT = 512  # rows that are read at most
_IGNORED = -100
_CLOSE = 1e-2  # how near, relatively, a loss is that is computed from the logits, in half precision too


def evaluate(model: Model, data: Any) -> Figures:
    """Return "loss" and, where it is a cross entropy of the logits, metrics of what is predicted.

    The loss is the mean over batches of held-out rows, weighted by their rows; an example is such a batch. Of tokens
    also "accuracy" and "perplexity", of classes "accuracy", "top5_accuracy" and "calibration_error", whose examples are
    rows. Whether the logits are of tokens at their own places, of those before them or of classes is found by which of
    these gives the library's loss.
    """
    losses, rows, seen = [], [], _Seen()
    for batch in batches(model, data, BatchRequest(_ROWS, split="test")):
        value, logits = answer(model, batch)
        losses.append(float(value))
        rows.append(max(len(one) for one in batch.values() if isinstance(one, torch.Tensor) and one.ndim))
        seen.add(losses[-1], logits, batch.get("labels"))
        if sum(rows) >= _HELD_OUT:
            break
    if not rows:
        raise DataError(f"{model.entry.name}: expected rows to evaluate on, and the data hold none")
    scores = seen.scores()
    scores.ratio("loss", [loss * count for loss, count in zip(losses, rows, strict=True)], rows)
    return scores.figures("loss", "accuracy")


class _Seen:
    """The logits and labels so far, as long as they explain the loss."""

    def __init__(self) -> None:
        self.kind: str | None = "unknown"  # then "tokens", "shifted", "classes" or None
        self.tokens: TokenScores | None = None
        self.classes: list[tuple[Tensor, Tensor]] = []

    def add(self, loss: float, logits: Tensor | None, labels: Any) -> None:
        kind = _kind(loss, logits, labels) if self.kind is not None else None
        self.kind = kind if self.kind in ("unknown", kind) else None
        if self.kind is None or logits is None:
            return
        if kind == "classes":
            self.classes.append((logits.float().cpu(), labels.cpu().flatten()))
            return
        self.tokens = self.tokens or TokenScores("batches of rows", accuracy=True)
        logits, labels = _aligned(kind, logits, labels)
        places = labels != _IGNORED
        self.tokens.add(logits[places], labels[places], places.sum(1))

    def scores(self) -> Scores:
        scores = Scores("batches of rows")
        if self.kind == "classes":
            add_classification(scores, *(torch.cat(parts) for parts in zip(*self.classes, strict=True)))
        elif self.kind is not None and self.tokens is not None:
            scores = self.tokens.scores()
        return scores


def _kind(loss: float, logits: Tensor | None, labels: Any) -> str | None:
    """Return of which cross entropy of the logits the loss is the mean; None if of none."""
    if logits is None or not isinstance(labels, torch.Tensor) or labels.is_floating_point():
        return None
    if logits.ndim == 2 and labels.numel() == len(logits) and logits.shape[1] > 1:
        return (
            "classes" if _near(functional.cross_entropy(logits.float().cpu(), labels.cpu().flatten()), loss) else None
        )
    if logits.ndim != 3 or labels.shape != logits.shape[:2]:
        return None
    for kind in ("tokens", "shifted"):
        mine, wanted = _aligned(kind, logits, labels)
        found = functional.cross_entropy(mine.float().flatten(0, 1), wanted.flatten(), ignore_index=_IGNORED)
        if _near(found, loss):
            return kind
    return None


def _aligned(kind: str | None, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    labels = labels.to(logits.device)
    return (logits[:, :-1], labels[:, 1:]) if kind == "shifted" else (logits, labels)


def _near(value: Tensor, loss: float) -> bool:
    return abs(float(value) - loss) <= _CLOSE * max(abs(loss), 1e-3)
