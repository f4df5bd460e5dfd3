"""What one choice of settings takes: parameters, bytes and operations of one step."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from zoo.errors import TuningError, ZooError
from zoo.loading.load import load
from zoo.model import Model
from zoo.planning.batches import example_batches
from zoo.planning.cards import Card
from zoo.planning.step import Step, measure
from zoo.plugin import hooks
from zoo.tuning.gradient_checkpointing import switch_on
from zoo.tuning.settings import BATCH_SIZE
from zoo.weights.walk import named_buffers

MOMENTS = 2  # of AdamW, each of a parameter's own shape and type
STEP_BYTES = 4  # AdamW's count of steps for each parameter


@dataclass(frozen=True)
class Asked:
    """The settings that a plan is of; see `plan`."""

    name: str
    lora: Any
    bits: Any
    keep: tuple[str, ...]
    batch_size: int | None
    length: int | None
    data: Any
    dtype: Any
    ema: bool
    gradient_checkpointing: bool
    weights: str | None
    revision: str | None


class Change(NamedTuple):
    """Other settings, and the peak that they would have.

    Attributes:
        settings: arguments of `zoo.plan` with their new values.
        peak: bytes.
    """

    settings: dict[str, Any]
    peak: int


@dataclass(frozen=True)
class Plan:
    """What tuning a model takes. All sizes are bytes of one process.

    Attributes:
        name: the model.
        dtype: the type that it computes in.
        bits: the width that its weights are stored in; None: as `dtype`.
        adapter: the adapter's kind and rank; None where every weight trains.
        batch_size: items in a batch.
        shapes: the shape of each tensor of the first batch, by its name.
        parameters: values of the base.
        trainable: values that train.
        weights: the base as it is stored, packed data, scales, kept weights and buffers.
        adapters: the adapter.
        gradients: those of what trains.
        optimizer: AdamW's moments and counts, and the moving average where one is kept.
        activations: what the forward pass keeps for the backward pass; None where it is not known.
        peak: the most at once, everything counted; None where it is not known.
        flops: floating-point operations of products and convolutions in one step; None where they are not known.
        checkpointing: whether activations are computed again in the backward pass.
        unknown: why the last ones are not known.
        card: the card; None where none was asked about.
        fits: whether it holds the peak; None where that is not known.
        would_fit: settings with which it would, the nearest first.
    """

    name: str
    dtype: str
    bits: int | str | None
    adapter: str | None
    batch_size: int
    shapes: dict[str, tuple[int, ...]]
    parameters: int
    trainable: int
    weights: int
    adapters: int
    gradients: int
    optimizer: int
    activations: int | None
    peak: int | None
    flops: int | None
    checkpointing: bool = False
    unknown: str | None = None
    card: Card | None = None
    fits: bool | None = None
    would_fit: tuple[Change, ...] = ()

    @property
    def fewer(self) -> float:
        """How many times as many values the base has as train."""
        return self.parameters / max(1, self.trainable)

    @property
    def state(self) -> int:
        """Bytes of weights, adapters, gradients and optimizer: all that does not depend on the batch."""
        return self.weights + self.adapters + self.gradients + self.optimizer

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers by name, for JSON."""
        card = None if self.card is None else {**asdict(self.card), "usable": self.card.usable}
        return {**asdict(self), "fewer": self.fewer, "state": self.state, "card": card}


def planned(asked: Asked, limit: int | None = None) -> Plan:
    """Return the plan of one choice of settings, without a card.

    Args:
        asked: the settings.
        limit: bytes; where weights, gradients and optimizer alone are more, no step is run and the peak is unknown.
    """
    model = _model(asked)
    module, size = model.module, model.footprint()
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trained:
        raise TuningError("full training needs weights of 16 or 32 bit: leave bits= out, or train an adapter, lora=8")
    gradients = _bytes(trained)
    optimizer = (MOMENTS + asked.ema) * gradients + STEP_BYTES * len(trained)
    stored = size.bytes + _bytes(_each_once(named_buffers(module).values()))
    count = asked.batch_size or hooks.tuning(model.entry).get("batch_size", BATCH_SIZE)
    step: Step | None = None
    shapes: dict[str, tuple[int, ...]] = {}
    unknown = None
    checkpointing = False
    fixed = stored + size.adapter_bytes + optimizer
    try:
        if limit is not None and fixed + gradients > limit:
            raise TuningError("weights, gradients and optimizer alone do not fit")
        if asked.gradient_checkpointing:
            switch_on(module)
            checkpointing = True
        batches = example_batches(model, asked.data, count, asked.length)
        shapes = _shapes(batches[0])
        step = measure(model, batches)
    except ZooError as error:
        if limit is None and (asked.data is not None or asked.length is not None):
            raise
        unknown = str(error)
    return Plan(
        name=asked.name,
        dtype=str(model.dtype).removeprefix("torch."),
        bits=None if model.scheme is None else model.scheme.argument,
        adapter=_adapter(model),
        batch_size=count,
        shapes=shapes,
        parameters=size.parameters,
        trainable=sum(parameter.numel() for parameter in trained),
        weights=stored,
        adapters=size.adapter_bytes,
        gradients=gradients,
        optimizer=optimizer,
        activations=None if step is None else step.activations,
        peak=None if step is None else fixed + step.peak,
        flops=None if step is None else step.flops,
        checkpointing=checkpointing,
        unknown=unknown,
    )


def _model(asked: Asked) -> Model:
    return load(
        asked.name,
        weights=asked.weights,
        revision=asked.revision,
        bits=asked.bits,
        keep=asked.keep,
        lora=asked.lora,
        device="meta",
        dtype=asked.dtype,
    )


def _adapter(model: Model) -> str | None:
    kinds = [f"{one.kind}{f' rank {one.rank}' if hasattr(one, 'rank') else ''}" for one in model.adapters.values()]
    return ", ".join(kinds) or None


def _shapes(batch: Any) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a batch's tensors by name; those of one that is no dict by number."""
    items = (
        batch.items() if isinstance(batch, dict) else enumerate(batch if isinstance(batch, list | tuple) else [batch])
    )
    return {str(name): tuple(each.shape) for name, each in items if isinstance(each, torch.Tensor)}


def _each_once(tensors: Any) -> list[torch.Tensor]:
    return list({id(tensor): tensor for tensor in tensors}.values())


def _bytes(tensors: list[torch.Tensor] | list[nn.Parameter]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
