"""Trackers: what they are told, which there are, and that a run outlives them."""

from __future__ import annotations

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from tests.tuning.helpers import names, run, same
from zoo.errors import TuningError
from zoo.tuning import trackers


class Own(GeneralTracker):
    name = "own"
    requires_logging_directory = False

    def __init__(self, fail_at=None):
        super().__init__()
        self.told, self.config, self.finished, self.fail_at = [], {}, 0, fail_at

    @property
    def tracker(self):
        return self.told

    def store_init_configuration(self, values):
        self.config = values

    def log(self, values, step=None, **more):
        if step == self.fail_at:
            raise ConnectionError("the service is away")
        self.told.append((step, values))

    def finish(self):
        self.finished += 1


def test_a_tracker_is_told_settings_steps_and_evaluations(fake, tmp_path):
    class Measured(fake):
        def evaluate(self, data=None):
            return {"error": 0.5}

    own, plain, model = Own(), fake(), Measured()
    result = run(model, steps=4, eval_every=2, keep_best=False, trackers=[own], project="p", seed=3)
    run(plain, steps=4, seed=3)
    assert [values["train/loss"] for step, values in own.told if "train/loss" in values] == list(result.losses)
    assert [step for step, values in own.told if values == {"held_out/error": 0.5}] == [2, 4]
    assert {"steps": 4, "seed": 3, "lr": 0.01}.items() <= own.config.items()
    assert all(isinstance(value, bool | int | float | str) for value in own.config.values())
    assert own.finished == 1
    assert same(plain.values(), model.values()), "what trackers draw changes nothing"


def test_a_tracker_that_fails_ends_no_run(fake, capfd):
    own = Own(fail_at=2)
    assert run(fake(), steps=4, trackers=[own]).steps == 4
    assert [step for step, _ in own.told] == [1]
    assert "the tracker own has failed, and is told no more: the service is away" in capfd.readouterr().err


def test_a_run_that_is_stopped_finishes_its_trackers(fake):
    def stop(step, loss):
        raise KeyboardInterrupt

    own = Own()
    with pytest.raises(KeyboardInterrupt):
        run(fake(), trackers=[own], on_step=stop)
    assert own.finished == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"trackers": ["tensorbord"]}, "Did you mean 'tensorboard'"),
        ({"trackers": "wandb"}, "as a list of names"),
        ({"trackers": [3]}, "or an accelerate"),
        ({"trackers": [Own(), "mlflow"]}, "mlflow is not installed: pip install mlflow"),
        ({"trackers": [], "project": ""}, "expected project as a name"),
        ({"trackers": [], "run_name": 3}, "expected run_name as a name"),
    ],
)
def test_what_cannot_be_is_refused_before_data_are_read(fake, tmp_path, monkeypatch, options, said):
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    model = fake()
    monkeypatch.setattr(model, "batches", None)  # nothing calls it
    with pytest.raises(TuningError, match=said):
        run(model, out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_all_of_accelerates_names_are_known(monkeypatch, tmp_path):
    known = list(LOGGER_TYPE_TO_CLASS)
    assert {"tensorboard", "wandb", "mlflow", "comet_ml", "aim", "clearml", "dvclive"} <= set(known)
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: known)
    assert trackers.checked_trackers([*known, "wandb"], tmp_path) == known
    assert trackers.checked_trackers(["all"], tmp_path) == known
    with pytest.raises(TuningError, match="writes files: give out="):
        trackers.checked_trackers(["tensorboard"], None)


def test_tensorboard_has_the_curve(fake, tmp_path):
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    out = tmp_path / "run"
    result = run(fake(), steps=3, out=out, trackers=["tensorboard"], project="letters")
    found = reading.EventAccumulator(str(out / "logs" / "letters")).Reload()
    assert [one.value for one in found.Scalars("train/loss")] == pytest.approx(list(result.losses))
    assert [one.step for one in found.Scalars("train/lr")] == [1, 2, 3]


def test_a_tracker_that_does_not_start_leaves_nothing(fake, tmp_path, monkeypatch):
    def start(self):
        raise OSError("no key")

    monkeypatch.setattr(Own, "start", start)
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(TuningError, match="a tracker does not start: no key"):
        run(fake(), out=tmp_path, trackers=[Own()])
    assert names(tmp_path) == ["mine.txt"]
