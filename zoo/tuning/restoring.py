"""From a checkpoint to a live run: what trains, its optimizer's moments, and the module's buffers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from zoo.tuning import checkpoint as checkpoints
from zoo.tuning.checkpoint import Checkpoint
from zoo.tuning.progress import note
from zoo.weights.gathering import like, whole
from zoo.weights.gathering import put as put_whole
from zoo.weights.walk import named_buffers

Named = Sequence[tuple[str, Parameter]]
STEP = "step"  # what torch's optimizers call their count of steps
NUMBER = "="  # before the name of a number


def check(
    folder: Path,
    last: Checkpoint,
    facts: Mapping[str, Any],
    identity: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    quiet: bool,
) -> None:
    """Check all of a checkpoint against a run, before any of it is restored.

    Args:
        folder: the checkpoint's.
        last: the checkpoint.
        facts: what the run depends on.
        identity: what the run is of beside its settings.
        tensors: what training changes, by name, as it is now.
        quiet: whether to say nothing of what may make a difference.

    Raises:
        TuningError: it is of another run.
    """
    checkpoints.check_same(folder, last, facts, identity)
    checkpoints.check_tensors(folder, last.model, tensors)
    if said := checkpoints.check_content(folder, last, identity):
        note(f"going on from {folder}: {said}", quiet=quiet)


def put(tensors: Mapping[str, Tensor], module: nn.Module, named: Named) -> None:
    """Give what trains and the module's buffers the values in `tensors`, by name."""
    live = {**named_buffers(module), **dict(named)}
    with torch.no_grad():
        for name, tensor in tensors.items():
            put_whole(live[name], tensor)


def moments(optimizer: torch.optim.Optimizer, named: Named) -> dict[str, Tensor]:
    """Return the optimizer's state, as "<parameter>/<moment>", of numbers of Python's "<parameter>/=<moment>"."""
    found = {}
    for name, parameter in named:
        for kind, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                found[f"{name}/{kind}"] = whole(value)
            elif value is not None:
                found[f"{name}/{NUMBER}{kind}"] = torch.tensor(value)
    return found


def put_moments(kept: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, named: Named) -> None:
    """Give the optimizer the state that `moments` returned; a parameter that no loss has used yet has none."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in kept.items():
        name, _, kind = key.rpartition("/")
        found.setdefault(name, {})[kind] = tensor
    places = {one: _place_of_steps(group, one) for group in optimizer.param_groups for one in group["params"]}
    for name, parameter in named:
        if name in found:
            optimizer.state[parameter] = {
                kind.removeprefix(NUMBER): tensor.item()
                if kind.startswith(NUMBER)
                else like(tensor.to(parameter.device if kind != STEP else places[parameter]), parameter)
                for kind, tensor in found[name].items()
            }


def _place_of_steps(group: Mapping[str, Any], parameter: Parameter) -> torch.device:
    """Return where an optimizer of torch counts a parameter's steps: on the CPU, unless the device itself reads it."""
    there = group.get("fused") or group.get("capturable")
    return parameter.device if there else torch.device("cpu")
