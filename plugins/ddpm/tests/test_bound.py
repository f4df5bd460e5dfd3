"""The variational bound: the code of 256 levels, and models whose bound is known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDPMScheduler
from torch.distributions import Normal, kl_divergence

import zoo
from zoo_ddpm.bound import discrete_likelihood, gaussian_divergence, negative_elbo


def test_the_code_of_256_levels_is_a_distribution_also_in_its_tails():
    levels = torch.linspace(-1, 1, 256, dtype=torch.float64)[:, None]
    means = torch.tensor([-0.99, 0.0, 0.3, 5.0], dtype=torch.float64)
    for deviation in (1e-3, 0.05, 2.0):
        logs = discrete_likelihood(levels, means, torch.tensor(deviation, dtype=torch.float64).log() * 2)
        assert torch.isfinite(logs).all()
        assert torch.allclose(logs.exp().sum(0), torch.ones(4, dtype=torch.float64), rtol=1e-6)
    inner = Normal(means, 0.05)
    cdf = inner.cdf(levels[100] + 1 / 255) - inner.cdf(levels[100] - 1 / 255)
    found = discrete_likelihood(levels[100:101], means, torch.tensor(0.05**2, dtype=torch.float64).log())
    assert torch.allclose(found[0, :3].exp(), cdf[:3], rtol=1e-9)


class Oracle(torch.nn.Module):
    """Knows the clean images, but for an error of its noise."""

    def __init__(self, config, clean: torch.Tensor, error: float) -> None:
        super().__init__()
        self.config, self.clean, self.error = config, clean, error
        self.kept = DDPMScheduler(num_train_timesteps=100).alphas_cumprod

    def forward(self, noisy, times):
        kept = self.kept[times].view(-1, 1, 1, 1)
        noise = (noisy - kept.sqrt() * self.clean) / (1 - kept).sqrt()
        return type("Output", (), {"sample": noise + self.error})


@pytest.mark.parametrize("kind", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("error", [0.0, 0.1])
def test_of_a_model_that_knows_the_images(make, kind, error):
    unet, folder = make(scheduler={"variance_type": kind, "clip_sample": False})
    model = zoo.load(str(folder), device="cpu")
    clean = (torch.randint(0, 256, (3, 3, 8, 8)) / 127.5 - 1).clamp(-0.9, 0.9)
    model.adapter_set.module = Oracle(unet.config, clean, error)
    found = negative_elbo(model, clean, None, draws=99)  # every term
    kept = DDPMScheduler(num_train_timesteps=100).alphas_cumprod.double()
    x, numbers = clean.double(), clean[0].numel()
    expected = kl_divergence(Normal(kept[-1].sqrt() * x, (1 - kept[-1]).sqrt()), Normal(0.0, 1.0)).sum((1, 2, 3))
    for t in range(1, 100):
        beta = 1 - kept[t] / kept[t - 1]
        true = beta * (1 - kept[t - 1]) / (1 - kept[t])
        mine = true if kind == "fixed_small" else beta
        # An error of e in the noise moves the mean by β / √(α (1 - ᾱ)) · e (arXiv 2006.11239, equation 11).
        shift = error * beta / ((kept[t] / kept[t - 1]) * (1 - kept[t])).sqrt()
        one = kl_divergence(Normal(torch.zeros((), dtype=torch.float64), true.sqrt()), Normal(shift, mine.sqrt()))
        expected += numbers * float(one)
    second = (1 - kept[1] / kept[0]) * (1 - kept[0]) / (1 - kept[1])
    first = (1 - kept[0]) if kind == "fixed_large" else second
    moved = x - error * (1 - kept[0]) / (kept[0] * (1 - kept[0])).sqrt()
    expected += -discrete_likelihood(x, moved, first.log().expand_as(x)).sum((1, 2, 3))
    assert torch.allclose(found, expected, rtol=1e-4)


def test_fewer_terms_are_an_estimate_of_all_of_them(make):
    model = zoo.load(str(make(scheduler={"clip_sample": False})[1]), device="cpu")
    images = torch.rand(40, 3, 8, 8) * 2 - 1
    few, all_of_them = (negative_elbo(model, images, None, draws=draws).mean() for draws in (16, 99))
    assert few.item() == pytest.approx(all_of_them.item(), rel=0.3)
    found = model.evaluate(zoo.Data(images / 2 + 0.5, split="all"), metrics=["elbo", "bits_per_dim"])
    assert list(found) == ["noise_mse", "elbo", "bits_per_dim"]
    assert found["bits_per_dim"] == pytest.approx(-found["elbo"] / (192 * math.log(2)))
    assert found.intervals["elbo"][0] < found["elbo"] < found.intervals["elbo"][1]


def test_the_divergence_is_torchs():
    mean, logvar, other, other_logvar = torch.randn(4, 20, dtype=torch.float64)
    expected = kl_divergence(Normal(mean, (logvar / 2).exp()), Normal(other, (other_logvar / 2).exp()))
    assert torch.allclose(gaussian_divergence(mean, logvar, other, other_logvar), expected)


def test_a_learned_variance_has_no_such_bound(make):
    model = zoo.load(str(make(out_channels=6, scheduler={"variance_type": "learned_range"})[1]), device="cpu")
    with pytest.raises(zoo.ZooError, match="need variances that are fixed, it has 'learned_range'"):
        model.evaluate(torch.rand(20, 3, 8, 8), metrics=["elbo"])


def test_drawn_images_beside_held_out_ones(make):
    model = zoo.load(str(make()[1]), device="cpu")
    data = zoo.Data(torch.rand(9, 3, 8, 8), split="all")
    before = torch.get_rng_state()
    found = model.evaluate(data, metrics=["fid", "recall"], samples=6)
    assert [found.count(name) for name in found] == [9, 6, 6]
    assert "pixels averaged to 8 × 8" in found.notes["fid"]
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(zoo.UnknownNameError, match=r"no metric 'fit': .*Did you mean 'fid'"):
        model.evaluate(torch.rand(20, 3, 8, 8), metrics=["fit"])
