"""Runs that are stopped and go on: equal to one without a pause, from checkpoints that fit."""

from __future__ import annotations

import os
import random
import signal

import numpy as np
import pytest
import torch

from zoo.errors import TuningError

from .helpers import names, run, same


@pytest.mark.parametrize("stop_at", [1, 7, 13, 19])
@pytest.mark.parametrize(
    "options",
    [{}, {"gradient_accumulation_steps": 3, "weight_decay": 0.1, "grad_clip": None}, {"ema_decay": 0.9}],
    ids=["plain", "more", "ema"],
)
def test_a_resumed_run_equals_one_without_a_pause_bit_for_bit(fake, tmp_path, stop_at, options):
    whole = fake()
    expected = run(whole, **options)

    stopped = fake()

    def stop(step, loss):
        if step == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(stopped, out=tmp_path / "run", on_step=stop, **options)
    assert names(tmp_path / "run") == [f"checkpoint-{stop_at}", "tuning.json"]
    torch.rand(17), random.random(), np.random.rand(3)  # noqa: NPY002
    fresh = fake(seed=99)  # other weights: all must come from the checkpoint
    fresh.module[0].bias.data = whole.module[0].bias.data
    result = run(fresh, out=tmp_path / "run", resume=True, **options)
    assert result.losses == expected.losses
    assert same(fresh.values(), whole.values())
    assert (result.resumed_from, result.steps) == (stop_at, 20)
    assert names(tmp_path / "run") == sorted([f"checkpoint-{stop_at}", "checkpoint-20", "tuning.json"])
    assert names(tmp_path / "run" / "checkpoint-20") == ["state.json", "state.safetensors"]
    assert fresh.seen == whole.seen[stop_at * options.get("gradient_accumulation_steps", 1) :]


def steps_in(out):
    return sorted(int(path.name.removeprefix("checkpoint-")) for path in out.glob("checkpoint-*"))


def test_an_interrupt_within_a_step_saves_the_step_before_it(fake, tmp_path):
    expected = run(whole := fake())
    model = fake()
    model.raise_at[6] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt) as caught:
        run(model, out=tmp_path)
    assert "stopped after step 5 of 20" in caught.value.__notes__[0]
    assert "resume=True" in caught.value.__notes__[0]
    result = run(fake(), out=tmp_path, resume=True)
    assert result.losses == expected.losses
    assert len(whole.seen) == 20


def test_running_means_are_part_of_the_run(fake, tmp_path):
    def made():
        model = fake()
        model.module.append(torch.nn.BatchNorm1d(2))
        return model

    expected = run(whole := made())
    model = made()
    before = model.module[4].running_mean.clone()
    model.module[4].register_forward_hook(lambda *_: os.kill(os.getpid(), signal.SIGINT) if model.calls == 9 else None)
    with pytest.raises(KeyboardInterrupt):  # after the means have moved on, before the step is done
        run(model, out=tmp_path)
    assert not torch.equal(before, model.module[4].running_mean)
    assert names(tmp_path) == ["checkpoint-8", "tuning.json"]
    resumed = run(again := made(), out=tmp_path, resume=True)
    assert resumed.losses == expected.losses
    assert same(again.values(), whole.values())


def test_a_real_ctrl_c_never_falls_into_the_step_itself(fake, tmp_path):
    """The signal arrives within the optimizer's step: the step is finished and saved."""
    expected = run(fake())
    model, original = fake(), torch.optim.AdamW.step

    def step(self, *args, **kwargs):
        if model.calls == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: PT012
        patch.setattr(torch.optim.AdamW, "step", step)
        run(model, out=tmp_path)
    assert "checkpoint-4" in names(tmp_path)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert run(fake(), out=tmp_path, resume=True).losses == expected.losses


def test_an_interrupt_without_a_folder_says_how_to_have_one(fake):
    model = fake()
    model.raise_at[3] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt) as caught:
        run(model)
    assert "out=FOLDER" in caught.value.__notes__[0]


@pytest.mark.parametrize(("keep", "kept"), [({}, [12, 18]), ({"keep": 1}, [18]), ({"keep": 9}, [6, 12, 18])])
def test_checkpoints_come_regularly_and_the_last_ones_stay(fake, tmp_path, keep, kept):
    seen = []
    run(fake(), out=tmp_path, save_every=6, on_step=lambda step, loss: seen.append(steps_in(tmp_path)), **keep)
    assert seen[4:6] == [[], [6]]
    assert seen[18] == kept
    assert names(tmp_path) == sorted(
        [f"checkpoint-{step}" for step in [*kept, 20][-keep.get("keep", 2) :]] + ["tuning.json"]
    )


def test_a_finished_run_resumed_is_done_at_once(fake, tmp_path):
    first = run(fake(), out=tmp_path)
    again = run(model := fake(), out=tmp_path, resume=True)
    assert again.losses == first.losses
    assert again.checkpoint == first.checkpoint == tmp_path / "checkpoint-20"
    assert model.calls == 0


def test_nothing_to_resume_starts_afresh_and_says_so(fake, tmp_path, capfd):
    result = run(fake(), out=tmp_path / "new", resume=True, quiet=False)
    assert result.losses == run(fake()).losses
    assert "no checkpoint in" in capfd.readouterr().err


def test_an_earlier_runs_folder_is_not_written_over(fake, tmp_path):
    run(fake(), out=tmp_path, steps=2)
    with pytest.raises(
        TuningError, match=r"checkpoint-2 is of an earlier run: go on with it \(resume=True, --resume\)"
    ):
        run(fake(), out=tmp_path)


def test_resume_needs_a_folder(fake):
    with pytest.raises(TuningError, match="needs out"):
        run(fake(), resume=True)


def test_other_settings_are_an_error_that_names_them(fake, tmp_path):
    run(fake(), out=tmp_path)
    with pytest.raises(TuningError, match=r"steps was 20 and is 15; lr was 0\.01 and is 0\.02; seed was 0 and is 1"):
        run(fake(), out=tmp_path, resume=True, steps=15, lr=2e-2, seed=1, warmup=1)
    with pytest.raises(TuningError, match="data was \"the plugin's own\" and is 'x'"):
        run(fake(), data="x", out=tmp_path, resume=True)


def test_another_model_is_an_error_and_nothing_is_half_loaded(fake, tmp_path):
    run(fake(), out=tmp_path)
    wider, frozen = fake(), fake()
    wider.module[3] = torch.nn.Linear(8, 3)
    frozen.module[3].bias.requires_grad_(False)
    for model, message in ((wider, r"3\.weight is \(3, 8\)"), (frozen, r"3\.bias is not in the model")):
        before = model.values()
        with pytest.raises(TuningError, match=message):
            run(model, out=tmp_path, resume=True)
        assert same(before, model.values())
