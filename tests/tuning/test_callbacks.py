"""Callbacks: when each is called, what it sees, and how it stops a run."""

from __future__ import annotations

import random

import pytest
import torch

import zoo
from tests.tuning.helpers import run
from zoo import TuningError


class Diary(zoo.Callback):
    def __init__(self) -> None:
        self.lines: list[tuple[str, int]] = []

    def on_start(self, run):
        self.lines.append(("start", run.step))

    def on_step(self, run):
        random.random(), torch.rand(2)
        assert run.steps == 20
        self.lines.append(("step", run.step))

    def on_evaluate(self, run):
        self.lines.append((f"evaluate {run.metrics['error']:g}", run.step))

    def on_save(self, run):
        assert run.checkpoint.name == f"checkpoint-{run.step}"
        self.lines.append(("save", run.step))

    def on_end(self, run):
        self.lines.append(("end", run.step))


def test_each_is_called_in_its_place_and_changes_nothing(fake, tmp_path):
    diary, model = Diary(), fake()
    model.evaluate = lambda data=None: {"error": 1.0}
    result = run(model, out=tmp_path, callbacks=[diary], eval_every=10, save_every=10)
    assert result.losses == run(fake()).losses
    assert [line for line in diary.lines if line[0] != "step"] == [
        ("start", 0),
        ("evaluate 1", 10),
        ("save", 10),
        ("evaluate 1", 20),
        ("save", 20),
        ("end", 20),
    ]
    assert [step for what, step in diary.lines if what == "step"] == list(range(1, 21))


def test_a_callback_stops_the_run_which_is_then_finished_and_saved(fake, tmp_path):
    class Stop:  # no base class is needed
        def on_step(self, run):
            if run.step == 7:
                run.stop("seven is enough")

    result = run(fake(), out=tmp_path, callbacks=[Stop()])
    assert (result.steps, result.stopped) == (7, "seven is enough")
    assert result.checkpoint.name == "checkpoint-7"


def test_a_run_that_is_stopped_at_its_start_takes_no_step(fake):
    class Stop:
        def on_start(self, run):
            run.stop()

    result = run(fake(), callbacks=[Stop()])
    assert (result.steps, result.summary(), result.curve()) == (0, "no step was taken", "")
    assert result.loss != result.loss


@pytest.mark.parametrize(
    ("name", "said"), [("on_stpe", "got on_stpe .*Did you mean 'on_step'"), ("step", "none of them")]
)
def test_a_misspelt_method_is_an_error(fake, name, said):
    wrong = type("Wrong", (), {name: lambda self, run: None})()
    with pytest.raises(TuningError, match=said):
        run(fake(), callbacks=[wrong])
