"""The tuning loop: an optimizer on what trains, over the model's own batches and loss."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from zoo.compat import renamed_arguments
from zoo.errors import TuningError
from zoo.torch_state.rng import preserve_rng
from zoo.torch_state.turns import turns_of
from zoo.tuning.callbacks import call, checked
from zoo.tuning.division import KEY, divided
from zoo.tuning.evaluation import Evaluations, EvaluationSettings
from zoo.tuning.examples import held_out_of, opened, steps_of
from zoo.tuning.extension import extension
from zoo.tuning.folder import opened as opened_folder
from zoo.tuning.gradient_checkpointing import gradient_checkpointing as checkpointed
from zoo.tuning.identity import identity
from zoo.tuning.interrupts import Terminated, stoppable
from zoo.tuning.optimizers import ADAMW, optimizer_of
from zoo.tuning.options import check_options, known_options
from zoo.tuning.processes import own_accelerator
from zoo.tuning.progress import note, progress
from zoo.tuning.rates import rates_for, usual_lr
from zoo.tuning.record import record_of
from zoo.tuning.result import TuneResult as TuneResult
from zoo.tuning.run import Run, state_of
from zoo.tuning.settings import (
    BATCH_SIZE,
    MOST,
    OLD_NAMES,
    Settings,
    checked_betas,
    checked_extended,
    described,
    warmup_steps,
)
from zoo.tuning.sharding import sharded
from zoo.tuning.trackers import Trackers
from zoo.tuning.tunable import Tunable as Tunable


@renamed_arguments(OLD_NAMES)
@known_options
def tune(
    model: Tunable,
    data: Any = None,
    *,
    steps: int | None = None,
    minutes: float | None = None,
    epochs: float | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    seed: int = 0,
    warmup: float = 0.05,
    schedule: str = "cosine",
    rates: str | None = None,
    extended: Sequence[float] = (),
    grad_clip: float | None = 1.0,
    optimizer: Any = ADAMW,
    optimizer_options: Mapping[str, Any] | None = None,
    weight_decay: float = 0.0,
    betas: tuple[float, float] | None = None,
    gradient_accumulation_steps: int = 1,
    ema_decay: float = 0.0,
    precision: str | None = None,
    gradient_checkpointing: bool = False,
    eval_every: int | None = None,
    eval_data: Any = None,
    metric: str | None = None,
    patience: int | None = None,
    keep_best: bool = True,
    save_every: int = 100,
    keep: int = 2,
    log_every: int = 10,
    quiet: bool = False,
    on_step: Callable[[int, float], None] | None = None,
    callbacks: Sequence[Any] = (),
    trackers: Sequence[Any] = (),
    project: str = "zoo",
    run_name: str | None = None,
    report: bool = True,
) -> TuneResult:
    """Train what `model.trainable_parameters()` yields on `data`, in place.

    `zoo.Model.tune` documents the arguments; here they have no defaults but zoo's own. One of `steps`, `minutes` and
    `epochs` is given. `data` is what `model.batches` takes; None means the plugin's own.

    Raises:
        TuningError: a setting cannot be, nothing can train, the loss or the gradient is not finite (the weights are
            then those before that step, and the last checkpoint stays), or the checkpoint is of another run.
        DataError: the batches ended.
        OutputError, CheckpointError: a checkpoint cannot be written or read.
        KeyboardInterrupt: Ctrl-C. The last whole step is in a checkpoint then, and a note says how to go on.
        SystemExit: SIGTERM or SIGHUP, with the exit code 143 or 129; the same holds.
    """
    given = dict(locals())
    # All that cannot be is refused before any data are read.
    EvaluationSettings(eval_every, eval_data, metric, patience, keep_best)
    check_options(
        out,
        on_step,
        {"save_every": save_every, "keep": keep, "log_every": log_every},
        {
            "resume": resume,
            "keep_best": keep_best,
            "quiet": quiet,
            "report": report,
            "gradient_checkpointing": gradient_checkpointing,
        },
    )
    tracking = Trackers(trackers, project, run_name, out)
    callbacks = [*checked(callbacks), tracking]
    budget = [
        name for name, value in {"steps": steps, "minutes": minutes, "epochs": epochs}.items() if value is not None
    ]
    if len(budget) != 1:
        raise TuningError(f"expected one of steps, minutes and epochs, got {' and '.join(budget) or 'none'}")
    batch_size = BATCH_SIZE if batch_size is None else batch_size
    device = torch.device(model.device)
    betas = None if betas is None else checked_betas(betas)
    chosen = optimizer_of(optimizer, device, options=optimizer_options, betas=betas, weight_decay=weight_decay)
    rates = rates_for(chosen, rates, lr)
    rate = usual_lr(model.module) if lr is None else lr

    def settings_of(steps: int | None) -> Settings:
        before = checked_extended(extended, minutes if steps is None else steps)
        return Settings(
            data=described(data).encode(errors="replace").decode(),  # of a file's name half a character
            steps=steps,
            minutes=minutes,
            batch_size=batch_size,
            lr=rate,
            seed=seed,
            warmup=warmup_steps(warmup, int(before[0]) if before and steps is not None else steps),
            schedule=schedule,
            rates=rates,
            grad_clip=grad_clip,
            weight_decay=weight_decay,
            betas=chosen.pair,
            gradient_accumulation_steps=gradient_accumulation_steps,
            ema_decay=ema_decay,
            extended=before,
            optimizer=chosen.name,
            optimizer_options=chosen.options,
        )

    settings_of(MOST["steps"] if epochs is not None else steps)
    named = [(name, parameter) for name, parameter in model.trainable_parameters() if parameter.requires_grad]
    if not named:
        raise TuningError(
            "nothing can train: load with lora=8, add_adapter and activate one, or load in full precision (bits=32)"
        )
    with (
        stoppable(),
        preserve_rng(device),
        _training(model),
        checkpointed(model.module, gradient_checkpointing),
        own_accelerator(device, precision) as (accelerator, shards),
        opened_folder(
            accelerator,
            None if out is None else Path(out),
            resume=resume,
            keep=keep,
            keep_best=keep_best,
            quiet=quiet or not accelerator.is_main_process,
        ) as folder,
        sharded(model.module, device, shards and accelerator.num_processes > 1) as sharding,
    ):
        silent = quiet or not accelerator.is_main_process
        division = divided(
            batch_size,
            gradient_accumulation_steps,
            accelerator.process_index,
            accelerator.num_processes,
            None if folder is None or folder.last is None else folder.last.settings,
        )
        size = division.batch_size
        examples = opened(lambda: model.batches(data, batch_size=size, split="train", seed=seed), seed)
        for line in (line for report in examples.reports for line in report.lines()):
            note(line, quiet=silent)
        if epochs is not None:
            steps = steps_of(epochs, examples.items, division.items)
        longer = extension(None if folder is None else folder.last, {"steps": steps, "minutes": minutes})
        if folder is not None and longer.last is not None:
            folder.last = longer.last
        if longer.said or not extended:
            extended = longer.before
        settings = settings_of(steps)
        head = getattr(getattr(model, "entry", None), "head", None)  # other classes are another run
        if eval_every is not None and eval_data is None:
            eval_data = held_out_of(data, examples.reports)
        evaluations = Evaluations(EvaluationSettings(eval_every, eval_data, metric, patience, keep_best))
        facts = {
            **settings.as_dict(),
            **({"head": head.key} if head else {}),
            "precision": accelerator.mixed_precision,
            "processes": accelerator.num_processes,
            KEY: [division.batch_size, division.batches],
            **({"examples": examples.content} if examples.content else {}),
        }
        known = {} if folder is None else identity(model, data, device)
        used = {**given, **asdict(settings), "precision": accelerator.mixed_precision, "warmup": warmup}
        used |= {"steps": steps if epochs is None else None, "lr": settings.lr, "epochs": epochs}
        used["optimizer"] = optimizer if chosen.is_python else chosen.name
        used["processes"] = accelerator.num_processes
        record = None if folder is None else record_of(model, data, used, accelerator.is_main_process)
        if folder is not None and record is not None:
            folder.file = record.file
        run = Run(model, accelerator, named, settings, division, facts, known, folder, device, examples, evaluations)
        run.sharding, run.chosen = sharding, chosen
        run.begin(silent)
        if longer.said:
            note(longer.said, quiet=silent)
        try:
            with tracking.started(accelerator, used):
                if record is not None:
                    with preserve_rng(device):
                        record.begin(run.step, eval_data)
                _advance(run, callbacks, on_step, save_every, log_every, silent)
        except (KeyboardInterrupt, Terminated) as stop:
            stop.add_note(said := run.interrupted())
            if isinstance(stop, Terminated):  # which nothing else shows
                note(f"{stop.signal.name}: {said}", quiet=silent)
            raise
        finally:
            run.optimizer.zero_grad(set_to_none=True)
        run.finish()
        with preserve_rng(device):
            call(callbacks, "on_end", state_of(run))
        if run.stopped is not None:
            note(f"stopped after {settings.place(run.step)}: {run.stopped}", quiet=silent)
        result = run.result()
        if record is not None:
            with preserve_rng(device):
                result = replace(result, report=record.end(result, settings))
        return result


def _advance(
    run: Run,
    callbacks: list[Any],
    on_step: Callable[[int, float], None] | None,
    save_every: int,
    log_every: int,
    quiet: bool,
) -> None:
    """Take the steps that are left, with all that happens between them."""

    def tell(event: str) -> None:
        with preserve_rng(run.device):
            state = state_of(run)
            call(callbacks, event, state)
            run.stopped = state.stopped

    steps, minutes = run.settings.steps, run.settings.minutes
    tell("on_start")
    with ExitStack() as shown:
        bar = progress("tuning", steps, done=run.step, every=log_every, quiet=quiet, minutes=minutes, used=run.used)
        with preserve_rng(run.device):  # rich draws random numbers
            show = shown.enter_context(bar)
        while not run.finished:
            with turns_of(run.model.module).changing():  # other threads see the weights before a step or after it
                loss = run.advance()
            if run.folder is not None:
                run.folder.started = True
            with preserve_rng(run.device):
                show(run.step, loss, run.lr, run.used)
            tell("on_step")
            if run.evaluations.due(run.step, run.finished):
                begun = time.perf_counter()
                with preserve_rng(run.device):
                    run.evaluate()
                note(run.evaluations.line(time.perf_counter() - begun), quiet=quiet)
                tell("on_evaluate")
            if run.step % save_every == 0 or run.finished:
                run.save()
                tell("on_save")
            if on_step is not None:
                with preserve_rng(run.device):
                    on_step(run.step, loss)


@contextmanager
def _training(model: Tunable) -> Iterator[None]:
    """Set training mode for the block; afterwards every submodule is in the mode that it was in."""
    before = [(module, module.training) for module in model.module.modules()]
    model.train()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
