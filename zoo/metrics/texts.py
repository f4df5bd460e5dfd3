"""How like answers are to their references, from torchmetrics."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from zoo.metrics.scores import Scores
from zoo.metrics.statistics import States

ANSWERS = ("bleu", "chrf", "rouge1", "rouge2", "rougeL", "exact_match")


def add_answers(scores: Scores, answers: Sequence[str], references: Sequence[str], names: Collection[str]) -> None:
    """Add those of ANSWERS that are named.

    "bleu": SacreBLEU's of the whole corpus, from 0 to 1, with its tokenizer 13a; "chrf": chrF (characters, β = 2), from
    0 to 1; "rouge1", "rouge2", "rougeL": the mean F-measure, of words of a to z and 0 to 9; "exact_match": the share of
    answers that are their reference, but for white space around it.

    Args:
        scores: where to add them.
        answers: n of them.
        references: what each should be.
        names: which metrics.
    """
    if "bleu" in names:
        from torchmetrics.text import SacreBLEUScore

        scores.update("bleu", SacreBLEUScore, list(answers), [[one] for one in references])
    if "chrf" in names:
        scores.put("chrf", _chrf(answers, references))
    keys = [name for name in ("rouge1", "rouge2", "rougeL") if name in names]
    if keys:
        from torchmetrics.functional.text import rouge_score

        each = [rouge_score(a, b, rouge_keys=tuple(keys)) for a, b in zip(answers, references, strict=True)]
        for key in keys:
            scores.mean(key, [float(one[f"{key}_fmeasure"]) for one in each])
    if "exact_match" in names:
        scores.mean("exact_match", [float(a.strip() == b.strip()) for a, b in zip(answers, references, strict=True)])


def _chrf(answers: Sequence[str], references: Sequence[str]) -> States:
    """Return chrF's states of each answer.

    Of an answer that has nothing in common with its reference, torchmetrics leaves out how long the reference is, which
    would make the corpus look better; it counts here as in sacreBLEU.
    """
    from torchmetrics.text import CHRFScore

    states = States(CHRFScore(n_word_order=0))
    metric = states.metric
    for answer, reference in zip(answers, references, strict=True):
        metric.reset()
        metric.update([reference], [[reference]])
        lengths = {name: getattr(metric, name).clone() for name in metric._defaults if "target" in name}
        metric.reset()
        metric.update([answer], [[reference]])
        for name, length in lengths.items():
            setattr(metric, name, length)
        states.keep()
    return states
