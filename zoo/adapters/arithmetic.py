"""Arithmetic on several adapters' tensors: weighted sums, and pruning before them.

Tensors have any shape (...), the same for all adapters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def mix(method: str, tensors: Sequence[Tensor], weights: Sequence[float], density: float, majority_sign: str) -> Tensor:
    """Combine tensors of the same shape into one.

    Args:
        method: "linear": the weighted sum. "magnitude_prune": the weighted sum of the `density` largest values of each
            tensor. "dare_linear": that of a random `density` of each, divided by it (arXiv 2311.03099). "ties": prune
            to the largest values of each, then take the mean of those that agree with the majority's sign (arXiv
            2306.01708); "dare_ties": the same with random ones.
        tensors: One per adapter.
        weights: One per tensor.
        density: The share of values to keep.
        majority_sign: See `merge_by_sign`.
    """
    if method in ("ties", "magnitude_prune"):
        tensors = [keep_largest(tensor, density) for tensor in tensors]
    elif method.startswith("dare"):
        tensors = [keep_random(tensor, density) for tensor in tensors]
    if method.endswith("ties"):
        return merge_by_sign(tensors, weights, majority_sign)
    return sum((weight * tensor for weight, tensor in zip(weights, tensors, strict=True)), torch.zeros_like(tensors[0]))


def keep_largest(tensor: Tensor, density: float) -> Tensor:
    """Keep the share `density` of the values that is largest in magnitude; set the others to zero."""
    if density >= 1:
        return tensor
    mask = torch.zeros(tensor.numel(), dtype=torch.bool, device=tensor.device)  # flat
    mask[tensor.abs().flatten().topk(int(density * tensor.numel())).indices] = True
    return torch.where(mask.view(tensor.shape), tensor, 0)


def keep_random(tensor: Tensor, density: float) -> Tensor:
    """Keep each value with probability `density`, divided by it; set the others to zero.

    The expectation is the tensor itself.
    """
    if density >= 1:
        return tensor
    return tensor * torch.bernoulli(torch.full_like(tensor, density)) / density


def merge_by_sign(tensors: Sequence[Tensor], weights: Sequence[float], majority_sign: str) -> Tensor:
    """Return, element by element, the mean of the weighted values whose sign, before weighting, is the majority's.

    A tie counts as positive. Zeros are never in the majority; the mean is over the values that agree.

    Args:
        tensors: One per adapter.
        weights: One per tensor.
        majority_sign: "total": the sign of the sum; "frequency": the sign that most values have.
    """
    stacked = torch.stack(list(tensors))  # (adapters, ...)
    votes = stacked if majority_sign == "total" else stacked.sign()  # (adapters, ...)
    majority = torch.where(votes.sum(0) >= 0, 1.0, -1.0)  # (...)
    agrees = stacked.sign() == majority  # (adapters, ...)
    scales = stacked.new_tensor(list(weights)).view(-1, *[1] * (stacked.dim() - 1))  # (adapters, 1, …)
    return (stacked * scales * agrees).sum(0) / agrees.sum(0).clamp(min=1)  # (...)
