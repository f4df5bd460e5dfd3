"""Every verb on every architecture, in every precision, with and without an adapter: run, not claimed.

`check(name, bits, lora)` runs one combination on the weights that a plugin carries and says for each verb whether it
held or why not. It asks plugins through `zoo.load` alone and knows none of them.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

import zoo
from zoo.catalog.entry import EMBEDDED
from zoo.errors import TuningError, ZooError
from zoo.model import Model
from zoo.torch_state.modes import evaluating

BITS = (32, 16, 8, 4)
LORA = (None, 4)
VERBS = ("load", "sample", "backward", "tune", "reload", "merge", "state_dict", "deepcopy", "compile")
BATCH = 4
STEPS, LEARNT = 5, 16  # tuning steps, and the items of each: with fewer, five steps follow the noise
TOLERANCE = 1e-4  # of the largest output; what is the same computation in another order stays far below

# Why a verb has no meaning in a combination, and so is not run.
NO_ADAPTER = "no adapter"
NOTHING_TRAINS = "a quantized base has nothing to train without an adapter, and tune says so"


@dataclass(frozen=True)
class Cell:
    """What one verb did. held: None where it has no meaning; why: the reason where it did not hold or has none."""

    name: str
    bits: int
    lora: int | None
    verb: str
    held: bool | None
    why: str = ""


def names() -> list[str]:
    """The registry names whose weights a plugin carries."""
    return [entry.name for entry in zoo.entries() if entry.weights == EMBEDDED]


def check(name: str, bits: int, lora: int | None, *, backend: str = "eager") -> list[Cell]:
    """Run every verb on one combination, on the CPU; one `Cell` per verb.

    backend: what `torch.compile` hands the captured graphs to; "inductor" compiles them, which takes long.
    """
    adapter = None if lora is None else zoo.LoRA(rank=lora, targets="all")
    cells: list[Cell] = []

    def run(verb: str, what: Callable[[], str | None]) -> None:
        try:
            why = what()
            cells.append(Cell(name, bits, lora, verb, why is None, why or ""))
        except _Meaningless as reason:
            cells.append(Cell(name, bits, lora, verb, None, str(reason)))
        except Exception as error:
            cells.append(
                Cell(name, bits, lora, verb, False, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
            )

    made: list[Model] = []
    run("load", lambda: made.append(zoo.load(name, bits=bits, lora=adapter, device="cpu", seed=0)))
    if not made:
        return cells + [Cell(name, bits, lora, verb, False, "not loaded") for verb in VERBS[1:]]
    model = made[0]
    data = model.entry.demo.get("data")  # what the model was not trained on, so that there is something to learn
    batch = next(iter(model.batches(data, batch_size=BATCH, seed=0)))
    run("sample", lambda: _sample(model))
    run("backward", lambda: _backward(model, batch))
    run("tune", lambda: _tune(model, data))
    probe = Probe(model, batch)
    run("reload", lambda: _reload(model, probe, name, bits))
    run("merge", lambda: _merge(model, probe))
    run("state_dict", lambda: _state_dict(model, probe, name, bits, adapter))
    run("deepcopy", lambda: _unequal(probe.run(copy.deepcopy(model.module)), probe.run(model.module), 0.0))
    run("compile", lambda: _compile(model, probe, backend))
    return cells


class _Meaningless(Exception):
    """The verb has no meaning here; the message says why."""


class Probe:
    """One call of the part of the module that the loss calls first, with its inputs, to compare outputs by."""

    def __init__(self, model: Model, batch: Any) -> None:
        calls: list[tuple[str, Any, Any]] = []
        hooks = [
            layer.register_forward_pre_hook(
                lambda _, args, kwargs, path=path: calls.append((path, args, kwargs)), with_kwargs=True
            )
            for path, layer in model.module.named_modules()
        ]
        try:
            with _seeded(), evaluating(model.module):  # with a graph: a penalty on gradients needs one
                model.loss(batch)
        finally:
            for hook in hooks:
                hook.remove()
        if not calls:
            raise ZooError("the loss calls no module: expected it to run model.module or a part of it")
        self.path, args, kwargs = calls[0]
        self.args, self.kwargs = tree_map(
            lambda value: value.detach() if isinstance(value, Tensor) else value, (args, kwargs)
        )

    def part(self, module: nn.Module) -> nn.Module:
        """The part of `module` that is called."""
        return module.get_submodule(self.path)

    def run(self, module: nn.Module, call: Callable[..., Any] | None = None) -> list[Tensor]:
        """Every floating-point tensor that comes out."""
        with torch.no_grad(), _seeded(), evaluating(module):
            called = self.part(module) if call is None else call
            flat, _ = tree_flatten(_plain(called(*self.args, **self.kwargs)))
        return [value for value in flat if isinstance(value, Tensor) and value.is_floating_point()]


def _plain(output: Any) -> Any:
    """Libraries' output classes as what they hold, so that all their tensors are found."""
    if hasattr(output, "parameters") and isinstance(getattr(output, "mean", None), Tensor):
        return output.parameters  # diffusers' distribution
    if hasattr(output, "items") and not isinstance(output, dict):
        return dict(output.items())
    if hasattr(output, "__dict__") and not isinstance(output, Tensor | tuple | list | dict):
        return {key: _plain(value) for key, value in vars(output).items()}
    return output


def _sample(model: Model) -> str | None:
    one, two = model.sample(1, seed=1), model.sample(1, seed=1)
    return None if len(one) == 1 and _same(one.data, two.data) else "equal seeds gave other samples"


def _same(one: Any, two: Any) -> bool:
    return torch.equal(one, two) if isinstance(one, Tensor) else one == two


def _backward(model: Model, batch: Any) -> str | None:
    if not _trains(model):
        raise _Meaningless(NOTHING_TRAINS)
    model.train()
    with _seeded():
        model.loss(batch).backward()
    without = [name for name, parameter in model.trainable_parameters() if parameter.grad is None]
    infinite = [n for n, p in model.trainable_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
    model.module.zero_grad(set_to_none=True)
    model.eval()
    if model.adapters and without:
        return f"no gradient for {without[0]}"
    return f"a gradient that is not finite for {infinite[0]}" if infinite else None


def _trains(model: Model) -> bool:
    try:
        return bool(list(model.trainable_parameters()))
    except TuningError:
        return False


def _tune(model: Model, data: Any) -> str | None:
    """Five small steps on `data` must lower the loss of the first batch."""
    if not _trains(model):
        raise _Meaningless(NOTHING_TRAINS)
    batch = next(iter(model.batches(data, batch_size=LEARNT, seed=0)))  # the first that it learns from

    def loss() -> float:
        with _seeded(), evaluating(model.module):
            return float(model.loss(batch).detach())

    before = loss()
    model.tune(data, steps=STEPS, batch_size=LEARNT, lr=5e-4 if model.adapters else 2e-4, seed=0, quiet=True)
    after = loss()
    return None if after < before else f"loss {before:.4f} before, {after:.4f} after {STEPS} steps"


def _reload(model: Model, probe: Probe, name: str, bits: int) -> str | None:
    if not model.adapters:
        raise _Meaningless(NO_ADAPTER)
    with tempfile.TemporaryDirectory() as folder:
        model.save_adapter(Path(folder) / "adapter")
        again = zoo.load(name, bits=bits, lora=str(Path(folder) / "adapter"), device="cpu")
    return _unequal(probe.run(again.module), probe.run(model.module), 0.0)


def _merge(model: Model, probe: Probe) -> str | None:
    if not model.adapters:
        raise _Meaningless(NO_ADAPTER)
    before = probe.run(model.module)
    model.merge()
    merged = probe.run(model.module)
    model.unmerge()
    return _unequal(merged, before, TOLERANCE) or _unequal(probe.run(model.module), before, 0.0)


def _state_dict(model: Model, probe: Probe, name: str, bits: int, adapter: Any) -> str | None:
    fresh = zoo.load(name, bits=bits, lora=adapter, device="cpu", seed=1)
    fresh.module.load_state_dict(model.module.state_dict())
    return _unequal(probe.run(fresh.module), probe.run(model.module), 0.0)


def _compile(model: Model, probe: Probe, backend: str) -> str | None:
    torch.compiler.reset()
    with evaluating(model.module):
        compiled = torch.compile(probe.part(model.module), backend=backend)
        found = probe.run(model.module, compiled)
    torch.compiler.reset()
    return _unequal(found, probe.run(model.module), TOLERANCE)


def _unequal(found: list[Tensor], expected: list[Tensor], tolerance: float) -> str | None:
    """Why two lists of outputs differ by more than `tolerance` of the largest value; None where they do not."""
    if len(found) != len(expected) or not expected:
        return f"{len(found)} outputs, expected {len(expected)}"
    for one, other in zip(found, expected, strict=True):
        if one.shape != other.shape:
            return f"an output of shape {tuple(one.shape)}, expected {tuple(other.shape)}"
        error = float((one - other).abs().max() / other.abs().max().clamp(min=1e-12)) if other.numel() else 0.0
        if not error <= tolerance:
            return f"outputs differ by {error:.2g} of the largest"
    return None


@contextmanager
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
