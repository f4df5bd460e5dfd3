"""The folder of a run: one writer at a time, the checkpoint to go on from, and which checkpoints stay."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import CheckpointError, TuningError, ZooError
from zoo.storage import atomic
from zoo.storage.locks import one_writer
from zoo.storage.staging import sweep
from zoo.tuning import checkpoint as checkpoints
from zoo.tuning import evaluation, manifest
from zoo.tuning.checkpoint import Checkpoint
from zoo.tuning.processes import gathered
from zoo.tuning.progress import note

if TYPE_CHECKING:
    from accelerate import Accelerator

SETTINGS, RUN_FILE = "tuning.json", "run.toml"


@dataclass
class RunFolder:
    """A run's folder, locked.

    Attributes:
        out: where it is.
        keep: how many checkpoints stay.
        keep_best: whether the best weights are wanted in the end.
        good: the whole checkpoints, the oldest first, each with the step of the best evaluation that it knows of.
        last: the checkpoint to go on from; None for a run that begins.
        file: the content of the run's `run.toml`; "" where the model cannot say it.
        started: whether a step was taken: until then nothing is left behind.
    """

    out: Path
    keep: int
    keep_best: bool
    good: list[tuple[Path, int | None]] = field(default_factory=list)
    last: Checkpoint | None = None
    file: str = ""
    started: bool = False

    @property
    def path(self) -> Path | None:
        """The last checkpoint's folder."""
        return self.good[-1][0] if self.good else None

    def describe(self, content: Mapping[str, Any]) -> None:
        """Write what the run depends on, unless that is there; what cannot be written shows now, not an hour later.

        Raises:
            OutputError: it cannot be written.
        """
        path, run_file = self.out / SETTINGS, self.out / RUN_FILE
        same = False
        if self.last is not None:
            try:
                same = manifest.read(path).get("settings") == content.get("settings")
            except CheckpointError as error:
                warnings.warn(f"{self.out}: {error}; it is written again", stacklevel=2)
        if not same:
            manifest.write(path, content)
        if self.file and not (same and run_file.is_file()):
            atomic.write_text(run_file, self.file)

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint, and remove those that are too many.

        Raises:
            OutputError: it cannot be written; those before it stay.
        """
        folder = checkpoints.save(self.out, checkpoint)
        earlier = [(path, best) for path, best in self.good if path != folder]
        self.good = [*earlier, (folder, evaluation.best_of(checkpoint.evaluations))][-self.keep :]
        checkpoints.keep(self.out, checkpoint.step, {path for path, _ in self.good})
        evaluation.keep(self.out, {best for _, best in self.good if best is not None})
        return folder

    def find(self, resume: bool) -> None:
        """Find the checkpoint to go on from: the last one that is whole, with the best weights that it knows of.

        Raises:
            TuningError: there are checkpoints, and the run is to begin.
            CheckpointError: all that there are, are damaged.
        """
        found, damaged = checkpoints.found(self.out), []
        if found and not resume:
            raise TuningError(
                f"{found[-1]} is of an earlier run: go on with it (resume=True, --resume), give another out, or delete "
                "it"
            )
        for folder in reversed(found):
            try:
                checkpoint = checkpoints.load(folder)
                best = evaluation.best_of(checkpoint.evaluations)
                if best is not None and self.keep_best:
                    evaluation.check_best(self.out, best)
            except CheckpointError as error:
                damaged.append(str(error))
                continue
            self.good.insert(0, (folder, best))
            self.last = self.last or checkpoint
        if self.last is None and damaged:
            before = "; no checkpoint before it is whole" if len(damaged) > 1 else ""
            raise CheckpointError(f"{damaged[0]}{before}; {self._way_out(damaged)}")
        if damaged and found[-1] != self.path:
            warnings.warn(f"{damaged[0]}: going on from the one before it, {self.path}", stacklevel=2)

    def _way_out(self, damaged: Sequence[str]) -> str:
        if evaluation.LOST in damaged[0]:
            return "keep_best=False goes on without them"
        return f"restore {'one of those folders' if len(damaged) > 1 else 'that folder'}, or delete it to start afresh"


@contextmanager
def opened(
    accelerator: Accelerator, out: Path | None, *, resume: bool, keep: int, keep_best: bool, quiet: bool
) -> Iterator[RunFolder | None]:
    """Hold the lock of a run's folder for the block, without leftovers of killed runs; None without a folder.

    Raises:
        TuningError: another run is writing there, or has written there and is not to be resumed.
        CheckpointError: no checkpoint is whole.
        OutputError: the folder cannot be written.
    """
    if out is None:
        if resume:
            raise TuningError("resume=True needs out=FOLDER, the folder of the run to go on with")
        yield None
        return
    folder = RunFolder(out, keep, keep_best)
    failed: ZooError | None = None
    with ExitStack() as held:
        if accelerator.is_main_process:
            try:
                held.enter_context(one_writer(out))
                sweep(out)
                sweep(out.resolve().parent)
                folder.find(resume)
            except ZooError as error:
                failed = error
        failed, folder.good = gathered(accelerator, (failed, folder.good))[0]
        if failed is not None:
            raise failed
        if folder.path is not None and not accelerator.is_main_process:
            folder.last = checkpoints.load(folder.path)
        if resume and folder.last is None:
            note(f"no checkpoint in {out} yet: starting at step 1", quiet=quiet)
        there = {path.name for path in out.iterdir()} if accelerator.is_main_process else set()
        try:
            yield folder
        except BaseException:
            if accelerator.is_main_process and not folder.good and not folder.started:
                _remove_all_but(out, there)
            raise


def _remove_all_but(out: Path, names: set[str]) -> None:
    """Remove what a run that did not start has written."""
    with suppress(OSError):
        for path in out.iterdir():
            if path.name not in names:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
