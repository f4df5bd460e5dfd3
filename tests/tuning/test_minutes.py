"""Runs with a budget in minutes instead of steps."""

from __future__ import annotations

import time

import pytest

from zoo.errors import TuningError
from zoo.tuning.loop import tune
from zoo.tuning.settings import Settings


def run(model, **options):
    return tune(model, **{"minutes": 0.01, "batch_size": 8, "lr": 1e-2, "quiet": True, **options})


def settings(**given):
    base = {"data": "", "steps": None, "minutes": 2.0, "batch_size": 8, "lr": 1.0, "seed": 0, "warmup": 0.1}
    base |= {"grad_clip": 1.0, "weight_decay": 0.0, "betas": (0.9, 0.99), "gradient_accumulation_steps": 1}
    return Settings(**{**base, **given})


def test_a_run_trains_for_as_long_as_was_said(fake):
    model, began = fake(noise=0.0), time.perf_counter()
    result = run(model, minutes=0.02)
    assert 1.2 <= result.seconds < 10
    assert time.perf_counter() - began < 20
    assert result.steps == len(result.losses) > 5  # of hundreds on an idle machine
    assert result.loss < result.losses[0]


def test_even_the_shortest_run_has_a_step(fake):
    before = (model := fake()).values()
    assert run(model, minutes=1e-9).steps == 1
    assert any(bool((model.values()[name] != tensor).any()) for name, tensor in before.items())


def test_the_learning_rate_follows_the_clock():
    plan = settings()
    assert plan.lr_at(0, 0.0) == pytest.approx(0.01)  # a share of 0 would change nothing
    assert plan.lr_at(7, 0.05) == pytest.approx(0.5)
    assert plan.lr_at(7, 0.1) == pytest.approx(1.0)
    assert plan.lr_at(7, 0.55) == pytest.approx(0.5)
    assert plan.lr_at(7, 1.0) == plan.lr_at(7, 1.2) == pytest.approx(0.0)
    counted = settings(warmup=4)
    assert [counted.lr_at(step, 0.0) for step in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert counted.lr_at(9, 0.5) == pytest.approx(0.5)


def test_wsd_holds_the_learning_rate_and_lowers_it_at_the_end():
    for plan in (settings(schedule="wsd", warmup=0), settings(schedule="wsd", steps=90, minutes=None, warmup=0)):
        at = [plan.lr_at(round(90 * used), used) for used in (0.2, 0.5, 2 / 3, 5 / 6, 1.0)]
        assert at == pytest.approx([1.0, 1.0, 1.0, 0.5, 0.0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"minutes": None}, "expected one of steps, minutes and epochs"),
        ({"steps": 5}, "expected one of steps, minutes and epochs"),
        ({"minutes": 0}, "expected minutes as a number above 0"),
        ({"minutes": "2"}, "expected minutes as a number above 0"),
        ({"schedule": "linear"}, "expected schedule as one of cosine, wsd, got 'linear'"),
    ],
)
def test_budgets_that_cannot_be_are_errors(fake, options, message):
    with pytest.raises(TuningError, match=message):
        run(fake(), **options)


def test_an_interrupted_run_goes_on_with_the_time_that_is_left(fake, tmp_path):
    def stop(step, loss):
        if step == 5:  # soon: on a busy machine the budget would be used up
            time.sleep(0.4)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        run(fake(), minutes=0.02, out=tmp_path, on_step=stop)
    assert "stopped after step 5, saved in" in caught.value.__notes__[0]
    began = time.perf_counter()
    result = run(fake(), minutes=0.02, out=tmp_path, resume=True)
    assert result.resumed_from == 5
    assert result.steps > 5
    assert 1.2 <= result.seconds < 10
    assert time.perf_counter() - began < result.seconds
    with pytest.raises(TuningError, match=r"minutes was 0\.02 and is 0\.01"):
        run(fake(), minutes=0.01, out=tmp_path, resume=True)


def test_lines_show_the_budget(fake, capfd):
    run(fake(), quiet=False, log_every=10)
    first = capfd.readouterr().err.splitlines()[0]
    assert first.startswith("tuning 10/0.01 min  loss")
    assert first.endswith("s left")
