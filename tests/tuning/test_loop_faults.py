"""What stops a run or cannot start one: one error that names it, and nothing half done."""

from __future__ import annotations

import errno
import os

import pytest
import torch

from zoo.errors import DataError, OutputError, TuningError

from .helpers import names, run, same


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(fake, tmp_path, bad):
    model = fake()
    model.spoil[8] = bad
    seen = []
    with pytest.raises(TuningError, match=rf"the loss is {bad} at step 8 of 20; .*checkpoint-5 stays.*lower lr"):
        run(model, out=tmp_path, save_every=5, on_step=lambda step, loss: seen.append(model.values()))
    assert len(seen) == 7
    assert same(seen[-1], model.values())
    assert names(tmp_path) == ["checkpoint-5", "tuning.json"]


def test_a_gradient_that_is_not_finite_stops_the_run_and_names_where(fake):
    model = fake()
    model.module[3].weight.register_hook(lambda grad: grad * float("nan") if model.calls == 5 else grad)
    seen = []
    with pytest.raises(TuningError, match=r"gradient's norm is nan, first in 3\.weight at step 5 of 20"):
        run(model, on_step=lambda step, loss: seen.append(model.values()))
    assert same(seen[-1], model.values())


def test_a_full_disk_is_one_error_and_keeps_the_last_checkpoint(fake, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def later(step, loss):
        if step == 7:
            monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(OutputError, match="No space left"):
        run(fake(), out=tmp_path, save_every=5, on_step=later)
    monkeypatch.undo()
    assert names(tmp_path) == ["checkpoint-5", "tuning.json"]
    assert run(fake(), out=tmp_path, save_every=5, resume=True).losses == run(fake()).losses


def test_a_folder_that_cannot_be_written_shows_before_the_first_step(fake, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        run(model := fake(), out=tmp_path / "file" / "run")
    assert model.calls == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": 1.5}, "steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"gradient_accumulation_steps": True}, "gradient_accumulation_steps"),
        ({"lr": -1}, "lr"),
        ({"lr": float("nan")}, "lr"),
        ({"lr": "1e-3"}, "lr"),
        ({"grad_clip": 0}, "grad_clip"),
        ({"warmup": -0.1}, "warmup"),
        ({"warmup": 1.5}, "warmup"),
        ({"weight_decay": -1}, "weight_decay"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"seed": -1}, "seed"),
        ({"precision": "fp64"}, "precision"),
    ],
)
def test_settings_that_cannot_be_are_errors_that_name_them(fake, options, message):
    with pytest.raises(TuningError, match=f"expected .*{message}"):
        run(fake(), **options)


def test_a_model_without_anything_to_train_is_an_error(fake):
    model = fake()
    model.module.requires_grad_(False)
    with pytest.raises(TuningError, match="nothing can train: load with lora=8"):
        run(model)


def test_losses_of_another_form_are_errors(fake):
    model = fake()
    for value, message in (
        (torch.ones(2), r"shape \(2,\)"),
        (1.0, "got float"),
        (torch.tensor(1.0), "does not depend"),
    ):
        model.loss = lambda batch, value=value: value
        with pytest.raises(TuningError, match=message):
            run(model)


def test_batches_that_end_are_an_error(fake):
    with pytest.raises(DataError, match="the batches ended before step 2 of 20"):
        run(fake(), data=3)
