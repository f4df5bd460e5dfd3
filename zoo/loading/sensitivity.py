"""What quantizing each weight of a catalogued model costs its loss on some data, and what an average makes of it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.catalog.entry import Entry
from zoo.errors import QuantizationError
from zoo.loading.buffers import construct
from zoo.loading.calibrated import calls_of, is_plugins
from zoo.loading.stream import stream
from zoo.model import Model
from zoo.plugin import hooks
from zoo.plugin.plan import offered, plan, planned_bytes
from zoo.plugin.sensitivity import measure_costs
from zoo.torch_state.modes import seeded
from zoo.weights.fisher import output_losses
from zoo.weights.scheme import Quantization
from zoo.weights.walk import TiedGroup, index_module, managed_weights, tied_groups, unwrapped

BATCHES, BATCH_SIZE = 16, 4  # on the embedded models eight batches choose nearly the same widths as 32


@dataclass(frozen=True)
class WeightCost:
    """One weight that an average is for.

    Attributes:
        name: The parameter's name.
        shape: Its shape.
        values: How many values it has.
        costs: What storing it so costs the loss, about, by the labels of `zoo.plugin.plan.offered`: comparable
            within one measurement, not between two.
        share: Its part of what all weights cost in 4 bit.
        chosen: What the average gives it; None if its architecture keeps it plain.
        stored: Bits per value that it then takes, scales included.
    """

    name: str
    shape: tuple[int, ...]
    values: int
    costs: dict[str, float]
    share: float
    chosen: Quantization | None
    stored: float


@dataclass(frozen=True)
class Sensitivity:
    """The weights of a model, the costliest first, and the average that is reached.

    Attributes:
        weights: Those that the average is for.
        average: Bits per value of all that is stored, what is kept plain included.
        cost: What the widths cost together, in the unit of the weights'.
        uniform: What 4 bit for all of them costs.
    """

    weights: tuple[WeightCost, ...]
    average: float
    cost: float
    uniform: float

    @property
    def quantization(self) -> Quantization:
        """What to load the model with, `zoo.load(name, bits=...)`: all these weights as chosen, by name."""
        plain = Quantization(32)
        pairs = [(weight.name.removesuffix(".weight"), weight.chosen or plain) for weight in self.weights]
        return Quantization(4, overrides=tuple(pairs))


def loss_costs(
    model: Model,
    data: Any,
    scheme: Quantization,
    *,
    dtype: torch.dtype | None = None,
    batches: int = BATCHES,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    report: Callable[[str, str, int, int], None] | None = None,
) -> dict[str, dict[str, float]]:
    """Return what each width costs each weight by the plugin's own loss, for `zoo.plugin.plan.plan(costs=)`.

    The model has to be there in full precision: its memory, its gradients' squares in float32, and what one backward
    pass takes. Nothing is streamed here.

    Args:
        model: In full precision, without adapters. It stays as it is.
        data: As of `Model.batches`; None for the plugin's own.
        scheme: With the average.
        dtype: The type that plain weights will be stored in; None for the model's.
        batches: How many, each with one backward pass.
        batch_size: Items in each: the fewer, the more a batch says.
        seed: Of the data's order and everything random in the loss.
        report: Called with the model's name, what is being done, its number from 0, and of how many.

    Raises:
        QuantizationError: the model is quantized already, or a loss is not finite.
        DataError: the data cannot be used.
    """
    if managed_weights(model.module):
        raise QuantizationError(
            f"{model.entry.name}: it has quantized weights or adapters, expected the model in full precision without "
            "any: load it with neither bits nor lora"
        )

    told = None if report is None else functools.partial(report, model.entry.name)

    def losses() -> Iterator[Tensor]:
        read = model.batches(data, batch_size=batch_size, split="train", seed=seed)
        for number, batch in enumerate(itertools.islice(read, batches)):
            if told is not None:
                told("batch", number, batches)
            yield model.loss(batch)

    with seeded(seed):
        groups = tied_groups(model.module)
        return measure_costs(model.entry, model.module, groups, scheme, losses(), dtype, told)


def costs_by_data(
    entry: Entry, scheme: Quantization | None, data: Any, device: torch.device, dtype: torch.dtype, seed: int | None
) -> dict[str, dict[str, float]] | None:
    """Return the costs for an average by the data of `zoo.load(calibrate=)`; None where they are not needed.

    The model is built in full precision for it, measured, and given up again.

    Args:
        entry: The model's.
        scheme: How it is to be quantized.
        data: As of `zoo.load(calibrate=)`; None if there is none.
        device: The model's.
        dtype: The compute dtype.
        seed: Of the data's order and everything random.

    Raises:
        QuantizationError: a loss is not finite.
        DataError: the data cannot be used.
    """
    if scheme is None or scheme.average is None or data is None:
        return None
    module = construct(entry)
    index = index_module(module)
    stream(hooks.checkpoint(entry, module), index, entry, {}, device, dtype)
    model = Model(module.eval(), entry, device, dtype, None, None, index.groups)
    if is_plugins(data):
        return loss_costs(model, None if data is True else data, scheme, dtype=dtype, seed=seed or 0)
    return costs_of_outputs(entry, module, index.groups, scheme, data, seed, device)


def costs_of_outputs(
    entry: Entry,
    module: nn.Module,
    groups: list[TiedGroup],
    scheme: Quantization | None,
    data: Any,
    seed: int | None,
    device: torch.device | None = None,
) -> dict[str, dict[str, float]] | None:
    """Return the costs for an average by how a module's outputs change; None where they are not needed.

    Args:
        entry: The model's.
        module: In full precision. It stays as it is.
        groups: All its parameters.
        scheme: How it is to be quantized.
        data: An iterable of what the module is called with; None if there is none.
        seed: Of everything random.
        device: Where the data goes; None leaves it where it is.

    Raises:
        QuantizationError: a gradient is not finite.
        DataError: the data does not fit.
    """
    if scheme is None or scheme.average is None or data is None:
        return None
    calls = calls_of(unwrapped(module), data, device)
    with seeded(seed or 0):
        return measure_costs(entry, module, groups, scheme, output_losses(lambda call: call(), calls, seed=seed or 0))


def sensitivity(
    model: Model,
    scheme: Quantization,
    costs: dict[str, dict[str, float]],
    *,
    dtype: torch.dtype | None = None,
) -> Sensitivity:
    """Return what an average makes of the costs that `loss_costs` measured.

    Args:
        model: The model that they were measured on.
        scheme: With the average.
        costs: By weight and width.
        dtype: As of `loss_costs`.

    Raises:
        QuantizationError: even the smallest forms are above the average.
    """
    groups = tied_groups(model.module)
    chosen = plan(model.entry, groups, scheme, dtype, costs)
    uniform = sum(own["4"] for own in costs.values()) or 1.0
    rows, stored, values, spent = [], 0, 0, 0.0
    for group in groups:
        width, count = chosen.get(group.name), group.value.shape.numel()
        size, plain = planned_bytes(model.entry, group, width, dtype)
        stored, values = stored + size, values + count
        if width is not None and group.name in costs:
            own = costs[group.name]
            label = next(label for label, one in offered(scheme, dtype or group.value.dtype).items() if one == width)
            spent += 0.0 if plain else own[label]
            chosen_one = None if plain else width
            shape = tuple(group.value.shape)
            rows.append(WeightCost(group.name, shape, count, own, own["4"] / uniform, chosen_one, 8 * size / count))
    rows.sort(key=lambda row: -row.share)
    return Sensitivity(tuple(rows), 8 * stored / max(values, 1), spent, uniform)
