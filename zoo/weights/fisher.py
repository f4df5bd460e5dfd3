"""How much a model's loss depends on each value of its weights: the diagonal of the Fisher information.

A change δ of a weight, as quantizing it is, changes the loss by about ½ · Σ F_ii · δ_i², where F is the mean of squared
gradients (the diagonal of the Fisher information, which is that of the Gauss-Newton matrix for the usual losses: J.
Martens, arXiv 1412.1193). The errors of quantizing a weight's values are nearly independent, so that what is beside the
diagonal cancels.

The mean is over the losses that the caller gives: those of the model's own training on some batches, or, where only the
module is known, the projections of its outputs that `output_losses` makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import DataError, QuantizationError
from zoo.torch_state.modes import evaluating
from zoo.weights.walk import TiedGroup


def squared_gradients(module: nn.Module, groups: Iterable[TiedGroup], losses: Iterable[Tensor]) -> dict[str, Tensor]:
    """Return the mean over the losses of each weight's squared gradient, by the weight's name and in its shape.

    The weights are plain parameters, in full precision. Beside them and what one backward pass takes, there is one
    tensor of each weight's size in memory, float32 or wider. The module runs in evaluation mode; gradients, and what
    trains, are afterwards as before.

    Args:
        module: The whole module, which the losses come from.
        groups: The weights.
        losses: Scalars with a graph. Each is asked for when the one before is done, so that they can be made one by
            one; all count alike.

    Raises:
        DataError: there is no loss.
        QuantizationError: one of them is not finite, or has no graph.
    """
    weights = {group.name: group.value for group in groups if isinstance(group.value, nn.Parameter)}
    sums = {
        name: torch.zeros(weight.shape, dtype=torch.promote_types(weight.dtype, torch.float32), device=weight.device)
        for name, weight in weights.items()
    }

    def collect(name: str, weight: Tensor) -> None:
        if weight.grad is not None:
            gradient = weight.grad.to(sums[name].dtype)
            sums[name].addcmul_(gradient, gradient)
            weight.grad = None

    count = 0
    recurrent = any(isinstance(layer, nn.RNNBase) for layer in module.modules())
    with (
        evaluating(module),
        _only_these_train(module, list(weights.values())),
        torch.enable_grad(),
        # cuDNN has no backward pass for recurrences in evaluation mode.
        torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled and not recurrent),
    ):
        handles = [
            weight.register_post_accumulate_grad_hook(lambda weight, name=name: collect(name, weight))
            for name, weight in weights.items()
        ]
        try:
            for loss in losses:
                if not loss.requires_grad or not bool(torch.isfinite(loss)):
                    why = f"is {loss.item():g}" if loss.requires_grad else "has no graph"
                    raise QuantizationError(f"expected finite losses that depend on the weights, got one that {why}")
                loss.backward()
                count += 1
        finally:
            for handle in handles:
                handle.remove()
    if not count:
        raise DataError("expected at least one batch to measure sensitivities with, got none")
    return {name: total.div_(count) for name, total in sums.items()}


@contextmanager
def _only_these_train(module: nn.Module, weights: list[nn.Parameter]) -> Iterator[None]:
    """Let gradients reach these parameters and no others; afterwards all are as they were, their gradients too."""
    before = [(parameter, parameter.requires_grad, parameter.grad) for parameter in module.parameters()]
    chosen = set(map(id, weights))
    for parameter, _, _ in before:
        parameter.grad = None
        if parameter.is_floating_point():
            parameter.requires_grad_(id(parameter) in chosen)
    try:
        yield
    finally:
        for parameter, trained, gradient in before:
            if parameter.is_floating_point():
                parameter.requires_grad_(trained)
            parameter.grad = gradient


def output_losses(
    module: Callable[..., Any], batches: Iterable[Any], *, draws: int = 1, seed: int = 0
) -> Iterator[Tensor]:
    """Yield random projections of the module's outputs, for `squared_gradients` where no loss is known.

    With signs v drawn at random, the mean square of the gradient of v·f / ‖f‖ is the diagonal of the Gauss-Newton
    matrix of ½‖f − f₀‖² / ‖f₀‖², half the relative squared change of the output f (as in F. Dangel et al., arXiv
    1912.10985). Each tensor of several outputs counts alike.

    Args:
        module: Any module.
        batches: What it is called with: a tensor, a tuple of positional arguments, or a mapping of keywords.
        draws: Projections of each batch, each with a forward and a backward pass.
        seed: Of the signs.

    Raises:
        DataError: an output holds no tensor of floats.
    """
    random = torch.Generator().manual_seed(seed)
    for batch in batches:
        for _ in range(draws):
            if isinstance(batch, Mapping):
                output = module(**batch)
            else:
                output = module(*batch) if isinstance(batch, tuple | list) else module(batch)
            parts = []
            for found in _tensors(output):
                signs = torch.randint(2, found.shape, generator=random).to(found.device, found.dtype) * 2 - 1
                norm = found.detach().norm().clamp(min=torch.finfo(found.dtype).tiny)
                parts.append((found * signs).sum() / norm)
            if not parts:
                raise DataError(f"expected outputs with tensors of floats in them, got {type(output).__name__}")
            yield sum(parts[1:], parts[0])


def _tensors(output: Any) -> Iterator[Tensor]:
    """Yield the tensors of floats in a module's output that depend on its weights."""
    if isinstance(output, Tensor):
        if output.is_floating_point() and output.requires_grad and output.numel():
            yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, tuple | list):
        for value in output:
            yield from _tensors(value)
    elif is_dataclass(output):
        for one in fields(output):
            yield from _tensors(getattr(output, one.name))
