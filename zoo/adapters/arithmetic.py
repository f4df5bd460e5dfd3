"""Arithmetic on several adapters' tensors: weighted sums, and what is dropped before them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def mix(method: str, tensors: Sequence[Tensor], weights: Sequence[float], density: float, majority_sign: str) -> Tensor:
    """One tensor made of like ones.

    linear: the weighted sum. magnitude_prune: of the `density` largest values of each. dare_linear: of a random
    `density` of each, divided by it (arXiv 2311.03099). ties: the largest values of each, then the mean of those that
    agree with the majority's sign (arXiv 2306.01708); dare_ties: the same of random ones.
    """
    if method in ("ties", "magnitude_prune"):
        tensors = [largest(tensor, density) for tensor in tensors]
    elif method.startswith("dare"):
        tensors = [drawn(tensor, density) for tensor in tensors]
    if method.endswith("ties"):
        return agreeing(tensors, weights, majority_sign)
    return sum((weight * tensor for weight, tensor in zip(weights, tensors, strict=True)), torch.zeros_like(tensors[0]))


def largest(tensor: Tensor, density: float) -> Tensor:
    """The share `density` of the values that is largest in magnitude; the others zero."""
    if density >= 1:
        return tensor
    kept = torch.zeros(tensor.numel(), dtype=torch.bool, device=tensor.device)
    kept[tensor.abs().flatten().topk(int(density * tensor.numel())).indices] = True
    return torch.where(kept.view(tensor.shape), tensor, 0)


def drawn(tensor: Tensor, density: float) -> Tensor:
    """Each value with the probability `density`, divided by it, so that the expectation is the tensor; else zero."""
    if density >= 1:
        return tensor
    return tensor * torch.bernoulli(torch.full_like(tensor, density)) / density


def agreeing(tensors: Sequence[Tensor], weights: Sequence[float], majority_sign: str) -> Tensor:
    """At each place the mean of the weighted values whose sign, before weighting, is the majority's.

    majority_sign: "total", the sign of the sum; "frequency", the sign that most have. A tie is positive. Zeros are in
    nobody's majority; the mean is over those that count.
    """
    stacked = torch.stack(list(tensors))  # (adapters, ...)
    votes = stacked if majority_sign == "total" else stacked.sign()
    elected = torch.where(votes.sum(0) >= 0, 1.0, -1.0)
    counts = stacked.sign() == elected
    shares = stacked.new_tensor(list(weights)).view(-1, *[1] * (stacked.dim() - 1))
    return (stacked * shares * counts).sum(0) / counts.sum(0).clamp(min=1)
