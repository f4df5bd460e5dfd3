"""The Fréchet distance against its closed form, and a judge's metrics of pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import zoo
from zoo import metrics


def _features(count: int, mean: torch.Tensor, root: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Return features `[count, d]` whose sample mean and unbiased covariance are exactly `mean` and `root @ root.T`."""
    x = torch.randn(count, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x - x.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T @ x / (count - 1)), x.T, upper=False).T
    return white @ root.T + mean


def _reference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Compute Dowson and Landau's formula, the root by eigenvalues of a symmetric matrix of equal spectrum."""
    a, b = a.double().numpy(), b.double().numpy()
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(cov_a)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def test_gaussians_with_diagonal_covariances_have_a_closed_form():
    a = _features(50, torch.tensor([0.0, 1.0, 2.0]), torch.diag(torch.tensor([1.0, 2.0, 3.0])).double())
    b = _features(80, torch.tensor([1.0, 1.0, 0.0]), torch.diag(torch.tensor([2.0, 2.0, 0.5])).double(), seed=1)
    # |μa - μb|² + Σ (σa - σb)²
    assert metrics.frechet_distance(a, b) == pytest.approx(1 + 4 + 1 + 0 + 2.5**2, rel=1e-9)


@pytest.mark.parametrize(("n", "m", "d"), [(200, 300, 5), (40, 30, 64), (2, 3, 4), (100, 100, 1)])
def test_correlated_features_agree_with_the_formula(n, m, d):
    generator = torch.Generator().manual_seed(d)
    a = torch.randn(n, d, generator=generator) @ torch.randn(d, d, generator=generator)
    b = torch.randn(m, d, generator=generator) @ torch.randn(d, d, generator=generator) + 0.3
    if d == 1:
        expected = float((a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2)
    else:
        expected = _reference(a, b)
    assert metrics.frechet_distance(a, b) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert metrics.frechet_distance(b, a) == pytest.approx(metrics.frechet_distance(a, b), rel=1e-9)


def test_torchmetrics_says_the_same():
    image = pytest.importorskip("torchmetrics.image.fid")

    class Flat(nn.Module):
        num_features = 12

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)

    a, b = torch.rand(40, 3, 2, 2), torch.rand(50, 3, 2, 2) ** 2
    fid = image.FrechetInceptionDistance(feature=Flat(), normalize=True, input_img_size=(3, 2, 2))
    fid.update(a, real=True)
    fid.update(b, real=False)
    assert metrics.frechet_distance(a.flatten(1), b.flatten(1)) == pytest.approx(fid.compute().item(), rel=1e-3)


def test_the_same_features_are_at_distance_zero_also_where_they_are_few_and_far():
    for shape in ((3, 100), (500, 8)):
        features = torch.randn(*shape) + 1e4
        assert metrics.frechet_distance(features, features) == pytest.approx(0, abs=1e-6)
        assert metrics.frechet_distance(features, features.flip(0)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("a", "b", "found"),
    [
        (torch.rand(4, 3), torch.rand(4, 2), "widths?, got 3 and 2"),
        (torch.rand(1, 3), torch.rand(4, 3), r"at least 2 items, got \[1, 3\]"),
        (torch.rand(4), torch.rand(4, 3), r"got \[4\]"),
        ([[1.0]], torch.rand(4, 1), "got list"),
        (torch.full((4, 2), float("nan")), torch.rand(4, 2), "finite"),
    ],
)
def test_other_features_are_refused(a, b, found):
    with pytest.raises(zoo.DataError, match=found):
        metrics.frechet_distance(a, b)


def test_accuracy_is_the_share_of_largest_scores():
    scores = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    assert metrics.accuracy(scores, torch.tensor([0, 1, 1])) == pytest.approx(2 / 3)
    for few, labels in ((scores, [0, 1]), (scores[:0], []), (scores[0], [0])):
        with pytest.raises(zoo.DataError, match="n labels"):
            metrics.accuracy(few, torch.tensor(labels))


class Judge(nn.Module):
    """A classifier of the mean brightness: dark or bright."""

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x.mean((1, 2, 3)), x.std((1, 2, 3))], -1)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        return x if pre_logits else torch.stack([-x[:, 0], x[:, 0]], -1)


class Judging:
    """The part of `zoo.Model` that a judge needs."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.device, self.dtype = module, torch.device("cpu"), torch.float32

    def batches(self, images, *, batch_size, split):
        assert split == "all"
        return ({"images": part * 2 - 1} for part in images.split(batch_size))


def test_a_judge_gives_distance_and_accuracy_and_is_left_as_it_was():
    judge = Judging(Judge().train())
    images = torch.cat([torch.rand(150, 1, 4, 4) * 0.3, torch.rand(150, 1, 4, 4) * 0.3 + 0.7])
    labels = torch.tensor([0] * 150 + [1] * 150)
    features, probabilities = metrics.read(judge, images)
    assert features.shape == probabilities.shape == (300, 2)
    assert torch.allclose(features[:, 0], images.mean((1, 2, 3)) * 2 - 1, atol=1e-6)
    assert metrics.judged(judge, images, labels=labels, reference=images) == pytest.approx(
        {"frechet": 0.0, "accuracy": 1.0}, abs=1e-6
    )
    assert metrics.judged(judge, images, labels=1 - labels) == {"accuracy": 0.0}
    assert judge.module.training
    with pytest.raises(zoo.DataError, match="forward_features as judge, got a Linear"):
        metrics.read(Judging(nn.Linear(2, 2)), images)
