"""Evaluations within a run: the best weights, early stopping, resuming."""

from __future__ import annotations

import pytest
import torch

from tests.tuning.helpers import names, run, same
from zoo import TuningError


class Watched:
    """A model whose evaluations give scripted values, and keep what the weights were."""

    def __init__(self, model, script, metric="error") -> None:
        self.model, self.script, self.metric, self.at = model, list(script), metric, []

    def __getattr__(self, name):
        return getattr(self.model, name)

    def train(self):
        return self.model.train()

    def evaluate(self, data=None):
        self.data = data
        torch.rand(3)  # what an evaluation draws changes nothing
        self.at.append(self.values())
        return {self.metric: self.script[len(self.at) - 1], "other": 1.0}


def test_the_best_weights_are_left_and_on_disk(fake, tmp_path):
    model = Watched(fake(), [3.0, 1.0, 2.0, 4.0])
    result = run(model, eval_every=5, out=tmp_path, save_every=5)
    assert result.best_step == 10
    assert [step for step, _ in result.evaluations] == [5, 10, 15, 20]
    assert same(model.values(), model.at[1])
    assert names(tmp_path) == ["best-10", "checkpoint-15", "checkpoint-20", "tuning.json"]


def test_without_a_folder_the_best_weights_are_left_too(fake):
    model = Watched(fake(), [3.0, 1.0, 2.0, 4.0])
    run(model, eval_every=5)
    assert same(model.values(), model.at[1])


def test_of_an_accuracy_more_is_better(fake):
    model = Watched(fake(), [0.3, 0.1, 0.2, 0.25], metric="accuracy")
    assert run(model, eval_every=5).best_step == 5
    assert same(model.values(), model.at[0])


def test_what_the_data_hold_out_is_evaluated_validation_first(fake):
    from zoo.data.report import Report, record

    class Told(Watched):
        splits = ("train", "test")

        def batches(self, data=None, **options):
            record(Report("pets", "files", splits=dict.fromkeys(self.splits, 9)))
            return self.model.batches(data, **options)

    model = Told(fake(), [1.0] * 9)
    run(model, data="pets", eval_every=20)
    assert model.data == "pets"
    model.splits = ("train", "validation", "test")
    run(model, data="pets", eval_every=20)
    assert (model.data.source, model.data.split) == ("pets", "validation")
    run(model, data="pets", eval_every=20, eval_data="others")
    assert model.data == "others"


def test_evaluating_changes_nothing_in_the_run(fake):
    whole = fake()
    expected = run(whole)
    model = Watched(fake(), [4.0, 3.0, 2.0, 1.0])
    assert run(model, eval_every=5).losses == expected.losses
    assert same(model.values(), whole.values())
    kept = Watched(fake(), [1.0, 2.0, 3.0, 4.0])
    run(kept, eval_every=5, keep_best=False)
    assert same(kept.values(), whole.values())


def test_a_run_without_a_better_evaluation_stops(fake, capsys):
    model = Watched(fake(), [3.0, 1.0, 2.0, float("nan")])
    result = run(model, eval_every=4, patience=2, quiet=False)
    assert result.steps == 16
    assert result.stopped == "2 evaluations without a lower error than at step 8"
    assert "stopped after step 16 of 20" in capsys.readouterr().err
    assert same(model.values(), model.at[1])


def test_the_average_is_what_is_evaluated_and_what_is_left(fake):
    model = Watched(fake(), [4.0, 3.0, 2.0, 1.0])
    run(model, eval_every=5, ema_decay=0.9)
    whole = fake()
    run(whole, ema_decay=0.9)
    assert same(model.values(), whole.values())
    assert same(model.at[-1], whole.values())


@pytest.mark.parametrize("stop", [7, 10, 13])
def test_a_resumed_run_has_the_same_evaluations_and_best_weights(fake, tmp_path, stop):
    script = [3.0, 1.0, 2.0, 4.0]
    whole = Watched(fake(), script)
    expected = run(whole, eval_every=5)
    first = Watched(fake(), script)
    first.model.raise_at[stop] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run(first, eval_every=5, out=tmp_path)
    again = Watched(fake(), script[len(first.at) :])
    result = run(again, eval_every=5, out=tmp_path, resume=True)
    assert result.evaluations == expected.evaluations
    assert result.best_step == 10
    assert same(again.values(), whole.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eval_every": 0}, "expected eval_every as a whole number, at least 1"),
        ({"eval_every": 5, "patience": 0}, "expected patience as a whole number"),
        ({"patience": 2}, "patience are of evaluations|patience .*add eval_every"),
        ({"eval_every": 5, "metric": "acuracy"}, "expected metric as one of error, other, got 'acuracy'"),
    ],
)
def test_what_cannot_be_is_an_error(fake, options, message):
    with pytest.raises(TuningError, match=message):
        run(Watched(fake(), [1.0] * 9), **options)
