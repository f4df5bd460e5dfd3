"""Metrics of classes, tokens, pictures and answers, against other libraries and double precision."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import zoo
from zoo import metrics
from zoo.metrics.directions import RISING
from zoo.metrics.distances import covered, sliced_wasserstein
from zoo.metrics.drawn import DISTANCES
from zoo.metrics.texts import ANSWERS


@pytest.mark.parametrize("classes", [2, 5, 6, 40])
def test_classes(classes):
    sklearn = pytest.importorskip("sklearn.metrics")
    logits, labels = 3 * torch.randn(200, classes), torch.randint(classes, (200,))
    labels[:classes] = torch.arange(classes)
    scores = metrics.Scores()
    metrics.add_classification(scores, logits, labels)
    found = scores.figures()
    shares = logits.double().softmax(-1).numpy()
    assert found["accuracy"] == pytest.approx(sklearn.accuracy_score(labels, logits.argmax(-1)))
    assert found["loss"] == pytest.approx(sklearn.log_loss(labels, shares), rel=1e-6)
    assert ("top5_accuracy" in found) == (classes > 5)
    if classes > 5:
        assert found["top5_accuracy"] == pytest.approx(sklearn.top_k_accuracy_score(labels, shares, k=5))
    confidence, right = shares.max(1), (logits.argmax(-1) == labels).numpy()
    bins = np.clip(np.ceil(confidence * 15) - 1, 0, 14)
    parts = [(right[bins == b].mean(), confidence[bins == b].mean(), (bins == b).mean()) for b in np.unique(bins)]
    expected = sum(weight * abs(accuracy - mean) for accuracy, mean, weight in parts)
    assert found["calibration_error"] == pytest.approx(expected, abs=1e-5)


def test_tokens_are_counted_by_row_in_double_precision():
    counts, vocabulary = [5, 0, 1, 30], 50
    logits = 4 * torch.randn(sum(counts), vocabulary)
    tokens = torch.randint(vocabulary, (sum(counts),))
    logits[3, tokens[3]] = -300.0  # whose probability is 0 in single precision
    found = metrics.TokenScores("rows", accuracy=True, top=True)
    found.add(logits[:6], tokens[:6], counts[:3])
    found.add(logits[6:], tokens[6:], counts[3:])
    scores = found.scores()
    found.bits_per_byte(scores, 123)
    figures = scores.figures("perplexity")
    nats = F.cross_entropy(logits.double(), tokens, reduction="none")
    assert figures.samples == 3  # rows without a place are none
    assert figures["loss"] == pytest.approx(float(nats.mean()), rel=1e-9)
    assert figures["perplexity"] == pytest.approx(math.exp(nats.mean()), rel=1e-9)
    assert figures["bits_per_byte"] == pytest.approx(float(nats.sum()) / math.log(2) / 123, rel=1e-9)
    best = logits.topk(5).indices
    assert figures["accuracy"] == pytest.approx(float((best[:, 0] == tokens).double().mean()))
    assert figures["top5_accuracy"] == pytest.approx(float((best == tokens[:, None]).any(1).double().mean()))
    low, high = figures.intervals["perplexity"]
    losses = figures.intervals["loss"]
    assert (low, high) == pytest.approx((math.exp(losses[0]), math.exp(losses[1])), rel=1e-9)


def test_distances_of_projections_and_manifolds():
    stats = pytest.importorskip("scipy.stats")
    neighbours = pytest.importorskip("sklearn.neighbors")
    a, b = torch.randn(60, 1), torch.randn(60, 1) * 2 + 1
    assert sliced_wasserstein(a, b) == pytest.approx(stats.wasserstein_distance(a[:, 0], b[:, 0]), rel=1e-6)
    a, b = torch.randn(80, 5), torch.randn(80, 5) + 0.4
    lines = torch.randn(5, 256, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lines /= lines.norm(dim=0)
    each = [stats.wasserstein_distance(a.double() @ line, b.double() @ line) for line in lines.T]
    assert sliced_wasserstein(a, b) == pytest.approx(np.mean(each), rel=1e-6)
    assert sliced_wasserstein(a, a.flip(0)) == pytest.approx(0, abs=1e-12)
    radii = neighbours.NearestNeighbors(n_neighbors=4).fit(b).kneighbors(b)[0][:, 3]
    expected = (torch.cdist(a.double(), b.double()).numpy() <= radii).any(1)
    assert covered(a, b).bool().numpy().tolist() == expected.tolist()
    assert covered(b, b).all()
    with pytest.raises(zoo.DataError, match="more than 3 items of each kind, got 3"):
        covered(a, b[:3])
    with pytest.raises(zoo.DataError, match="as many features"):
        sliced_wasserstein(a, b[:4])


class Features(nn.Module):
    """A fixed map of pictures to six features."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, 6, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.adaptive_avg_pool2d(x, 4).flatten(1) @ self.weight


class Reader(nn.Module):
    """A classifier as timm's are."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = Features(), nn.Linear(6, 4)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(x)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        return x if pre_logits else 5 * self.head(x)


class Judging:
    """The part of `zoo.Model` that a judge needs."""

    entry, device, dtype = zoo.Entry("reader", "none"), torch.device("cpu"), torch.float32

    def __init__(self) -> None:
        self.module = Reader()

    def batches(self, images, *, batch_size, split):
        return ({"images": part} for part in images.split(batch_size))


@pytest.mark.filterwarnings("ignore:Metric `Kernel")
def test_drawn_pictures_in_a_space_that_has_a_name():
    kid_of = pytest.importorskip("torchmetrics.image.kid")
    real, drawn = torch.rand(60, 1, 8, 8), torch.rand(60, 1, 8, 8) ** 1.3
    judge, scores = Judging(), metrics.Scores("images")
    before = torch.get_rng_state()
    metrics.add_distances(scores, drawn, real, DISTANCES, judge)
    found = scores.figures()
    assert set(found.intervals) == set(DISTANCES)
    assert torch.equal(torch.get_rng_state(), before)
    assert list(found) == list(DISTANCES)
    with torch.no_grad():
        mine, theirs = judge.module.features(drawn), judge.module.features(real)
        logits = judge.module.forward_head(mine).double()
    assert found["fid"] == pytest.approx(metrics.frechet_distance(mine, theirs), rel=1e-5)
    kernel = kid_of.KernelInceptionDistance(feature=nn.Identity(), subsets=1, subset_size=60)
    kernel.inception = nn.Identity()
    kernel.update(theirs.double(), real=True)
    kernel.update(mine.double(), real=False)
    assert found["kid"] == pytest.approx(float(kernel.compute()[0]), rel=1e-6)
    shares = logits.softmax(-1)
    divergence = (shares * (shares.log() - shares.mean(0).log())).sum(1).mean()
    assert found["inception_score"] == pytest.approx(float(divergence.exp()), rel=1e-5)
    for name, (low, high) in found.intervals.items():
        assert low <= found[name] <= high, name
        assert "features of reader" in found.notes[name]
    again = metrics.Scores("images")
    metrics.add_distances(again, drawn, real, ("fid",), judge.module.features)
    assert again.figures()["fid"] == pytest.approx(found["fid"], rel=1e-6)
    assert "features of Features, 6 wide" in again.figures().notes["fid"]


@pytest.mark.parametrize(
    ("judge", "names", "why"),
    [
        ("vit", ("fid",), r"a loaded image classifier, such as zoo.load\('vit'\)"),
        (3, ("fid",), "or a module, got int"),
        ("inception", ("fid",), "needs torch-fidelity and its weights"),
        (None, ("inception_score",), "pixels averaged to 8 × 8 have none"),
        (None, ("recall",), "more than 3 items of each kind, got 2"),
    ],
)
def test_judges_that_cannot_say_are_refused(judge, names, why, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    few = torch.rand(2, 1, 9, 9)
    with pytest.raises(zoo.DataError, match=why):
        metrics.add_distances(metrics.Scores(), few, few, names, judge)
    with pytest.raises(zoo.DataError, match="at least 2; got 1 drawn and 2 real"):
        metrics.add_distances(metrics.Scores(), few[:1], few, ("fid",))


def test_pictures_beside_what_they_should_be(monkeypatch, tmp_path):
    made, wanted = torch.rand(6, 3, 16, 16), torch.rand(6, 3, 16, 16)
    made[0] = wanted[0]
    scores = metrics.Scores("images")
    metrics.add_likeness(scores, made, wanted, ("psnr", "ssim"))
    found = scores.figures()
    errors = (made.double() - wanted.double()).square().flatten(1).mean(1)
    each = torch.where(errors > 0, -10 * errors.log10(), 100.0)
    assert found["psnr"] == pytest.approx(float(each.mean()), rel=1e-5)
    one = torch.arange(11) - 5.0
    window = torch.exp(-one.square() / 2 / 1.5**2)
    window = (window[:, None] * window / window.sum() ** 2).double().expand(3, 1, 11, 11)
    x, y = (F.pad(each.double(), (5, 5, 5, 5), mode="reflect") for each in (made, wanted))
    mean_x, mean_y, xx, yy, xy = (F.conv2d(each, window, groups=3) for each in (x, y, x * x, y * y, x * y))
    top = (2 * mean_x * mean_y + 1e-4) * (2 * (xy - mean_x * mean_y) + 9e-4)
    bottom = (mean_x**2 + mean_y**2 + 1e-4) * (xx - mean_x**2 + yy - mean_y**2 + 9e-4)
    expected = (top / bottom).mean((1, 2, 3))
    assert found["ssim"] == pytest.approx(float(expected.mean()), rel=1e-4)
    with pytest.raises(zoo.DataError, match="windows of 11 pixels"):
        metrics.add_likeness(metrics.Scores(), made[..., :8], wanted[..., :8], ("ssim",))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(zoo.DataError, match=r"AlexNet, .* not on this machine: put them there, or leave it out"):
        metrics.add_likeness(metrics.Scores(), made, wanted, ("lpips",))


def _grams(text: str, n: int) -> dict[str, int]:
    found: dict[str, int] = {}
    for start in range(len(text) - n + 1):
        found[text[start : start + n]] = found.get(text[start : start + n], 0) + 1
    return found


def test_answers():
    answers = ["the cat sat on the mat", "a dog barked", "same words here", ""]
    references = ["the cat is on the mat", "the big dog barked loudly", "same words here ", "nothing was said"]
    scores = metrics.Scores("answers")
    metrics.add_answers(scores, answers, references, ANSWERS)
    found = scores.figures()
    assert list(found) == list(ANSWERS)
    assert found["exact_match"] == 0.25
    # BLEU by its formula: clipped matches of n-grams over all sentences, and the brevity penalty.
    right, total = np.zeros(4), np.zeros(4)
    for a, b in zip(answers, references, strict=True):
        for n in range(1, 5):
            mine, theirs = ([tuple(w[i : i + n]) for i in range(len(w) - n + 1)] for w in (a.split(), b.split()))
            right[n - 1] += sum(min(mine.count(gram), theirs.count(gram)) for gram in set(mine))
            total[n - 1] += len(mine)
    said, wanted = (sum(len(one.split()) for one in texts) for texts in (answers, references))
    penalty = min(1.0, math.exp(1 - wanted / said))
    expected = penalty * math.exp(np.log(right / total).mean()) if right.all() else 0.0
    assert found["bleu"] == pytest.approx(expected, rel=1e-5)
    # chrF: mean over n of precision and recall of character n-grams without spaces, F with β = 2.
    shares = []
    for n in range(1, 7):
        pairs = [
            (_grams(a.replace(" ", ""), n), _grams(b.replace(" ", ""), n))
            for a, b in zip(answers, references, strict=True)
        ]
        hits = sum(min(count, b.get(gram, 0)) for a, b in pairs for gram, count in a.items())
        precision, recall = (hits / sum(sum(pair[side].values()) for pair in pairs) for side in (0, 1))
        shares.append(5 * precision * recall / (4 * precision + recall) if hits else 0.0)
    assert found["chrf"] == pytest.approx(np.mean(shares), rel=1e-4)
    # ROUGE-L of the first pair: "the cat on the mat" is common, 5 of 6 words on both sides.
    assert float(scores.statistics["rougeL"].each()[0]) == pytest.approx(5 / 6)
    assert float(scores.statistics["rouge2"].each()[0]) == pytest.approx(3 / 5)
    assert float(scores.statistics["rouge1"].each()[3]) == 0.0
    assert set(found.intervals) == set(ANSWERS)


def test_more_is_better_of_what_it_is():
    assert {"accuracy", "elbo", "psnr", "rougeL", "inception_score", "recall"} <= RISING
    assert not RISING & {"perplexity", "fid", "kid", "lpips", "calibration_error", "bits_per_dim", "loss"}
