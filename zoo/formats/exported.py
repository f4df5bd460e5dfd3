"""`model.export`: a model as other programs take it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo.data.batches import on_device
from zoo.errors import OutputError
from zoo.formats import gguf, graph, native
from zoo.formats.graph import ONNX, TORCH
from zoo.plugin import hooks
from zoo.plugin.forward_pass import ForwardPass, captured, from_inputs, varied
from zoo.plugin.requests import BatchRequest
from zoo.storage import atomic
from zoo.torch_state.modes import evaluating
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.parameters import restore_parameter
from zoo.weights.walk import tied_groups

if TYPE_CHECKING:
    from zoo.adapters.adapter_set import AdapterSet
    from zoo.plugin.contract import LoadedModel

NATIVE, PACKED, GGUF = "native", "packed", "gguf"
FORMATS = (NATIVE, PACKED, ONNX, TORCH, GGUF)
TOLERANCE = 1e-4  # of the largest value of an output
COUNT = 2  # items of the call that a file is made of
CHECKS = ((COUNT, 1), (COUNT + 1, 2))  # items and seed of the calls that it is checked with


@dataclass(frozen=True)
class Exported:
    """What `model.export` wrote.

    Attributes:
        path: the file or folder.
        format: which one.
        inputs: of a file, the sizes of each input by name; None for one that is free.
        outputs: of a file, the outputs' names.
        error: of a file, the largest difference from the model on inputs that it was not made with, as a share of the
            output's largest value; None if it could not be compared.
        tolerance: how much of it was allowed.
        unread: why a file could not be compared.
    """

    path: Path
    format: str
    inputs: dict[str, tuple[int | None, ...]] | None = None
    outputs: tuple[str, ...] = ()
    error: float | None = None
    tolerance: float | None = None
    unread: str | None = None

    def __str__(self) -> str:
        what = f"{self.path}: {self.format}"
        if self.inputs is not None:
            shapes = (
                f"{name} [{', '.join('·' if size is None else str(size) for size in sizes)}]"
                for name, sizes in self.inputs.items()
            )
            what = f"{what}, {', '.join(shapes)} → {', '.join(self.outputs)}"
        if self.unread is not None:
            return f"{what}; not compared with the model: {self.unread}"
        if self.error is None:
            return what
        return f"{what}; on new inputs {self.error:.1e} from the model, at most {self.tolerance:g} allowed"


def export(
    model: LoadedModel,
    adapters: AdapterSet,
    path: Path,
    format: str,
    inputs: Any,
    tolerance: float | None,
    converter: str | None,
) -> Exported:
    """Write the model in a format; see `zoo.Model.export`."""
    if format not in FORMATS:
        raise OutputError(f"format: expected one of {', '.join(map(repr, FORMATS))}, got {format!r}")
    if converter is not None and format != GGUF:
        raise OutputError(f"converter= is of 'gguf', and {format!r} needs none")
    if inputs is not None and format == GGUF:
        raise OutputError("inputs= are of 'onnx' and 'torch': a GGUF file has no call of its own")
    if format in (NATIVE, PACKED):
        if inputs is not None or tolerance is not None:
            raise OutputError(
                f"inputs= and tolerance= are of files that are run, and {format!r} is a folder of weights"
            )
        return Exported(native.save(model, path, False, adapters if format == PACKED else None), format)
    allowed = TOLERANCE if tolerance is None else tolerance
    if not isinstance(allowed, int | float) or not 0 <= allowed < float("inf"):
        raise OutputError(f"tolerance: expected a number of at least 0, got {tolerance!r}")
    if model.device.type == "meta":
        raise OutputError("a model on 'meta' has no weights to export: load it on a device")
    if format == GGUF:
        return _as_gguf(model, path, allowed, gguf.find_converter(converter, model.entry.name))
    call = calls_of(model, inputs)
    made = call(COUNT, 0), call(COUNT + 1, 0)
    plain = plain_copy(model.module)
    with atomic.staged_file(path) as staged:
        written = graph.write(plain, made, staged, format)
        free = any(size is None for sizes in written.inputs.values() for size in sizes)
        worst = 0.0
        for count, seed in CHECKS if free else CHECKS[:1]:
            fresh = call(count, seed)
            worst = max(worst, _apart(model, plain, fresh, graph.outputs_of(staged, fresh.inputs, format)))
        _check(path, worst, allowed)
    return Exported(path, format, written.inputs, written.outputs, worst, allowed)


def calls_of(model: LoadedModel, inputs: Any) -> Callable[[int, int], ForwardPass]:
    """Return a function (items, seed) that makes calls of the model's module.

    Args:
        model: the model.
        inputs: the user's own; None: as the plugin says, else as its loss calls the module.

    Raises:
        OutputError: neither says how to call it.
    """
    if inputs is not None:
        given = from_inputs(model.module, inputs)
    else:
        if hooks.forward_pass(model, COUNT, _generator(0)) is not None:
            return lambda count, seed: _required(hooks.forward_pass(model, count, _generator(seed)))
        given = _of_loss(model)
    return lambda count, seed: varied(given, count, _generator(seed))


def plain_copy(module: nn.Module) -> nn.Module:
    """Return a copy on the CPU in float32 whose weights are plain parameters, active and merged adapters included."""
    with torch.no_grad(), evaluating(module):
        dense = {group.name: group.tensor().detach().cpu() for group in tied_groups(module)}
        made = copy.deepcopy(module)
        for group in tied_groups(made):
            if isinstance(group.value, ManagedWeight):
                restore_parameter(group, nn.Parameter(dense[group.name].clone(), requires_grad=False))
    return made.to("cpu", torch.float32).eval()


def _as_gguf(model: LoadedModel, path: Path, allowed: float, converter: gguf.Command) -> Exported:
    with atomic.staged_file(path) as staged:
        gguf.write(model, staged, converter)
        try:
            got = gguf.read_back(staged, model.module)
        except gguf.UnreadableError as why:
            return Exported(path, GGUF, unread=str(why))
        call = calls_of(model, None)(*CHECKS[0])
        with torch.no_grad():
            error = _apart(model, plain_copy(model.module), call, call(got))
        _check(path, error, allowed)
    return Exported(path, GGUF, error=error, tolerance=allowed)


def _check(path: Path, error: float, allowed: float) -> None:
    if not error <= allowed:
        raise OutputError(
            f"{path}: outputs on new inputs are {error:.2e} of the largest from the model's, expected at most "
            f"{allowed:g}: nothing was written (tolerance= allows more)"
        )


def _of_loss(model: LoadedModel) -> ForwardPass:
    found = None
    if model.entry.plugin is not None:
        batches = hooks.batches(model, None, BatchRequest(COUNT, seed=0))
        moved = (on_device(batch, model.device) for batch in batches)
        found = captured(model.module, lambda batch: hooks.loss(model, batch), moved)
    if found is None:
        raise OutputError(
            f"nothing says what {model.entry.name} is called with: give inputs=, a dict of tensors by the names of "
            "the module's arguments, or let its plugin implement the hook forward_pass"
        )
    return found


def _required(call: ForwardPass | None) -> ForwardPass:
    if call is None:
        raise OutputError("the hook forward_pass returned a call once and None the next time")
    return call


def _apart(model: LoadedModel, plain: nn.Module, call: ForwardPass, got: dict[str, Tensor]) -> float:
    """Return the largest difference of outputs, as a share of an output's largest value."""
    with torch.no_grad(), evaluating(model.module):
        exact = model.dtype == torch.float32 and model.device.type == "cpu"
        wanted = call(model.module if exact else plain)
    if set(got) != set(wanted):
        raise OutputError(f"expected the outputs {', '.join(wanted)}, got {', '.join(got)}")
    worst = 0.0
    for name, one in wanted.items():
        if one.shape != got[name].shape:
            raise OutputError(f"{name}: expected {tuple(one.shape)}, got {tuple(got[name].shape)} on new inputs")
        largest = max(one.abs().max().item(), 1e-12) if one.numel() else 1.0
        apart = (one.double() - got[name].double()).abs().max().item() / largest if one.numel() else 0.0
        worst = apart if apart != apart else max(worst, apart)  # not a number is far
    return worst


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
