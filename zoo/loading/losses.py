"""Say when quantizing has left little of a weight, and what to do about it."""

from __future__ import annotations

import logging

from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.quantized_tensor import QuantizedTensor
from zoo.weights.walk import TiedGroup

LOST = 0.25  # relative error; nf4 has .09 on normally distributed values, and at most .18 on any of the embedded models


def warn_of_losses(name: str, groups: list[TiedGroup]) -> None:
    """Log a warning if weights of a model have a relative error above `LOST`.

    Args:
        name: The model's, for the message.
        groups: Its weights, as they are stored now.
    """
    lost: dict[str, float] = {}
    for group in groups:
        packed = group.value.packed if isinstance(group.value, ManagedWeight) else None
        if isinstance(packed, QuantizedTensor) and packed.error is not None and packed.error > LOST:
            lost[group.name] = packed.error
    if not lost:
        return
    worst = max(lost, key=lost.__getitem__)
    logging.getLogger("zoo").warning(
        "%s: quantizing left little of %d weights, most of all %s (relative error %.2f): store them finer, by name "
        "with bits={%r: 8, 'all': 4}, or all with bits=8",
        name,
        len(lost),
        worst,
        lost[worst],
        worst,
    )
