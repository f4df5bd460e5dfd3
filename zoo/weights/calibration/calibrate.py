"""Quantize a module's weights one after the other, each by what it is multiplied with when those before it are done."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoo.weights.calibration.levels import Grid, grid_of
from zoo.weights.calibration.outputs import Calibration, WeightError, relative_error
from zoo.weights.calibration.passes import Passes, steady
from zoo.weights.calibration.solve import solve
from zoo.weights.layout import layout_of
from zoo.weights.parameters import replace_parameter, restore_parameter
from zoo.weights.quantized_tensor import QuantizedTensor
from zoo.weights.walk import TiedGroup

LOOKED_UP = "rows of it are looked up, and rounding to the nearest is the best for each"
UNUSED = "no batch used it"
NO_PRODUCT = "it is used in no product or convolution that shows its inputs"


@dataclass(frozen=True)
class Settings:
    """How to calibrate.

    Attributes:
        seed: of what the module draws when it runs.
        memory: bytes of Hessians that are gathered in one pass over the batches. With few, weights see more of those
            before them quantized; a pass gathers at least one.
        norms: whether the running statistics of batch norms are corrected.
    """

    seed: int = 0
    memory: int = 4 << 20
    norms: bool = True


class Source(NamedTuple):
    """A weight that is to be quantized.

    Attributes:
        group: Its places in the module.
        weight: Its values in full precision, of the shape that the module sees.
        packed: The weight, quantized without data; None if it is to be left as it is.
    """

    group: TiedGroup
    weight: Tensor
    packed: QuantizedTensor | None


def calibrate(
    module: nn.Module,
    groups: Sequence[TiedGroup],
    calls: Sequence[Callable[[], Any]],
    fetch: Callable[[Sequence[TiedGroup]], Iterable[Source]],
    settings: Settings = Settings(),
    report: Callable[[int], None] = lambda done: None,
) -> Calibration:
    """Quantize weights of a module by data, in the order of their use.

    Before, the module is as it is to be imitated: its weights are in full precision, or in 8 bit in place of it. The
    weights are then gone through in the order of their first use. What each is multiplied with is observed in the
    module as it is by then, with the weights before it quantized already.

    Args:
        module: it is changed in place. After an error its buffers are as before, its weights are not.
        groups: the weights to quantize.
        calls: each runs the module on one batch.
        fetch: returns some of the weights in full precision and quantized without data.
        settings: how to calibrate.
        report: called with the number of weights that are done.

    Raises:
        DataError: a call raises an error.
    """
    device = next((one.device for one in module.parameters()), torch.device("cpu"))
    errors: dict[str, WeightError] = {}
    reasons: dict[str, str] = {}
    with steady(module, device):
        passes = Passes(module, calls, groups, settings.seed, settings.norms)
        before = passes.reference()
        place = {name: number for number, name in enumerate(passes.order)}
        ordered = sorted(groups, key=lambda group: place.get(group.name, len(place)))
        done = 0
        for chunk in _chunks(ordered, settings.memory):
            ready: list[tuple[Source, Grid]] = []
            for source in fetch(chunk):
                grid = None if source.packed is None else grid_of(source.packed)
                if source.packed is None:
                    restore_parameter(source.group, nn.Parameter(source.weight, requires_grad=False))
                elif grid is None or not source.weight.numel():
                    replace_parameter(source.group, source.packed)
                    if source.packed.codec.bits < 16:
                        reasons[source.group.name] = f"the levels of {source.packed.codec.scheme} are not known here"
                else:
                    dense = source.weight.detach().to(source.packed.dtype).clone(memory_format=torch.contiguous_format)
                    restore_parameter(source.group, nn.Parameter(dense, requires_grad=False))
                    ready.append((source, grid))
            for name, outcome in _quantize(passes, ready):
                if isinstance(outcome, str):
                    reasons[name] = outcome
                else:
                    errors[name] = outcome
            ready.clear()
            _give_back()
            done += len(chunk)
            report(done)
        after, corrected = passes.final()
    return Calibration(relative_error(before, after), errors, reasons, tuple(corrected))


def _give_back() -> None:
    """Give freed memory back to the system, which glibc would keep: Hessians and their factors of many sizes."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)


def _chunks(groups: Sequence[TiedGroup], memory: int) -> Iterator[list[TiedGroup]]:
    """Yield the weights in parts whose Hessians take about `memory` bytes, or of a single weight."""
    chunk: list[TiedGroup] = []
    used = 0
    for group in groups:
        need = _hessian_bytes(group)
        if chunk and used + need > memory:
            yield chunk
            chunk, used = [], 0
        chunk.append(group)
        used += need
    if chunk:
        yield chunk


def _hessian_bytes(group: TiedGroup) -> int:
    """Return how large the Hessian of a weight will be, if its layer uses it as layers of its class do."""
    shape = torch.Size(group.value.shape)
    layout = layout_of([(ref.layer, ref.attribute) for ref in group.refs], shape)
    _, columns = layout.matrix(shape)
    matrices = shape[0] if layout.stacked or (len(shape) > 2 and shape[1] == 1) else 1
    return 4 * matrices * columns * columns


def _quantize(passes: Passes, ready: Sequence[tuple[Source, Grid]]) -> Iterator[tuple[str, WeightError | str]]:
    """Quantize weights that are plain parameters now; yield the error of each, or why it was rounded without data."""
    if not ready:
        return
    observer = passes.gather({source.group.name: source.group.value for source, _ in ready})  # type: ignore[misc]
    for source, grid in ready:
        group, packed = source.group, source.packed
        sites = list(observer.sites.pop(group.name).values())
        if sites:
            tied = group.name in observer.looked_up
            packed, error = solve(source.weight, packed, grid, sites, tied)  # type: ignore[arg-type]
            yield group.name, error
        elif group.name in observer.looked_up:
            yield group.name, LOOKED_UP
        else:
            yield group.name, NO_PRODUCT if group.name in passes.order else UNUSED
        replace_parameter(group, packed)
