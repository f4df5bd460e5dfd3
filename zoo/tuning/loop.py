"""The tuning loop: AdamW on what trains, over the model's own batches and loss."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from zoo.errors import TuningError
from zoo.torch_state.rng import preserve_rng
from zoo.tuning import checkpoint as checkpoints
from zoo.tuning.checkpoint import Checkpoint
from zoo.tuning.processes import accelerator, gathered
from zoo.tuning.progress import note, progress
from zoo.tuning.result import TuneResult as TuneResult
from zoo.tuning.run import Run, Tunable
from zoo.tuning.settings import BATCH_SIZE, LR, Settings, described, warmup_steps

if TYPE_CHECKING:
    from accelerate import Accelerator


def tune(
    model: Tunable,
    data: Any = None,
    *,
    steps: int,
    batch_size: int | None = None,
    lr: float | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    seed: int = 0,
    warmup: float = 0.05,
    grad_clip: float | None = 1.0,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    accumulate: int = 1,
    average: float = 0.0,
    precision: str | None = None,
    save_every: int = 100,
    log_every: int = 10,
    quiet: bool = False,
    on_step: Callable[[int, float], None] | None = None,
) -> TuneResult:
    """Train what `model.trainable_parameters()` yields on `data` (None: the plugin's own), in place.

    Args:
        steps: optimizer steps, each over `accumulate` batches of `batch_size` (default 16) in every process.
        lr: peak learning rate, default 1e-3: right for low-rank factors and for small models.
        out: folder for checkpoints, or None for none. One that holds another run's checkpoints is an error.
        resume: go on from the checkpoint in `out`. On the CPU the losses and weights are those of a run without the
            pause, bit for bit. Where there is none yet, the run starts afresh and says so, so that the same command
            can be given again and again.
        seed: of the batches and of everything random in the loss. The caller's generators are put back afterwards.
        warmup: linear warm-up, as a share of the steps or (from 1) as their number; a half cosine to 0 follows.
        grad_clip: largest norm of the gradient, None for no limit.
        weight_decay: decoupled, on parameters of two or more dimensions. It pulls the product of low-rank factors to
            zero, therefore 0.
        average: decay of a running average of what trains, which takes its place after the last step, for objectives
            that never settle (GANs): 0.99 to 0.999. 0: none. It costs the memory of what trains once more.
        precision: "no", "bf16" or "fp16" autocast; None: what accelerate is set to, or else "no".
        save_every: steps between checkpoints; the last step has one in any case.
        log_every: steps between lines where stderr is no terminal; on one there is a progress bar.
        on_step: called with (steps done, loss) after each step. What it draws does not change the run.

    Raises:
        TuningError: a setting cannot be, nothing can train, the loss or the gradient is not finite (the weights are
            then those before that step, and the last checkpoint stays), or the checkpoint is of another run.
        DataError: the batches ended.
        OutputError, CheckpointError: a checkpoint cannot be written or read.
        KeyboardInterrupt: Ctrl-C. The last whole step is in a checkpoint then, and a note says how to go on.
    """
    settings = Settings(
        data=described(data),
        steps=steps,
        batch_size=BATCH_SIZE if batch_size is None else batch_size,
        lr=LR if lr is None else lr,
        seed=seed,
        warmup=warmup_steps(warmup, steps),
        grad_clip=grad_clip,
        weight_decay=weight_decay,
        betas=(betas[0], betas[1]),
        accumulate=accumulate,
        average=average,
    )
    folder = None if out is None else Path(out)
    named = [(name, parameter) for name, parameter in model.trainable_parameters() if parameter.requires_grad]
    if not named:
        raise TuningError(
            "nothing can train: load with lora=8, add_adapter and activate one, or load in full precision (bits=32)"
        )
    device = torch.device(model.device)
    with preserve_rng(device), _training(model), accelerator(device, precision, accumulate) as made:
        last = _last(made, folder, resume, quiet)
        facts = {**settings.facts(), "precision": made.mixed_precision, "processes": made.num_processes}
        run = Run(model, made, named, settings, facts, folder, device)
        run.begin(data, last[0] if last else None, last[1] if last else None)
        try:
            with progress(
                "tuning", steps, done=run.step, every=log_every, quiet=quiet or not made.is_main_process
            ) as show:
                while run.step < steps:
                    loss = run.advance()
                    show(run.step, loss, settings.lr_at(run.step - 1))
                    if run.step % save_every == 0 or run.step == steps:
                        run.save()
                    if on_step is not None:
                        with preserve_rng(device):
                            on_step(run.step, loss)
        except KeyboardInterrupt as stop:
            stop.add_note(run.interrupted())
            raise
        finally:
            run.optimizer.zero_grad(set_to_none=True)
        run.finish()
        return run.result()


def _last(made: Accelerator, out: Path | None, resume: bool, quiet: bool) -> tuple[Path, Checkpoint] | None:
    """The checkpoint to go on from, if any: the one that the first process sees."""
    if out is None:
        if resume:
            raise TuningError("resume=True needs out=FOLDER, the folder of the run to go on with")
        return None
    found = gathered(made, checkpoints.found(out))[0]
    if not resume and found:
        raise TuningError(
            f"{found[-1]} is of an earlier run: go on with it (resume=True, --resume), give another out, or delete it"
        )
    if resume and not found:
        note(f"no checkpoint in {out} yet: starting at step 1", quiet=quiet or not made.is_main_process)
    return (found[-1], checkpoints.load(found[-1])) if found else None


@contextmanager
def _training(model: Tunable) -> Iterator[None]:
    """Training mode; afterwards every submodule is in the mode that it was in."""
    before = [(module, module.training) for module in model.module.modules()]
    model.train()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
