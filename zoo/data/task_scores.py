"""Losses and metrics of the tasks that a head may be for; texts and images have the same.

Notation of the shapes: n examples, c classes (or numbers to be predicted), t tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from zoo.data.task_labels import IGNORED

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.metrics import Scores
    from zoo.metrics.figures import Figures


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


def task_metrics(task: str, logits: Tensor, labels: Tensor, names: Sequence[str], unit: str = "examples") -> Figures:
    """Return the metrics of all examples together, the main one first, each with its interval.

    "classify": see `zoo.metrics.add_classification`. "multilabel", at a probability of one half: "f1" over all
    decisions, "macro_f1" (mean over the classes), "map" (mean over the classes that occur of the average precision),
    loss. "regress": "mse", "mae", "r2", "pearson" (0 where it is not defined), means over the numbers. "tokens": see
    `token_metrics`; an example is a text.

    Args:
        task: as in `task_loss`.
        logits: of all examples; of tokens [m, c], those that count alone.
        labels: theirs; of tokens [m], with IGNORED behind each text.
        names: of the classes.
        unit: what an example is, in the plural.
    """
    from torch.nn import functional

    from zoo.metrics import Scores, add_classification

    scores = Scores(unit)
    if task == "classify":
        add_classification(scores, logits, labels)
    elif task == "regress":
        guesses, values = logits.double(), labels.double().view_as(logits)
        scores.mean("mse", (guesses - values).square().mean(1))
        scores.mean("mae", (guesses - values).abs().mean(1))
        for name in ("r2", "pearson"):
            scores.add(name, partial(_of_regression, name), guesses, values)
        scores.mean("loss", (guesses - values).square().mean(1))
    elif task == "multilabel":
        shares, true = logits.double().sigmoid(), labels > 0.5
        guesses = shares >= 0.5
        scores.ratio("f1", 2 * (guesses & true).sum(1), guesses.sum(1) + true.sum(1))
        for name in ("macro_f1", "map"):
            scores.add(name, partial(_of_several, name), shares, true)
        losses = functional.binary_cross_entropy_with_logits(logits.double(), labels.double(), reduction="none")
        scores.mean("loss", losses.mean(1))
    else:
        _add_tokens(scores, logits, labels, names)
    return scores.figures()


def _add_tokens(scores: Scores, logits: Tensor, labels: Tensor, names: Sequence[str]) -> None:
    import torch
    from torch.nn import functional

    from zoo.metrics.classes import right

    ends = (labels == IGNORED).nonzero().flatten().tolist()  # of each text
    spans = [slice(before, end + 1) for before, end in zip([0, *(end + 1 for end in ends)], ends, strict=False)]
    if not spans or spans[-1].stop != len(labels):
        spans.append(slice(spans[-1].stop if spans else 0, len(labels)))
    guesses = logits.argmax(-1)
    texts, tags = [guesses[span] for span in spans], [labels[span] for span in spans]
    scores.add("f1", partial(_tagging, "f1", tuple(names)), texts, tags, alone=True)
    counted = labels != IGNORED
    hits, losses = torch.zeros(len(labels), dtype=torch.float64), torch.zeros(len(labels), dtype=torch.float64)
    hits[counted] = right(logits[counted], labels[counted]).double()
    losses[counted] = functional.cross_entropy(logits[counted].double(), labels[counted], reduction="none")
    weights = [int(counted[span].sum()) for span in spans]
    scores.ratio("accuracy", [float(hits[span].sum()) for span in spans], weights)
    scores.ratio("loss", [float(losses[span].sum()) for span in spans], weights)


def _tagging(name: str, names: Sequence[str], texts: Sequence[Tensor], tags: Sequence[Tensor]) -> float:
    import torch

    return token_metrics(torch.cat(list(texts)), torch.cat(list(tags)), names)[name]


def _of_regression(name: str, guesses: Tensor, values: Tensor) -> float:
    return _regression(guesses, values)[name]


def _of_several(name: str, shares: Tensor, labels: Tensor) -> float:
    return _several(shares, labels)[name]


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


def _regression(guesses: Tensor, values: Tensor) -> dict[str, float]:
    difference = guesses - values
    spread = ((values - values.mean(0)) ** 2).sum(0)  # [c]
    r2 = [1 - float(e / s) if s > 0 else 0.0 for e, s in zip((difference**2).sum(0), spread, strict=True)]
    a, b = guesses - guesses.mean(0), values - values.mean(0)
    norms = a.norm(dim=0) * b.norm(dim=0)
    pearson = [float(p / n) if n > 0 else 0.0 for p, n in zip((a * b).sum(0), norms, strict=True)]
    return {
        "r2": sum(r2) / len(r2),
        "pearson": sum(pearson) / len(pearson),
    }


def _several(shares: Tensor, labels: Tensor) -> dict[str, float]:
    guesses = shares >= 0.5
    each = [_f1(guesses[:, i], labels[:, i]) for i in range(labels.shape[1])]
    precise = [_average_precision(shares[:, i], labels[:, i]) for i in range(labels.shape[1]) if labels[:, i].any()]
    return {
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
