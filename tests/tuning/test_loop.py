from __future__ import annotations

import errno
import os
import random
import signal
import sys

import numpy as np
import pytest
import torch
from rich.console import Console

from zoo.errors import CheckpointError, DataError, OutputError, TuningError
from zoo.tuning.loop import tune


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def run(model, **options):
    return tune(model, **{"steps": 20, "batch_size": 8, "lr": 1e-2, "quiet": True, **options})


def names(folder):
    return sorted(item.name for item in folder.iterdir())


def test_tuning_lowers_the_loss_and_changes_only_what_trains(fake):
    model = fake(noise=0.0)
    before = model.values()
    result = run(model, steps=200, lr=2e-2)
    after = model.values()
    assert result.loss < 0.2 * result.losses[0]
    assert torch.equal(before["0.bias"], after["0.bias"])
    assert all(not torch.equal(before[name], after[name]) for name in before if name != "0.bias")
    assert (result.steps, len(result.losses), result.batch_size, result.out) == (200, 200, 8, None)
    assert result.trainable == 32 + 16 + 2
    assert all(parameter.grad is None for parameter in model.module.parameters())


def test_equal_settings_give_equal_weights_and_another_seed_others(fake):
    runs = [(model := fake(), run(model, seed=seed).losses, model.values()) for seed in (3, 3, 4)]
    assert runs[0][1] == runs[1][1]
    assert same(runs[0][2], runs[1][2])
    assert runs[0][1] != runs[2][1]


def test_the_run_does_not_depend_on_the_callers_generators_and_puts_them_back(fake):
    model = fake()  # making it draws
    random.seed(5), np.random.seed(5), torch.manual_seed(5)  # noqa: NPY002
    expected = random.random(), np.random.rand(), torch.rand(3)  # noqa: NPY002
    random.seed(5), np.random.seed(5), torch.manual_seed(5)  # noqa: NPY002
    first = run(model).losses
    assert (random.random(), np.random.rand()) == expected[:2]  # noqa: NPY002
    assert torch.equal(torch.rand(3), expected[2])
    assert run(fake()).losses == first


def test_what_on_step_draws_does_not_change_the_run(fake):
    plain, seen = run(fake()).losses, []
    losses = run(fake(), on_step=lambda step, loss: seen.append((step, loss, torch.rand(())))).losses
    assert losses == plain
    assert [(step, loss) for step, loss, _ in seen] == list(enumerate(plain, 1))


def test_modes_are_put_back_module_by_module(fake):
    model = fake()
    model.module.train()
    model.module[1].eval()
    modes: list[bool] = []
    run(model, steps=1)
    assert model.module.training
    assert not model.module[1].training
    model.module.eval()
    run(model, steps=1, on_step=lambda step, loss: modes.append(model.module[1].training))
    assert modes == [True]
    assert not any(module.training for module in model.module.modules())


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
    assert names(tmp_path / "run") == ["checkpoint-20", "tuning.json"]
    assert names(tmp_path / "run" / "checkpoint-20") == ["state.json", "state.safetensors"]
    assert fresh.seen == whole.seen[stop_at * options.get("gradient_accumulation_steps", 1) :]


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


def test_checkpoints_come_regularly_and_only_the_last_stays(fake, tmp_path):
    kept = []
    run(fake(), out=tmp_path, save_every=6, on_step=lambda step, loss: kept.append(names(tmp_path)[:-1]))
    assert kept[4:6] == [[], ["checkpoint-6"]]
    assert kept[12] == ["checkpoint-12"]
    assert names(tmp_path) == ["checkpoint-20", "tuning.json"]


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
    with pytest.raises(TuningError, match=r"steps was 20 and is 30; lr was 0\.01 and is 0\.02; seed was 0 and is 1"):
        run(fake(), out=tmp_path, resume=True, steps=30, lr=2e-2, seed=1, warmup=1)
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


@pytest.mark.parametrize("damage", ["cut", "json", "missing", "format"])
def test_a_damaged_checkpoint_is_one_error(fake, tmp_path, damage):
    run(fake(), out=tmp_path)
    tensors, facts = (tmp_path / "checkpoint-20" / f"state.{kind}" for kind in ("safetensors", "json"))
    if damage == "cut":
        tensors.write_bytes(tensors.read_bytes()[:-9])
    elif damage == "missing":
        tensors.unlink()
    else:
        facts.write_text("{" if damage == "json" else facts.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(CheckpointError, match="checkpoint-20"):
        run(fake(), out=tmp_path, resume=True)


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


def test_accumulated_batches_are_one_larger_batch(fake):
    """Without noise, 2 batches of 8 have the mean gradient of one of 16."""
    large, small = fake(noise=0.0), fake(noise=0.0)
    rows = [batch["x"] for batch, _ in zip(fake(noise=0.0).batches(batch_size=16), range(10), strict=False)]

    def halves(data=None, *, batch_size, split, seed):
        for row in rows:
            for part in row.split(batch_size):
                yield {"x": part, "y": torch.tanh(part @ large.target)}

    large.batches = small.batches = halves
    a, b = run(large, steps=10, batch_size=16), run(small, steps=10, batch_size=8, gradient_accumulation_steps=2)
    torch.testing.assert_close(a.losses, b.losses, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(large.values(), small.values(), rtol=1e-4, atol=1e-6)
    assert b.batch_size == 16


def test_the_step_is_adamws_with_warm_up_cosine_and_clipping(fake):
    """The same run written out with torch's own pieces."""
    model, plain = fake(noise=0.0), fake(noise=0.0)
    options = {"steps": 12, "warmup": 4, "grad_clip": 0.05, "weight_decay": 0.1, "betas": (0.8, 0.95)}
    run(model, **options)
    plain.module.train()
    parameters = [p for _, p in plain.trainable_parameters()]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1]},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0},
        ],
        lr=1e-2,
        betas=(0.8, 0.95),
        weight_decay=0.1,
    )
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.25, 1.0, total_iters=3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, cosine], milestones=[4])
    for batch, _ in zip(plain.batches(batch_size=8), range(12), strict=False):
        optimizer.zero_grad()
        plain.loss(batch).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 0.05)
        optimizer.step()
        schedule.step()
    torch.testing.assert_close(model.values(), plain.values(), rtol=1e-5, atol=1e-7)


def test_the_running_average_takes_the_place_of_what_was_trained(fake):
    model, plain = fake(), fake()
    means = {}

    def after(step, _):
        decay = min(0.9, (1 + step) / (10 + step))
        for name, parameter in plain.trainable_parameters():
            now = parameter.detach().clone()
            means[name] = now if step == 1 else means[name] * decay + now * (1 - decay)

    run(plain, steps=20, on_step=after)
    result = run(model, steps=20, ema_decay=0.9)
    assert result.losses == run(fake(), steps=20).losses  # it trains as without
    got = dict(model.trainable_parameters())
    for name, mean in means.items():
        torch.testing.assert_close(got[name].detach(), mean, rtol=1e-5, atol=1e-6)
    assert any(not torch.equal(got[name], parameter) for name, parameter in plain.trainable_parameters())


def test_the_callers_accelerator_goes_on_as_it_was(fake):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState

    assert not AcceleratorState._shared_state
    run(fake(), steps=2, precision="bf16")
    assert not AcceleratorState._shared_state
    assert not PartialState._shared_state
    try:
        own = Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=5)
        shown = repr(own.state)
        run(fake(), steps=2, precision="no")
        assert own.mixed_precision == "bf16"
        assert own.gradient_accumulation_steps == 5
        assert repr(own.state) == shown
    finally:
        for state in (AcceleratorState, PartialState, GradientState):
            state._shared_state.clear()


def test_the_environment_does_not_divide_the_loss(fake, monkeypatch):
    plain = run(model := fake()).losses
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    assert run(other := fake()).losses == plain
    assert same(model.values(), other.values())


def test_bf16_runs_the_loss_under_autocast(fake):
    model, seen = fake(noise=0.0), []
    model.module.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    result = run(model, steps=40, precision="bf16")
    assert set(seen) == {torch.bfloat16}
    assert result.loss < result.losses[0]


def test_lines_are_shown_where_there_is_no_terminal(fake, capfd):
    run(fake(), quiet=False, log_every=5)
    shown = capfd.readouterr()
    lines = shown.err.splitlines()
    assert len(lines) == 4
    assert all("loss" in line and "steps/s" in line for line in lines)
    assert lines[1].startswith("tuning 10/20")
    assert not shown.out
    run(fake(), quiet=True)
    assert capfd.readouterr() == ("", "")


def test_a_bar_is_shown_on_a_terminal(fake, capfd, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    run(fake(), quiet=False, on_step=lambda step, loss: print("data") if step == 3 else None)
    shown = capfd.readouterr()
    assert "20/20" in shown.err
    assert "steps/s" in shown.err
    assert shown.out == "data\n"


def test_a_result_shows_itself(fake, tmp_path):
    result = run(fake(), out=tmp_path, steps=40)
    assert "40 steps of 8 in" in result.summary()
    assert "50 parameters trained" in result.summary()
    assert len(result.curve(10)) == 10
    assert len(result.curve()) == 40
    console = Console(width=200, file=open(os.devnull, "w"), record=True)  # noqa: PTH123, SIM115
    console.print(result)
    console.file.close()
    assert "checkpoint-40" in console.export_text()


def test_the_loop_imports_no_model_library(fake):
    assert not {"transformers", "diffusers", "timm"} & {name for name in sys.modules if name.startswith("zoo.")}
