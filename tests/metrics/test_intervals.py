"""Intervals by resampling examples, against scipy's and the shares that they should cover; what a result holds."""

from __future__ import annotations

import copy
import json
import math
import pickle

import numpy as np
import pytest
import torch

import zoo
from zoo import metrics
from zoo.metrics.figures import ALONE, PLAIN
from zoo.metrics.resampling import draws, interval
from zoo.metrics.statistics import Ratio, States


def _scores(n: int = 80, shift: float = 0.0, seed: int = 0) -> metrics.Scores:
    generator = torch.Generator().manual_seed(seed)
    scores = metrics.Scores("images")
    values = torch.randn(n, generator=generator) + shift
    weights = torch.randint(1, 9, (n,), generator=generator)
    scores.mean("loss", values)
    scores.ratio("perplexity", values * weights, weights, then=math.exp)
    scores.add("spread", lambda rows: rows.std(), values, resamples=50)
    scores.number("parameters", 7, "it is no mean over examples")
    scores.omit("lpips", "its weights are not here")
    scores.note("loss", "in nats")
    return scores


def test_they_are_scipys():
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng()
    x, w = random.random(150) ** 2, random.integers(1, 20, 150)
    found = metrics.Scores()
    found.mean("mean", x)
    found.ratio("ratio", x * w, w)
    figures = found.figures()
    assert figures == pytest.approx({"mean": x.mean(), "ratio": np.average(x, weights=w)})
    for name, data, statistic in (
        ("mean", (x,), lambda a, axis: a.mean(axis)),
        ("ratio", (x * w, w), lambda a, b, axis: a.sum(axis) / b.sum(axis)),
    ):
        theirs = stats.bootstrap(
            data, statistic, paired=True, method="percentile", n_resamples=5000, vectorized=True
        ).confidence_interval
        width = theirs.high - theirs.low
        assert figures.intervals[name] == pytest.approx(tuple(theirs), abs=0.12 * width)


def test_they_cover_the_truth_as_often_as_they_say():
    covered = 0
    for seed in range(80):
        values = torch.randn(60, generator=torch.Generator().manual_seed(seed)).exp()  # skewed, mean e^½
        low, high = interval([Ratio(values).of(rows) for rows in draws(60, 200, seed)])
        covered += low <= math.exp(0.5) <= high
    assert 0.83 <= covered / 80 <= 0.99


def test_a_result_is_a_dict_that_knows_its_intervals_and_why_it_has_none():
    figures = _scores().figures("perplexity")
    assert list(figures) == ["perplexity", "loss", "spread", "parameters"]
    assert (figures.samples, figures.unit, figures.level) == (80, "images", 0.95)
    assert set(figures.intervals) == {"perplexity", "loss", "spread"}
    assert figures.resamples == {"loss": 1000, "perplexity": 1000, "spread": 50}
    for name, (low, high) in figures.intervals.items():
        assert low < figures[name] < high
        assert figures.why_not(name) == ""
    assert figures.why_not("parameters") == "it is no mean over examples"
    lines = dict(figures.lines())
    assert lines["parameters"] == "7"
    assert lines["loss"].endswith("], n=80, in nats")
    told = json.loads(json.dumps(figures.as_dict()))
    assert told["figures"] == dict(figures)
    assert told["intervals"]["loss"] == list(figures.intervals["loss"])
    assert told["without"] == {
        "parameters": "it is no mean over examples",
        "lpips": "its weights are not here",
    }
    again = _scores().figures("perplexity")
    assert again == figures
    assert again.intervals == figures.intervals
    for twin in (copy.copy(figures), figures.copy(), pickle.loads(pickle.dumps(figures))):
        assert twin == figures
        assert twin.intervals == figures.intervals
    with pytest.raises(zoo.ZooError, match="expected one of perplexity, loss"):
        figures.interval("accuracy")


def test_what_has_no_interval_says_why():
    assert metrics.Figures({"loss": 1.0}).why_not("loss") == PLAIN
    scores = metrics.Scores()
    scores.mean("loss", [2.0])
    assert scores.figures().why_not("loss") == ALONE
    scores = metrics.Scores()
    scores.add("odd", lambda rows: 1 / (rows.sum() - 3), torch.tensor([1.0, 2.0, 1.0]))
    assert "no finite figure" in scores.figures().why_not("odd")
    scores = metrics.Scores("nodes")
    scores.mean("loss", [])
    with pytest.raises(zoo.DataError, match="no nodes to evaluate on"):
        scores.figures()
    with pytest.raises(zoo.DataError, match="as many weights as values, got 2 and 3"):
        metrics.Scores().ratio("loss", [1, 2, 3], [1, 2])
    with pytest.raises(zoo.DataError, match="one length, got 3, 2"):
        metrics.Scores().add("x", len, [1, 2, 3], [1, 2])


@pytest.mark.filterwarnings("ignore:Metric `Spearman")
@pytest.mark.parametrize("kept", ["states", "inputs"])
@pytest.mark.parametrize(
    "make",
    [
        lambda tm: (tm.MeanSquaredError(), torch.rand(30, 4), torch.rand(30, 4)),
        lambda tm: (tm.SpearmanCorrCoef(), torch.rand(30), torch.rand(30)),
        lambda tm: (tm.F1Score("multiclass", num_classes=3, average="macro"), torch.rand(30, 3), torch.arange(30) % 3),
        lambda tm: (tm.AUROC("binary"), torch.rand(30), torch.arange(30) % 2),
    ],
    ids=["sums", "lists", "vectors", "curves"],
)
def test_any_metric_of_torchmetrics_is_that_of_the_chosen_examples(make, kept):
    torchmetrics = pytest.importorskip("torchmetrics")
    metric, *inputs = make(torchmetrics)
    scores = metrics.Scores()
    if kept == "states":
        for start in (0, 20):
            scores.update("m", lambda: metric, *(one[start : start + 20] for one in inputs))
    else:
        scores.add("m", metric, *inputs)
    statistic = scores.statistics["m"]
    rows = torch.cat([torch.arange(30), torch.randint(30, (25,))])
    for chosen in (None, rows):
        metric.reset()
        expected = metric(*(one if chosen is None else one[chosen] for one in inputs))
        assert statistic.of(chosen) == pytest.approx(float(expected), rel=1e-5)


def test_states_that_cannot_be_joined_are_refused():
    torchmetrics = pytest.importorskip("torchmetrics")
    with pytest.raises(zoo.DataError, match=r"PearsonCorrCoef: the state 'mean_x' of one example cannot be joined"):
        States(torchmetrics.PearsonCorrCoef())
    scores = metrics.Scores()  # its inputs can be kept instead
    x = torch.rand(20, dtype=torch.float64)
    scores.add("pearson", torchmetrics.PearsonCorrCoef(), x, x + torch.rand(20, dtype=torch.float64))
    low, high = scores.figures().intervals["pearson"]
    assert -1 <= low < high <= 1


def test_pairs_tell_a_small_difference_that_intervals_apart_do_not():
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(100, generator=generator) * 3
    first, second = metrics.Scores("images"), metrics.Scores("images")
    first.mean("loss", noise + 0.1)
    second.mean("loss", noise + 0.05 * torch.randn(100, generator=generator))
    first.mean("accuracy", (noise > 1).float())
    second.mean("accuracy", (noise > 0).float())
    one, two = first.figures(), second.figures()
    assert one.intervals["loss"][0] < two["loss"] < one.intervals["loss"][1]
    found = metrics.paired(one, two)
    loss, accuracy = found["loss"], found["accuracy"]
    assert loss.value == pytest.approx(one["loss"] - two["loss"])
    assert 0 < loss.low < loss.value < loss.high
    assert (loss.better, accuracy.better) == (False, False)
    assert (loss.wins, loss.losses, loss.ties) == (
        int((second.statistics["loss"].values > first.statistics["loss"].values).sum()),
        int((second.statistics["loss"].values < first.statistics["loss"].values).sum()),
        0,
    )
    assert accuracy.wins == 0
    assert accuracy.losses + accuracy.ties == 100
    same = metrics.paired(one, one)
    assert (same["loss"].value, same["loss"].better, same["loss"].ties) == (0.0, None, 100)
    assert json.loads(json.dumps(found.as_dict()))["differences"]["loss"]["better"] is False
    assert "worse" in dict(found.lines())["loss"]


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (metrics.Figures({"loss": 1.0}), "no figure with values of each example in both"),
        (_scores(79).figures(), "80 images and 79 images"),
        (metrics.Figures({"loss": 1.0}, statistics={"loss": Ratio([1.0] * 80)}, unit="texts"), "80 texts"),
    ],
)
def test_other_examples_are_not_paired(other, why):
    with pytest.raises(zoo.DataError, match=why):
        metrics.paired(_scores().figures(), other)
