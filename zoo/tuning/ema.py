"""A moving average of what trains, kept with the optimizer's moments and so in every checkpoint."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.nn import Parameter

EMA = "average"  # its name among a parameter's moments, in checkpoints too


def move(named: Iterable[tuple[str, Parameter]], optimizer: torch.optim.Optimizer, decay: float, step: int) -> None:
    """Move the averages towards the parameters, after a step; a decay of 0 keeps none.

    The first steps count less: the decay of step t is (1 + t) / (10 + t) at most.
    """
    if not decay:
        return
    decay = min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        for _, parameter in named:
            if EMA in optimizer.state.get(parameter, {}):
                optimizer.state[parameter][EMA].lerp_(parameter, 1 - decay)
            elif parameter.grad is not None:  # before its first gradient an optimizer makes no state of its own
                optimizer.state[parameter][EMA] = parameter.detach().clone()


def put(named: Iterable[tuple[str, Parameter]], optimizer: torch.optim.Optimizer) -> None:
    """Put the averages, where there are some, in the place of the parameters."""
    with torch.no_grad():
        for _, parameter in named:
            average = optimizer.state.get(parameter, {}).get(EMA)
            if average is not None:
                parameter.copy_(average)
