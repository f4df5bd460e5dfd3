"""Calibrated quantization in `zoo.load` and `zoo.wrap`: the user's data, where weights come from, and progress."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from zoo.catalog.entry import RANDOM, Entry
from zoo.data.batches import on_device
from zoo.errors import DataError, QuantizationError, ZooError
from zoo.model import Model
from zoo.plugin import hooks
from zoo.plugin.quantize import Plan, pack_weight
from zoo.plugin.requests import BatchRequest
from zoo.torch_state.modes import seeded
from zoo.weights.calibration.calibrate import Settings, Source, calibrate
from zoo.weights.calibration.outputs import Calibration
from zoo.weights.offload import offload_hook
from zoo.weights.parameters import restore_parameter
from zoo.weights.quantized_tensor import QuantizedTensor
from zoo.weights.scheme import Quantization
from zoo.weights.walk import TiedGroup, unwrapped

BATCHES, BATCH_SIZE = 8, 16  # of the plugin's own data
FORMS = "a tensor, a tuple of positional arguments or a dict of keywords for each call of the module"


def is_plugins(data: Any) -> bool:
    """Return whether data is what a plugin makes batches of, and not an iterable of what the module is called with."""
    return data is True or isinstance(data, str | os.PathLike | Dataset)


def kept(data: Any) -> Any:
    """Return data that can be gone through twice: an iterator's items as a list, other data as it is."""
    return list(data) if isinstance(data, Iterator) else data


def stand_ins(chosen: Plan) -> Plan:
    """Return the plan of a model that stands for full precision: in 8 bit what will have less."""
    return {name: Quantization(8) if quantization.bits < 16 else quantization for name, quantization in chosen.items()}


def check_calibration(data: Any, scheme: Quantization | None, entry: Entry, is_packed: bool, on_meta: bool) -> None:
    """Raise `QuantizationError` if a model cannot be calibrated."""
    if data is None:
        return
    if scheme is None:
        raise QuantizationError("calibrate= says how weights are rounded, and none is without bits: add bits=4")
    if is_packed:
        raise QuantizationError(f"{entry.name!r} is quantized already: leave out calibrate=, or load its original")
    if on_meta or entry.weights == RANDOM:
        raise QuantizationError("calibrate= needs trained weights: leave it out for device='meta' and weights='random'")


@contextmanager
def unchanged_after_error(
    module: nn.Module, quantized: Sequence[tuple[TiedGroup, nn.Parameter, Any]]
) -> Iterator[None]:
    """Put parameters and buffers back if the block raises.

    Args:
        module: the module.
        quantized: its parameters that the block replaces.
    """
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    except BaseException:
        for group, parameter, _ in quantized:
            restore_parameter(group, parameter)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        raise


def calibrate_wrapped(
    module: nn.Module,
    quantized: Sequence[tuple[TiedGroup, nn.Parameter, QuantizedTensor]],
    data: Any,
    seed: int | None,
) -> Calibration:
    """Quantize a module's plain parameters by data.

    Args:
        module: as the user gave it.
        quantized: each parameter that is to be quantized, and what it is without data.
        data: an iterable of `FORMS`.
        seed: of what the module draws.

    Raises:
        ZooError: the data does not fit, or the module is offloaded.
    """
    if any(map(offload_hook, module.modules())):
        raise ZooError("calibrate: the module is offloaded: calibrate it first, and offload it afterwards")
    calls = calls_of(unwrapped(module), data)
    packed = {group.name: (parameter, stored) for group, parameter, stored in quantized}

    def fetch(groups: Sequence[TiedGroup]) -> Iterator[Source]:
        for group in groups:
            parameter, stored = packed[group.name]
            yield Source(group, parameter.detach(), stored)

    groups = [group for group, _, _ in quantized]
    with _progress(len(groups)) as report:
        return calibrate(module, groups, calls, fetch, Settings(seed or 0), report)


def calibrate_loaded(
    model: Model, groups: Sequence[TiedGroup], chosen: Plan, data: Any, seed: int | None
) -> Calibration:
    """Quantize a model by data that holds its weights in 8 bit; they are read from the checkpoint again, a few at once.

    Args:
        model: filled by the plan `stand_ins(chosen)`.
        groups: its weights.
        chosen: how each is to be quantized.
        data: an iterable of `FORMS`, or what `model.batches` takes, True for the plugin's own.
        seed: of the plugin's batches, and of what the module draws.

    Raises:
        ZooError: the data does not fit.
    """
    entry, device, dtype = model.entry, model.device, model.dtype
    if is_plugins(data):
        request = BatchRequest(BATCH_SIZE, "train", seed or 0)
        with seeded(seed or 0):
            batches = list(islice(hooks.batches(model, None if data is True else data, request), BATCHES))
        if not batches:
            raise DataError("calibrate: the data gives no batch: expected at least one")
        calls = [_loss(model, on_device(batch, device)) for batch in batches]
    else:
        calls = calls_of(model.module, data, device)

    def fetch(wanted: Sequence[TiedGroup]) -> Iterator[Source]:
        places = {ref.name: group for group in wanted for ref in group.refs}
        for name, tensor in hooks.checkpoint(entry, model.module):
            group = places.get(name)
            if group is None:
                continue
            weight = tensor.to(device)
            packed = pack_weight(entry, group, weight, chosen, dtype)
            yield Source(group, weight.to(dtype, copy=True), packed)
            places = {other: one for other, one in places.items() if one is not group}
            if not places:
                return

    todo = [group for group in groups if group.name in chosen and chosen[group.name].bits < 16]
    with _progress(len(todo)) as report:
        return calibrate(model.module, todo, calls, fetch, Settings(seed or 0), report)


def _loss(model: Model, batch: Any) -> Callable[[], Any]:
    return lambda: hooks.loss(model, batch)


def calls_of(module: nn.Module, data: Any, device: torch.device | None = None) -> list[Callable[[], Any]]:
    """Return functions that call a module with each item of the user's data."""
    if isinstance(data, Tensor | Mapping | str | bytes) or not isinstance(data, Iterable):
        raise DataError(f"calibrate: expected an iterable of batches, {FORMS}, got {type(data).__name__}")
    items = [item if device is None else on_device(item, device) for item in data]
    if not items:
        raise DataError(f"calibrate: expected at least one batch, {FORMS}, got none")
    return [_call(module, item) for item in items]


def _call(module: nn.Module, item: Any) -> Callable[[], Any]:
    if isinstance(item, Mapping):
        return lambda: module(**item)
    if isinstance(item, tuple | list):
        return lambda: module(*item)
    return lambda: module(item)


@contextmanager
def _progress(weights: int) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the number of weights that are done; it moves a bar where stderr is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done: None
        return
    with Progress(console=console, transient=True, redirect_stdout=False) as bar:
        task = bar.add_task("calibrate", total=weights)
        yield lambda done: bar.update(task, completed=done)
