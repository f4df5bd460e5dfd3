"""What quantizing each weight costs the loss, measured: the costs by which an average is spent.

From the mean squared gradients of `zoo.weights.fisher` and the weights' own values. Both have to be there in full
precision, so that measuring takes the memory of the whole model, and that of its gradients' squares again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from zoo.catalog.entry import Entry
from zoo.plugin.plan import offered, spendable
from zoo.plugin.quantize import pack_weight
from zoo.weights.fisher import squared_gradients
from zoo.weights.scheme import Quantization
from zoo.weights.walk import TiedGroup

# Called with a weight's name, its number from 0, and how many there are.
Report = Callable[[str, int, int], None]


def measure_costs(
    entry: Entry,
    module: nn.Module,
    groups: list[TiedGroup],
    scheme: Quantization,
    losses: Iterable[Tensor],
    dtype: torch.dtype | None = None,
    report: Report | None = None,
) -> dict[str, dict[str, float]]:
    """Return what each of `zoo.plugin.plan.offered` costs each weight that an average is for, for `plan(costs=)`.

    The whole model is in memory in full precision, with one float32 tensor more for each of these weights, and it stays
    as it is.

    Args:
        entry: The model's entry.
        module: The module with its weights in full precision.
        groups: All its parameters.
        scheme: With the average.
        losses: Of some batches: the model's own, or `zoo.weights.fisher.output_losses(module, batches)`. They are asked
            for one by one, after each other's backward pass.
        dtype: As of `plan`.
        report: Is told which weight is being quantized.

    Raises:
        DataError: there is no loss.
        QuantizationError: a loss is not finite, or a weight cannot be quantized.
    """
    free = spendable(entry, groups, scheme)
    squares = squared_gradients(module, free, losses)
    return costs_of(entry, free, scheme, squares, dtype, report)


def costs_of(
    entry: Entry,
    groups: list[TiedGroup],
    scheme: Quantization,
    squares: Mapping[str, Tensor],
    dtype: torch.dtype | None = None,
    report: Report | None = None,
) -> dict[str, dict[str, float]]:
    """Return ½ · Σ F_ii · (Q(w)_i − w_i)² for each weight w, stored in each of `zoo.plugin.plan.offered`.

    Args:
        entry: The model's entry.
        groups: The weights.
        scheme: With the average.
        squares: Each weight's F, by name and in its shape.
        dtype: As of `plan`.
        report: Is told which weight is being quantized.

    Raises:
        QuantizationError: a weight cannot be quantized.
    """
    found = {}
    for number, group in enumerate(groups):
        if report is not None:
            report(group.name, number, len(groups))
        weight = group.tensor().detach()
        own = dtype or weight.dtype
        costs = {}
        for label, width in offered(scheme, own).items():
            stored = pack_weight(entry, group, weight, {group.name: width}, own)
            dense = weight.to(own) if stored is None else stored()
            error = (dense.to(squares[group.name].dtype) - weight.to(squares[group.name].dtype)).square_()
            costs[label] = 0.5 * float((squares[group.name] * error).sum(dtype=torch.float64))
        found[group.name] = costs
    return found
