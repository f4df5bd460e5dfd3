"""A finished run that is given more steps."""

from __future__ import annotations

import json

import pytest

from tests.tuning.helpers import run, same
from zoo.errors import TuningError
from zoo.tuning.settings import Settings


class Rates:
    def __init__(self):
        self.rates = []

    def on_step(self, state):
        self.rates.append(state.lr)


@pytest.mark.parametrize("options", [{}, {"schedule": "wsd"}, {"warmup": 0.25, "ema_decay": 0.9}], ids=str)
def test_it_goes_on_with_the_rates_of_a_longer_run_and_is_done_again_from_its_settings(fake, tmp_path, capfd, options):
    first, longer = Rates(), Rates()
    short = run(fake(), out=tmp_path, callbacks=[first], **options)
    model = fake()
    result = run(model, out=tmp_path, resume=True, steps=30, callbacks=[longer], quiet=False, **options)
    assert "going on from 20 to 30 steps" in capfd.readouterr().err
    assert (result.resumed_from, result.steps, result.losses[:20]) == (20, 30, short.losses)
    whole = Rates()
    run(fake(), steps=30, callbacks=[whole], **{**options, "warmup": 20 * options.get("warmup", 0.05)})
    assert longer.rates == whole.rates[20:]
    told = json.loads((tmp_path / "tuning.json").read_text())["settings"]
    assert (told["steps"], told["extended"]) == (30, [20])
    again, both = fake(), Rates()
    repeated = run(again, steps=30, extended=[20], callbacks=[both], **options)
    assert both.rates == first.rates + longer.rates
    assert repeated.losses == result.losses
    assert same(again.values(), model.values())


def test_it_is_extended_twice_and_interrupted_on_the_way(fake, tmp_path):
    run(fake(), out=tmp_path, steps=4)
    run(fake(), out=tmp_path, steps=8, resume=True)

    def stop(step, loss):
        if step == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(fake(), out=tmp_path, steps=12, resume=True, on_step=stop)
    model, again = fake(), fake()
    result = run(model, out=tmp_path, steps=12, resume=True)
    assert result.resumed_from == 10
    assert run(again, steps=12, extended=(4, 8)).losses == result.losses
    assert same(again.values(), model.values())


def test_a_run_that_is_not_finished_keeps_its_schedule(fake, tmp_path):
    def stop(step, loss):
        if step == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(fake(), out=tmp_path, on_step=stop)
    with pytest.raises(TuningError, match="10 of its 20 steps, and 30 would change the learning rate"):
        run(fake(), out=tmp_path, steps=30, resume=True)
    run(fake(), out=tmp_path, resume=True)
    with pytest.raises(TuningError, match="steps was 20 and is 15"):
        run(fake(), out=tmp_path, steps=15, resume=True)
    for extended in ([30], [5, 3], [0], "5", [True]):
        with pytest.raises(TuningError, match="expected extended as rising numbers"):
            run(fake(), steps=20, extended=extended)


def test_minutes_are_extended_too(fake, tmp_path):
    first = run(fake(), steps=None, minutes=0.002, out=tmp_path)
    result = run(fake(), steps=None, minutes=0.004, out=tmp_path, resume=True)
    assert result.steps > first.steps
    plain = {"data": "", "steps": None, "batch_size": 1, "lr": 1.0, "seed": 0, "grad_clip": None, "weight_decay": 0.0}
    more = {"betas": (0.9, 0.9), "gradient_accumulation_steps": 1, "warmup": 0.0, "minutes": 4.0}
    settings = Settings(**plain, **more, extended=(2.0,))
    assert settings.lr_at(9, used=0.25) == pytest.approx(0.5)  # one of two minutes
    assert settings.lr_at(9, used=0.5) == pytest.approx(0.5)  # two of four
