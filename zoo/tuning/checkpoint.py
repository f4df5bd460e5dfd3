"""Checkpoints of a run: `<out>/checkpoint-<step>/` with `state.safetensors` and the manifest `state.json`, no pickle.

The folder appears whole or not at all, and is verified before it is used.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.errors import CheckpointError, TuningError
from zoo.storage.atomic import save_tensors, staged_folder
from zoo.tuning import identity as identities
from zoo.tuning import manifest
from zoo.tuning.division import KEY, SHARED, divided_then
from zoo.tuning.examples import Drawn
from zoo.tuning.rates import Rate
from zoo.tuning.settings import current_names

TENSORS, STATE = "state.safetensors", "state.json"
_NAME = re.compile(r"checkpoint-(\d{1,18})")


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
        scaler: state of the gradient scaler, where there is one.
        drawn: digests of the batches so far; None where they are not known, as in checkpoints of earlier versions.
        evaluations: those of the run so far, if any.
        identity: what the run is of beside its settings; None in a checkpoint of an earlier version.
        rates: multiples of the learning rate by the parameter's name, where they are not 1.
    """

    step: int
    seconds: float
    losses: Sequence[float]
    settings: Mapping[str, Any]
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    scaler: Mapping[str, Any] | None = None
    drawn: Drawn | None = None
    evaluations: Mapping[str, Any] | None = None
    identity: Mapping[str, Any] | None = None
    rates: Mapping[str, Rate] = field(default_factory=dict)


def save(out: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint and return its folder.

    Raises:
        OutputError: it cannot be written; what was there stays.
    """
    folder = out / f"checkpoint-{checkpoint.step}"
    tensors = {
        **{f"model/{name}": tensor for name, tensor in checkpoint.model.items()},
        **{f"optimizer/{name}": tensor for name, tensor in checkpoint.optimizer.items()},
    }
    state = {
        "step": checkpoint.step,
        "seconds": checkpoint.seconds,
        "settings": dict(checkpoint.settings),
        "rates": dict(checkpoint.rates),
        **(checkpoint.identity or {}),
        "scaler": checkpoint.scaler,
        "drawn": None if checkpoint.drawn is None else [f"{digest:032x}" for digest in checkpoint.drawn],
        "evaluations": checkpoint.evaluations,
        "losses": list(checkpoint.losses),
    }
    with staged_folder(folder) as staged:
        save_tensors(staged / TENSORS, tensors)
        manifest.write(staged / STATE, state, (TENSORS,))
    return folder


def found(out: Path) -> list[Path]:
    """Return the checkpoints in `out`, whole or damaged, the oldest first."""
    if not out.is_dir():
        return []
    steps = {folder: _NAME.fullmatch(folder.name) for folder in out.iterdir() if folder.is_dir()}
    ours = {folder: int(match[1]) for folder, match in steps.items() if match and _is_ours(folder)}
    return sorted(ours, key=lambda folder: ours[folder])


def keep(out: Path, step: int, good: Collection[Path]) -> None:
    """Remove the checkpoints up to this step that are not among the good ones; other files in them stay."""
    for folder in found(out):
        if folder not in good and step_of(folder) <= step:
            remove(folder)


def remove(folder: Path) -> None:
    """Remove a checkpoint, or the best weights of a run; a folder with other files in it stays, with those."""
    others = [path for path in folder.iterdir() if path.name not in (TENSORS, STATE)]
    if not others:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for name in (STATE, TENSORS):
        with suppress(OSError):
            (folder / name).unlink()


def step_of(folder: Path) -> int:
    """Return the step that a checkpoint's name says."""
    return int(folder.name.rpartition("-")[2])


def _is_ours(folder: Path) -> bool:
    """Return whether a folder is a checkpoint, or what is left of one; those of other programs have other files."""
    names = {path.name for path in folder.iterdir()}
    return bool(names & {TENSORS, STATE}) or not names


def load(folder: Path) -> Checkpoint:
    """Read what `save` wrote, on the CPU, and verify it.

    Raises:
        CheckpointError: a file is missing or damaged, of another format, or says what cannot be.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        facts = manifest.read(folder / STATE)
        _check(folder, facts)
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "random": {}}  # the last of older ones
        for name, tensor in load_file(folder / TENSORS).items():
            group, rest = name.split("/", 1)
            groups[group][rest] = tensor
        drawn = facts.get("drawn")
        old = manifest.is_old(facts)
        return Checkpoint(
            step=facts["step"],
            seconds=facts["seconds"],
            losses=facts["losses"],
            settings=facts["settings"],
            rates={name: Rate(*rate) for name, rate in facts.get("rates", {}).items()},
            model=groups["model"],
            optimizer=groups["optimizer"],
            scaler=facts["scaler"],
            drawn=None if drawn is None else Drawn(*(int(digest, 16) for digest in drawn)),
            evaluations=facts.get("evaluations"),
            identity=None if old else {name: facts[name] for name in identities.PARTS},
        )
    except (OSError, SafetensorError, ValueError, LookupError, TypeError, AttributeError, CheckpointError) as error:
        said = "" if isinstance(error, CheckpointError) else f"{type(error).__name__}: "
        raise CheckpointError(f"cannot use the checkpoint {folder}: {said}{' '.join(str(error).split())}") from error


def _check(folder: Path, facts: Mapping[str, Any]) -> None:
    """Raise CheckpointError for a state that no run can have been in."""
    step, losses, seconds = facts["step"], facts["losses"], facts["seconds"]
    settings, evaluations = facts["settings"], facts.get("evaluations")
    if type(step) is not int or step < 0 or step != step_of(folder):
        raise CheckpointError(f"{STATE} says step {step!r:.40}, expected {step_of(folder)}")
    if not isinstance(losses, list) or len(losses) != step or not all(type(loss) in (int, float) for loss in losses):
        raise CheckpointError(f"{STATE}: expected {step} losses, one for each step")
    if type(seconds) not in (int, float) or not 0 <= seconds < math.inf:
        raise CheckpointError(f"{STATE} says seconds {seconds!r:.40}, expected a number, at least 0")
    steps = settings.get("steps") if isinstance(settings, dict) else "none"
    if steps is not None and (type(steps) is not int or steps < step):
        raise CheckpointError(f"{STATE} says step {step} of {steps!r:.40}")
    divided_then(current_names(settings))
    rates = facts.get("rates", {})
    pairs = list(rates.values()) if isinstance(rates, dict) else [None]
    if not all(isinstance(pair, list) and len(pair) == 2 and all(map(_is_rate, pair)) for pair in pairs):
        raise CheckpointError(f"{STATE}: expected rates as two numbers above 0 for a parameter's name")
    if evaluations is not None:
        history, best = evaluations["history"], evaluations["best"]
        if not all(type(at) is int and 0 <= at <= step and isinstance(told, dict) for at, told in history) or (
            best is not None and (type(best) is not int or not 0 <= best < len(history))
        ):
            raise CheckpointError(f"{STATE}: expected evaluations up to step {step}, and the best among them")


def _is_rate(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf


def check_same(folder: Path, then: Checkpoint, settings: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Raise TuningError naming every setting, and all of the model and its adapters, that is not what it was.

    Args:
        folder: the checkpoint's.
        then: the checkpoint; its settings may have the names of version 0.1.
        settings: those of now.
        identity: as `zoo.tuning.identity` gives it now.
    """
    old = current_names(then.settings)
    same_items = divided_then(old).items == divided_then(settings).items
    others = SHARED if same_items else ("processes", KEY)  # how the items of a step are shared out is free
    keys = [key for key in {**old, **settings} if old.get(key) != settings.get(key) and key not in others]
    listed = [f"{key} was {old.get(key)!r} and is {settings.get(key)!r}" for key in keys]
    if then.identity is not None:
        listed += identities.differences(then.identity, identity)
    if listed:
        further = " (to train further, start another run with lora= the adapter of this one)"
        raise TuningError(
            f"cannot resume from {folder}: {'; '.join(listed)}; give the same settings, or another out"
            f"{further if set(keys) & {'steps', 'minutes'} else ''}"
        )


def check_content(folder: Path, then: Checkpoint, identity: Mapping[str, Any]) -> str:
    """Return what may make a difference although all that is known of the model is the same, in words; "" for nothing.

    Raises:
        TuningError: the module, or what of it does not train, is another one.
    """
    if then.identity is None:
        return "it is of an earlier version of zoo, and does not say of which base, quantization and adapter"
    other = identities.other_content(then.identity, identity)
    if other:
        raise TuningError(f"cannot resume from {folder}: {other} are not what they were; load the model as it was")
    return identities.other_versions(then.identity, identity)


def check_examples(folder: Path, then: Drawn, now: Drawn) -> None:
    """Raise TuningError if the batches up to a checkpoint are not those that it was trained on."""
    if then != now:
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
