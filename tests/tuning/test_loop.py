"""What a run computes, what it leaves as it was, and what it shows."""

from __future__ import annotations

import os
import random
import sys

import numpy as np
import torch
from rich.console import Console

from .helpers import run, same


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

    for state in (AcceleratorState, PartialState, GradientState):  # what earlier tests of the process have left
        state._shared_state.clear()
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
