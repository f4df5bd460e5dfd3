"""Losses and metrics of the tasks that a head may be for; texts and images have the same.

Notation of the shapes: n examples, c classes (or numbers to be predicted), t tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from zoo.data.task_labels import IGNORED

if TYPE_CHECKING:
    from torch import Tensor


def task_loss(task: str, logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean loss: a scalar.

    Args:
        task: "classify": cross entropy in nats of logits [n, c] and labels int64 [n]; "tokens": of [n, t, c] and
            [n, t], IGNORED left out; "multilabel": binary cross entropy of [n, c] and zeros and ones [n, c];
            "regress": the mean squared error of [n, c] and [n, c].
        logits: the model's.
        labels: from `zoo.data.task_labels`.
    """
    from torch.nn import functional

    logits, labels = logits.float(), labels.to(logits.device)
    if task == "regress":
        return functional.mse_loss(logits, labels.float().view_as(logits))
    if task == "multilabel":
        return functional.binary_cross_entropy_with_logits(logits, labels.float())
    if task == "tokens":
        return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
    return functional.cross_entropy(logits, labels)


def task_metrics(task: str, logits: Tensor, labels: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Return the metrics of all examples together, the main one first.

    "classify": accuracy and loss. "multilabel", at a probability of one half: "f1" over all decisions, "macro_f1" (mean
    over the classes), "map" (mean over the classes that occur of the average precision), loss. "regress": "mse", "mae",
    "r2", "pearson" (0 where it is not defined), means over the numbers. "tokens": see `token_metrics`.

    Args:
        task: as in `task_loss`.
        logits: of all examples; of tokens [m, c], those that count alone.
        labels: theirs; of tokens [m], with IGNORED between two texts.
        names: of the classes.
    """
    loss = float(task_loss("classify" if task == "tokens" else task, *_counted(task, logits, labels)))
    if task == "regress":
        return _regression(logits.double(), labels.double().view_as(logits), loss)
    if task == "multilabel":
        return {**_several(logits.double().sigmoid(), labels > 0.5), "loss": loss}
    if task == "tokens":
        return {**token_metrics(logits.argmax(-1), labels, names), "loss": loss}
    return {"accuracy": float((logits.argmax(-1) == labels).double().mean()), "loss": loss}


def token_metrics(guesses: Tensor, labels: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Return {"f1", "accuracy"} of tagged words.

    Where the names are those of the BIO scheme ("O", "B-PER", "I-PER"), "f1" is that of whole entities, by the rules of
    CoNLL's script: one is right if its beginning, its end and its kind are. With other names it is the mean over the
    tags. "accuracy" is the share of words.

    Args:
        guesses: classes int64 [m] of the words, one text after another.
        labels: the same as they are; IGNORED between two texts.
        names: of the classes.
    """
    counted = labels != IGNORED
    accuracy = float((guesses == labels)[counted].double().mean())
    if not all(name == "O" or name[:2] in ("B-", "I-") for name in names):
        scores = [_f1((guesses == i)[counted], (labels == i)[counted]) for i in labels[counted].unique().tolist()]
        return {"f1": sum(scores) / len(scores), "accuracy": accuracy}
    true = entities([names[label] if label != IGNORED else None for label in labels.tolist()])
    said = [
        names[one] if label != IGNORED else None for one, label in zip(guesses.tolist(), labels.tolist(), strict=True)
    ]
    found = entities(said)
    right = len(true & found)
    return {"f1": 2 * right / max(1, len(true) + len(found)), "accuracy": accuracy}


def entities(tags: Sequence[str | None]) -> set[tuple[str, int, int]]:
    """Return (kind, first word, last word) of every entity in BIO tags; None ends an entity as "O" does.

    >>> sorted(entities(["B-PER", "I-PER", "O", "I-LOC", "B-LOC"]))
    [('LOC', 3, 3), ('LOC', 4, 4), ('PER', 0, 1)]
    """
    found: set[tuple[str, int, int]] = set()
    start, kind = 0, ""
    for at, tag in enumerate([*tags, None]):
        mark, _, name = (tag or "O").partition("-")
        if kind and (mark != "I" or name != kind):
            found.add((kind, start, at - 1))
            kind = ""
        if mark in ("B", "I") and not kind:
            start, kind = at, name
    return found


def _counted(task: str, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return (logits[labels != IGNORED], labels[labels != IGNORED]) if task == "tokens" else (logits, labels)


def _regression(guesses: Tensor, values: Tensor, mse: float) -> dict[str, float]:
    difference = guesses - values
    spread = ((values - values.mean(0)) ** 2).sum(0)  # [c]
    r2 = [1 - float(e / s) if s > 0 else 0.0 for e, s in zip((difference**2).sum(0), spread, strict=True)]
    a, b = guesses - guesses.mean(0), values - values.mean(0)
    norms = a.norm(dim=0) * b.norm(dim=0)
    pearson = [float(p / n) if n > 0 else 0.0 for p, n in zip((a * b).sum(0), norms, strict=True)]
    return {
        "mse": float((difference**2).mean()),
        "mae": float(difference.abs().mean()),
        "r2": sum(r2) / len(r2),
        "pearson": sum(pearson) / len(pearson),
    }


def _several(shares: Tensor, labels: Tensor) -> dict[str, float]:
    guesses = shares >= 0.5
    each = [_f1(guesses[:, i], labels[:, i]) for i in range(labels.shape[1])]
    precise = [_average_precision(shares[:, i], labels[:, i]) for i in range(labels.shape[1]) if labels[:, i].any()]
    return {
        "f1": _f1(guesses.flatten(), labels.flatten()),
        "macro_f1": sum(each) / len(each),
        "map": sum(precise) / max(1, len(precise)),
    }


def _f1(guesses: Tensor, labels: Tensor) -> float:
    both, total = int((guesses & labels).sum()), int(guesses.sum() + labels.sum())
    return 2 * both / total if total else 0.0


def _average_precision(shares: Tensor, labels: Tensor) -> float:
    """Return the mean, over the examples of a class, of the precision among all that rank as high; ties rank alike."""
    found = shares[labels]
    above = (shares[None] >= found[:, None]).sum(1)  # [p] for each of p positives
    right = (found[None] >= found[:, None]).sum(1)
    return float((right / above).mean())
