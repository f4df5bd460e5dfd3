"""Every verb on every architecture, in every precision, with and without an adapter: run, not claimed.

`check(name, bits, lora)` runs one combination on the weights that a plugin carries and says for each verb whether it
held or why not. The conformance suite, `zoo.testing`, checks what a plugin promises in 4 bit with an adapter; its
checks of a single verb run here in the other combinations too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

import zoo
from zoo.catalog import registry
from zoo.catalog.entry import EMBEDDED
from zoo.errors import TuningError, one_line
from zoo.model import Model
from zoo.testing import adapting, drawing, learning
from zoo.testing.compare import backward, loss_of, tensors_of
from zoo.testing.failures import CheckFailed, NotCheckable, require
from zoo.testing.promise import Check
from zoo.testing.subject import PluginUnderTest
from zoo.torch_state.modes import evaluating

BITS = (32, 16, 8, 4)
LORA = (None, 4)
BATCH = 4
STEPS, LEARNT = 5, 16  # tuning steps, and the items of each: with fewer, five steps follow the noise
TOLERANCE = 1e-4  # of the largest output; what is the same computation in another order stays far below

# Why a verb has no meaning in a combination, and so is not run.
NO_ADAPTER = "no adapter"
NOTHING_TRAINS = "a quantized base has nothing to train without an adapter, and tune says so"


def names() -> list[str]:
    """Return the registry names whose weights a plugin carries."""
    return [entry.name for entry in zoo.entries() if entry.weights == EMBEDDED]


def check(
    name: str, bits: int, lora: int | None, *, backend: str = "eager", leave_out: Collection[str] = ()
) -> list[Cell]:
    """Run every verb on one combination, on the CPU.

    Args:
        name: a registry name.
        bits: the base model's precision.
        lora: the rank of an adapter on every weight; None runs without an adapter.
        backend: what `torch.compile` hands the captured graphs to; "inductor" compiles them, which takes long.
        leave_out: verbs that are not run.

    Returns:
        One `Cell` per verb that is run, in the order of `VERBS`.
    """
    row = Row(name, bits, lora, backend)
    cells: list[Cell] = []
    for verb, run in ((verb, run) for verb, run in RUNS.items() if verb not in leave_out):
        loaded = not cells or cells[0].held
        held, why = _outcome(run, row) if loaded else (False, "not loaded")
        cells.append(Cell(name, bits, lora, verb, held, why))
    return cells


def _outcome(run: Callable[[Row], object], row: Row) -> tuple[bool | None, str]:
    """Return `held` and `why` of a `Cell`."""
    try:
        run(row)
    except NotCheckable as reason:
        return None, str(reason)
    except CheckFailed as broken:
        return False, broken.found
    except Exception as error:
        return False, f"{type(error).__name__}: {one_line(error, 200)}"
    return True, ""


@dataclass(frozen=True)
class Cell:
    """What one verb did in one combination.

    Attributes:
        name: the registry name.
        bits: the base model's precision.
        lora: the adapter's rank, or None without an adapter.
        verb: one of `VERBS`.
        held: whether the verb did what it promises; None where it has no meaning.
        why: the reason where it did not hold or has no meaning.
    """

    name: str
    bits: int
    lora: int | None
    verb: str
    held: bool | None
    why: str = ""


class Probe:
    """The submodule that the loss calls first, and the arguments of that call: what outputs are compared by."""

    def __init__(self, model: Model, batch: Any) -> None:
        calls: list[tuple[str, Any, Any]] = []
        hooks = [
            layer.register_forward_pre_hook(lambda _, *call, path=path: calls.append((path, *call)), with_kwargs=True)
            for path, layer in model.module.named_modules()
        ]
        try:
            loss_of(model, batch)
        finally:
            for hook in hooks:
                hook.remove()
        require(calls, "the loss calls no module: expected it to run model.module or a part of it")
        self.path, self.args, self.kwargs = calls[0]

    def run(self, module: nn.Module, backend: str | None = None) -> list[Tensor]:
        """Return every floating-point tensor in the submodule's output; with a backend, of the compiled submodule."""
        with torch.no_grad(), torch.random.fork_rng(devices=[]), evaluating(module):
            torch.manual_seed(0)
            part = module.get_submodule(self.path)
            called = part if backend is None else torch.compile(part, backend=backend)
            output = called(*self.args, **self.kwargs)
        return [value for value in tensors_of(output) if value.is_floating_point()]


class Row(PluginUnderTest):
    """One combination of a model, a precision and an adapter; the verbs change its one model, `adapted`, in turn."""

    def __init__(self, name: str, bits: int, lora: int | None, backend: str) -> None:
        entry = registry.find(name)
        # What the model was not trained on, so that there is something to learn.
        super().__init__(entry.plugin or name, {"entry": name, "data": entry.demo.get("data"), "batch_size": BATCH})
        self.bits, self.backend = bits, backend
        self.adapter = None if lora is None else zoo.LoRA(rank=lora, targets="all")

    def load(self, **options: Any) -> Model:
        """Return a new model of this combination."""
        return super().load(**{"lora": self.adapter, "dtype": None, **options, "bits": self.bits})

    @cached_property
    def adapted(self) -> Model:
        """The model that the verbs are run on."""
        return self.load()

    @cached_property
    def probe(self) -> Probe:
        """What outputs are compared by."""
        return Probe(self.adapted, self.batch)

    def compare(self, found: list[Tensor], tolerance: float = 0.0) -> None:
        """Raise `CheckFailed` where outputs differ from the model's by more than `tolerance` of the largest value."""
        expected = self.probe.run(self.adapted.module)
        require(len(found) == len(expected) > 0, f"{len(found)} outputs, expected {len(expected)}")
        for one, other in zip(found, expected, strict=True):
            require(one.shape == other.shape, f"an output of shape {tuple(one.shape)}, expected {tuple(other.shape)}")
            error = float((one - other).abs().max() / other.abs().max().clamp(min=1e-12)) if other.numel() else 0.0
            require(error <= tolerance, f"outputs differ by {error:.2g} of the largest")


def _with_adapter(check: Check) -> Callable[[Row], None]:
    """Return a verb that runs a check of the conformance suite; without an adapter it has no meaning."""

    def run(row: Row) -> None:
        if not row.adapter:
            raise NotCheckable(NO_ADAPTER)
        check.run(row)

    return run


def _backward(row: Row) -> None:
    if row.adapter:
        learning.every_adapted_weight_learns.run(row)
        return
    model = row.adapted_copy().train()
    trained = _trained(model)
    backward(model, row.batch)
    for name, parameter in trained:
        finite = parameter.grad is None or bool(torch.isfinite(parameter.grad).all())
        require(finite, f"a gradient that is not finite for {name}")


def _trained(model: Model) -> list[tuple[str, nn.Parameter]]:
    try:
        return list(model.trainable_parameters())
    except TuningError as error:
        raise NotCheckable(NOTHING_TRAINS) from error


def _tune(row: Row) -> None:
    """Five small steps must lower the loss of the first batch that they learn from."""
    model, data = row.adapted, row.options.data
    _trained(model)
    batch = next(row.batches(model, batch_size=LEARNT, seed=0))
    before = loss_of(model, batch)
    rate = 5e-4 if row.adapter else 2e-4
    model.tune(data, steps=STEPS, batch_size=LEARNT, lr=rate, seed=0, quiet=True)
    after = loss_of(model, batch)
    require(after < before, f"loss {before:.4f} before, {after:.4f} after {STEPS} steps")


def _state_dict(row: Row) -> None:
    fresh = row.load(seed=1)
    fresh.module.load_state_dict(row.adapted.module.state_dict())
    row.compare(row.probe.run(fresh.module))


def _compile(row: Row) -> None:
    torch.compiler.reset()
    try:
        row.compare(row.probe.run(row.adapted.module, row.backend), TOLERANCE)
    finally:
        torch.compiler.reset()


RUNS: dict[str, Callable[[Row], object]] = {
    "load": lambda row: row.adapted,
    "sample": drawing.samples_repeat.run,
    "backward": _backward,
    "tune": _tune,
    "reload": _with_adapter(adapting.a_saved_adapter_comes_back),
    "merge": _with_adapter(adapting.merging_is_exact),
    "state_dict": _state_dict,
    "deepcopy": adapting.can_be_copied.run,
    "compile": _compile,
}
VERBS = tuple(RUNS)
