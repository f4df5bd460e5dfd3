"""The variational bound on an image's likelihood (arXiv 2006.11239, equation 5). Shapes: n images [n, c, h, w]."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from zoo import ZooError

from .model import as_noise, predict, scheduler

if TYPE_CHECKING:
    from diffusers import DDPMScheduler
    from torch import Tensor

    from zoo import Model

DRAWS = 16  # timesteps for each image, one of each of so many equal parts of the schedule, beside the last
_HALF_BIN = 1 / 255  # of a pixel value of 256 levels in [-1, 1]


def negative_elbo(model: Model, images: Tensor, labels: Tensor | None, draws: int = DRAWS) -> Tensor:
    """Return an upper bound on -log p(x0) of each image in nats, float64 [n], by an unbiased estimate.

    It is L_T + Σ_t L_t + L_0: the divergence of q(x_T | x0) from the prior, those of the posterior's steps from the
    model's, and the code of x0 in 256 levels. Of the sum, `draws` of the terms are computed. The variances are those of
    the scheduler's `variance_type`: "fixed_small" (the posterior's, and at the first step that of the second) or
    "fixed_large" (β).

    Args:
        model: the model.
        images: x0 in [-1, 1], [n, c, h, w].
        labels: what the U-Net takes with them, or None.
        draws: how many timesteps; at least all of them: the sum is exact but for its noise.

    Raises:
        ZooError: the model learns its variances, or clips what it predicts by a threshold.
    """
    schedule = scheduler(model.entry)
    kind = schedule.config.variance_type
    if kind not in ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"):
        raise ZooError(f"{model.entry.name}: elbo and bits_per_dim need variances that are fixed, it has {kind!r}")
    steps = schedule.config.num_train_timesteps
    generator = torch.Generator().manual_seed(0)
    last = schedule.alphas_cumprod[-1].double()
    mean, variance = last.sqrt() * images.double(), (1 - last).expand(images.shape)
    total = gaussian_divergence(mean, variance.log(), torch.zeros(()), torch.zeros(())).flatten(1).sum(1)
    total += _term(model, schedule, images, labels, torch.zeros(len(images), dtype=torch.int64), generator)
    inner = steps - 1  # the terms of t = 1 … steps - 1
    draws = min(draws, inner)
    for number in range(draws):
        low, high = 1 + number * inner // draws, 1 + (number + 1) * inner // draws
        times = torch.randint(low, high, (len(images),), generator=generator)
        total += (high - low) * _term(model, schedule, images, labels, times, generator)
    return total


def gaussian_divergence(mean: Tensor, logvar: Tensor, other: Tensor, other_logvar: Tensor) -> Tensor:
    """Return KL(N(mean, e^logvar) ‖ N(other, e^other_logvar)) of each value, in nats."""
    spread = (logvar - other_logvar).exp() + (mean - other).square() * (-other_logvar).exp()
    return 0.5 * (other_logvar - logvar + spread - 1)


def discrete_likelihood(x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """Return log P(x) of each value in 256 levels of [-1, 1], under N(mean, e^logvar); the outer bins are open."""
    deviation = (logvar / 2).exp()
    above, below = (x + _HALF_BIN - mean) / deviation, (x - _HALF_BIN - mean) / deviation
    # From the side where the tail is: the difference of two numbers near 1 would have few digits.
    flip = (above + below) > 0
    above, below = torch.where(flip, -below, above), torch.where(flip, -above, below)
    low, high = torch.special.log_ndtr(below), torch.special.log_ndtr(above)
    inside = high + torch.log1p(-(low - high).clamp(max=-1e-15).exp())
    lowest, highest = x < -1 + _HALF_BIN, x > 1 - _HALF_BIN
    first = torch.special.log_ndtr((x + _HALF_BIN - mean) / deviation)
    final = torch.special.log_ndtr(-(x - _HALF_BIN - mean) / deviation)
    return torch.where(lowest, first, torch.where(highest, final, inside))


def _term(
    model: Model,
    schedule: DDPMScheduler,
    images: Tensor,
    labels: Tensor | None,
    times: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Return L_t of each image at its own timestep, float64 [n]; at t = 0 the code of x0."""
    noise = torch.randn(images.shape, generator=generator)
    noisy = schedule.add_noise(images, noise, times)
    output = predict(model, noisy, times, labels).cpu()[:, : images.shape[1]]
    guess = as_noise(schedule, output, noisy, times).double()
    kept, before = _alphas(schedule, times)
    x0 = images.double()
    found = (noisy.double() - (1 - kept).sqrt() * guess) / kept.sqrt()  # the model's x0
    if schedule.config.clip_sample:
        found = found.clamp(-schedule.config.clip_sample_range, schedule.config.clip_sample_range)
    beta = 1 - kept / before
    first = before.sqrt() * beta / (1 - kept)
    second = (kept / before).sqrt() * (1 - before) / (1 - kept)
    true, mean = (first * x + second * noisy.double() for x in (x0, found))
    posterior = (beta * (1 - before) / (1 - kept)).clamp(min=1e-20)
    if schedule.config.variance_type.startswith("fixed_large"):
        logvar = beta.log()
    else:
        next_kept, next_before = _alphas(schedule, torch.ones_like(times))
        of_second = (1 - next_kept / next_before) * (1 - next_before) / (1 - next_kept)
        logvar = torch.where(times.view(-1, 1, 1, 1) == 0, of_second, posterior).log()
    code = -discrete_likelihood(x0, mean, logvar.expand_as(x0))
    step = gaussian_divergence(true, posterior.log(), mean, logvar)
    return torch.where(times.view(-1, 1, 1, 1) == 0, code, step).flatten(1).sum(1)


def _alphas(schedule: DDPMScheduler, times: Tensor) -> tuple[Tensor, Tensor]:
    """Return ᾱ at t and at t - 1 (1 before the first), float64 [n, 1, 1, 1]."""
    kept = schedule.alphas_cumprod.double()
    before = torch.where(times > 0, kept[(times - 1).clamp(min=0)], torch.ones((), dtype=torch.float64))
    return kept[times].view(-1, 1, 1, 1), before.view(-1, 1, 1, 1)
