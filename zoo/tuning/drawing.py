"""The batches that one process draws in a run, and whether a run that goes on draws those that it had."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from zoo.data.batches import seed_of
from zoo.errors import DataError
from zoo.tuning.checkpoint import Checkpoint, check_examples
from zoo.tuning.division import Division, divided_then
from zoo.tuning.examples import DIGESTS, Drawn, Examples, batch_of, shares
from zoo.tuning.processes import mean, summed
from zoo.tuning.settings import Settings
from zoo.tuning.step import Weighted
from zoo.tuning.tunable import Tunable

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass
class Drawing:
    """What a process draws.

    Attributes:
        model: counts what is in a batch.
        accelerator: the other processes.
        examples: the batches of the run.
        division: which of each step are this process's.
        settings: of the run.
        known: whether digests of all batches are known; not where those before a resume were cut otherwise.
        newest: the digest of this process's batches of the last step alone.
    """

    model: Tunable
    accelerator: Accelerator
    examples: Examples
    division: Division
    settings: Settings
    known: bool = True
    newest: int = 0

    @property
    def digests(self) -> Drawn | None:
        """Digests of this process's batches so far, if they are known."""
        return Drawn(self.examples.digest, self.newest) if self.known else None

    def summed(self, own: Drawn) -> Drawn:
        """Return the digests of all processes' batches, of those of each."""
        return Drawn(*(summed(self.accelerator, digest, DIGESTS) for digest in own))

    def weighted(self, step: int, sharded: bool) -> list[Weighted]:
        """Return this process's batches of a step (from 0), each with its share in the loss.

        Raises:
            DataError: the batches ended, or nothing counts in them; with `sharded` weights in any of them.
        """
        drawn, place = self._drawn(step), self.settings.place(step + 1)
        counts = [float(self.model.count(batch)) for _, batch in drawn]
        empty = float(counts.count(0) or not counts)
        place_of_sums = self.model.device if self.accelerator.num_processes > 1 else None  # one need not ask a device
        total, empties = mean(self.accelerator, torch.tensor([sum(counts), empty], device=place_of_sums))
        found = shares(drawn, counts, total, place)
        if sharded and empties:
            raise DataError(
                f"nothing counts in a batch of {place}, and with sharded weights every batch is needed: give a larger "
                "batch size, or train without --use_fsdp"
            )
        return [Weighted(batch, share, seed_of(self.settings.seed, number)) for (number, batch), share in found]

    def catch_up(self, folder: Path, last: Checkpoint) -> None:
        """Pass over the batches of the steps that are done, and compare them with those that the run had.

        Where the content of the data is known to be the same, only those of the last step are drawn again.

        Raises:
            TuningError: they are others.
        """
        then = divided_then(last.settings)
        if last.drawn is None or (then.batch_size, then.batches) != (self.division.batch_size, self.division.batches):
            self.known = False
            self.examples.skip(last.step * self.division.batches)
            return
        first = max(0, last.step - 1) if self.examples.content else 0
        for step in range(first, last.step):
            self._drawn(step)
        now = self.summed(Drawn(self.examples.digest, self.newest))
        check_examples(folder, last.drawn if first == 0 else Drawn(now.all, last.drawn.newest), now)
        # Further ones are added to it, in one of the processes.
        self.examples.digest = last.drawn.all if self.accelerator.is_main_process else 0

    def _drawn(self, step: int) -> list[tuple[int, Any]]:
        """Return this process's batches of a step, with their numbers."""
        before, place = self.examples.digest, self.settings.place(step + 1)
        drawn = [(number, batch_of(self.examples, number, place)) for number in self.division.own(step)]
        self.newest = (self.examples.digest - before) % DIGESTS
        return drawn
