"""Checkpoints of a run: `<out>/checkpoint-<step>/` with `state.safetensors` and `state.json`, and no pickle.

The folder appears whole or not at all, and the one before it goes when the new one is there.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.bounded.json_text import json_value
from zoo.bounded.text import read_text
from zoo.errors import CheckpointError, TuningError
from zoo.storage.atomic import replace_folder, save_tensors, write_json
from zoo.torch_state.rng import RandomState
from zoo.tuning.settings import current_names

FORMAT = 1
STATE = 64 << 20  # bytes of a state.json: a loss for each step


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run between two steps.

    Attributes:
        step: steps done.
        seconds: their time.
        losses: one value per step.
        settings: what the run depends on, as `Settings.as_dict` gives it.
        model: what training changes, by name.
        optimizer: "<parameter>/<moment>" → tensor.
        random: one state per process.
        scaler: state of the gradient scaler, where there is one.
        examples: a digest of the batches so far; None in a checkpoint of an earlier version.
        evaluations: those of the run so far, if any.
    """

    step: int
    seconds: float
    losses: Sequence[float]
    settings: Mapping[str, Any]
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    random: Sequence[RandomState]
    scaler: Mapping[str, Any] | None = None
    examples: str | None = None
    evaluations: Mapping[str, Any] | None = None


def save(out: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint, then remove the earlier ones; return its folder.

    Raises:
        OutputError: it cannot be written; the earlier ones stay.
    """
    folder = out / f"checkpoint-{checkpoint.step}"
    tensors = {
        **{f"model/{name}": tensor for name, tensor in checkpoint.model.items()},
        **{f"optimizer/{name}": tensor for name, tensor in checkpoint.optimizer.items()},
    }
    for rank, generators in enumerate(checkpoint.random):
        tensors.update({f"random/{rank}/{name}": tensor for name, tensor in generators.tensors().items()})
    state = {
        "format": FORMAT,
        "step": checkpoint.step,
        "seconds": checkpoint.seconds,
        "settings": dict(checkpoint.settings),
        "random": [generators.scalars() for generators in checkpoint.random],
        "scaler": checkpoint.scaler,
        "examples": checkpoint.examples,
        "evaluations": checkpoint.evaluations,
        "losses": list(checkpoint.losses),
    }
    with replace_folder(folder) as staged:
        save_tensors(staged / "state.safetensors", tensors)
        write_json(staged / "state.json", state)
    for other in found(out):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
    return folder


def found(out: Path) -> list[Path]:
    """Return the checkpoints in `out`, the oldest first."""
    if not out.is_dir():
        return []
    steps = {folder: re.fullmatch(r"checkpoint-(\d+)", folder.name) for folder in out.iterdir()}
    ours = {folder: int(match[1]) for folder, match in steps.items() if match and (folder / "state.json").is_file()}
    return sorted(ours, key=lambda folder: ours[folder])


def load(folder: Path) -> Checkpoint:
    """Read what `save` wrote, on the CPU.

    Raises:
        CheckpointError: a file is missing or damaged, or of another format.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        facts = json_value(read_text(folder / "state.json", limit=STATE, error=CheckpointError), values=STATE)
        if facts["format"] != FORMAT:
            raise CheckpointError(f"expected a checkpoint of format {FORMAT} in {folder}, got {facts['format']!r}")
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "random": {}}
        for name, tensor in load_file(folder / "state.safetensors").items():
            group, rest = name.split("/", 1)
            groups[group][rest] = tensor
        states = []
        for rank, scalars in enumerate(facts["random"]):
            own = {k.split("/", 1)[1]: t for k, t in groups["random"].items() if k.split("/", 1)[0] == str(rank)}
            states.append(RandomState.restored(own, scalars))
        return Checkpoint(
            step=facts["step"],
            seconds=facts["seconds"],
            losses=facts["losses"],
            settings=facts["settings"],
            model=groups["model"],
            optimizer=groups["optimizer"],
            random=states,
            scaler=facts["scaler"],
            examples=facts.get("examples"),
            evaluations=facts.get("evaluations"),
        )
    except (OSError, SafetensorError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"cannot read the checkpoint {folder}: {type(error).__name__}: {' '.join(str(error).split())}; "
            "delete that folder to start afresh"
        ) from error


def check_settings(folder: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise TuningError naming every setting that is not what it was; `then` may have the names of version 0.1."""
    then = current_names(then)
    keys = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    if keys:
        listed = "; ".join(f"{key} was {then.get(key)!r} and is {now.get(key)!r}" for key in keys)
        raise TuningError(f"cannot resume from {folder}: {listed}; give the same settings, or another out")


def check_examples(folder: Path, then: str | None, now: str) -> None:
    """Raise TuningError if the batches up to a checkpoint are not those that it was trained on."""
    if then is not None and then != now:
        raise TuningError(
            f"cannot resume from {folder}: the data give other batches than the run had, so they have changed since, "
            "or the way they are read; give the same data, or another out"
        )


def check_tensors(folder: Path, then: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> None:
    """Raise TuningError naming what is missing, unexpected or of another shape or type."""
    problems = [f"{name} is not in the checkpoint" for name in now if name not in then]
    problems += [f"{name} is not in the model" for name in then if name not in now]
    problems += [
        f"{name} is {tuple(now[name].shape)} {now[name].dtype} and was {tuple(then[name].shape)} {then[name].dtype}"
        for name in now
        if name in then and (now[name].shape != then[name].shape or now[name].dtype != then[name].dtype)
    ]
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise TuningError(f"cannot resume from {folder}: {'; '.join(problems[:3])}{more}; load the model as it was")
