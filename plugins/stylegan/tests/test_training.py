"""The objective of both players, batches, metrics and tuning."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

import zoo
from zoo.metrics import frechet_distance
from zoo_stylegan import add_discriminator
from zoo_stylegan.objective import r1


@pytest.fixture
def load(network, tmp_path):
    """A small random network through zoo; its configuration as given."""

    def loaded(lora=None, bits=None, **config):
        module = network(c_dim=3, **config)
        (tmp_path / "config.json").write_text(json.dumps({"_class_name": "StyleGAN2", **module.config}))
        save_file(module.state_dict(), tmp_path / "model.safetensors")
        return zoo.load(str(tmp_path), lora=lora, bits=bits, device="cpu", seed=0)

    return loaded


@pytest.fixture(scope="module")
def letters():
    return zoo.load("stylegan", device="cpu")


def data(count=24):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, 16, 16, generator=generator), torch.arange(count) % 3


def batch_of(model, index=0, **more):
    batch = next(iter(model.batches(data(), batch_size=8, seed=1)))
    return {**batch, "index": index, **more}


def test_a_batch_holds_all_that_its_loss_needs(letters):
    batches = letters.batches("letters:serif", batch_size=4, seed=1)
    first, second = next(batches), next(batches)
    assert {name: tuple(value.shape) for name, value in first.items() if torch.is_tensor(value)} == {
        "images": (4, 1, 32, 32),
        "labels": (4,),
        "z": (4, 64),
        "other": (4, 64),
    }
    assert (first["index"], second["index"]) == (0, 1)
    assert 1 <= first["crossover"] <= 8
    again = next(letters.batches("letters:serif", batch_size=4, seed=1))
    assert all(torch.equal(first[name], again[name]) for name in ("images", "z", "other"))
    torch.manual_seed(3)
    loss = letters.loss(first)
    torch.manual_seed(4)
    assert loss == letters.loss(first)


def test_the_loss_is_both_players_logistic_loss_and_its_gradient_each_ones_own(load):
    model = load()
    batch = batch_of(model, crossover=6)
    module = model.module
    loss = model.loss(batch)
    loss.backward()
    got = {name: parameter.grad.clone() for name, parameter in module.named_parameters()}

    module.zero_grad()
    noise = torch.Generator().manual_seed(batch["seed"])
    fake = module.generator(batch["z"], batch["labels"], noise="random", generator=noise)
    says = module.discriminator(fake, batch["labels"])
    of_generator = F.softplus(-says).mean()
    of_generator.backward()
    wanted = {name: p.grad.clone() for name, p in module.generator.named_parameters(prefix="generator")}
    module.zero_grad()
    of_discriminator = (
        F.softplus(module.discriminator(fake.detach(), batch["labels"])).mean()
        + F.softplus(-module.discriminator(batch["images"], batch["labels"])).mean()
    )
    of_discriminator.backward()
    wanted |= {name: p.grad.clone() for name, p in module.discriminator.named_parameters(prefix="discriminator")}
    assert loss.item() == pytest.approx((of_generator + of_discriminator).item(), rel=1e-6)
    assert set(got) == set(wanted)
    for name in got:
        torch.testing.assert_close(got[name], wanted[name], rtol=1e-3, atol=1e-6 + 1e-4 * wanted[name].abs().max())


def test_penalties_fall_due_and_change_the_gradient_but_not_the_value(load):
    model = load(training={"r1_gamma": 3.0, "path_weight": 0.0})
    weight = model.module.discriminator.b16.conv0.weight

    def gradient(index):
        model.module.zero_grad()
        loss = model.loss(batch_of(model, index))
        loss.backward()
        return loss.detach(), weight.grad.clone()

    plain, due = gradient(14), gradient(15)
    assert plain[0].item() == pytest.approx(due[0].item(), rel=1e-6)
    images = batch_of(model)["images"].requires_grad_()
    penalty = r1(model.module.discriminator(images, batch_of(model)["labels"]), images)
    (wanted,) = torch.autograd.grad(3.0 / 2 * 16 * penalty, weight)
    torch.testing.assert_close(due[1] - plain[1], wanted, rtol=1e-3, atol=1e-4 * wanted.abs().max().item())


def test_path_lengths_have_a_running_mean_that_starts_at_the_first(load):
    model = load()
    assert model.module.path_length == 0
    model.loss(batch_of(model, 2))
    assert model.module.path_length == 0
    model.loss(batch_of(model, 3)).backward()
    first = model.module.path_length.clone()
    assert first > 0
    model.loss(batch_of(model, 7, seed=99))
    assert 0 < (model.module.path_length / first - 1).abs() < 0.02


@pytest.mark.parametrize("bits", [None, 32, 16, 8, 4])
@pytest.mark.parametrize("lora", [None, 4])
def test_five_steps_lower_the_loss_of_a_batch(load, bits, lora):
    model = load(lora=lora, bits=bits)
    if lora is None and bits not in (None, 32):  # 32 changes nothing about a checkpoint's plain weights, so they train
        model.loss(batch_of(model)).backward()
        with pytest.raises(zoo.TuningError, match="nothing can train"):
            model.tune(data(), steps=1)
        return
    before = model.loss(batch_of(model)).item()
    model.tune(data(), steps=5, batch_size=8, lr=1e-3, quiet=True)
    assert model.loss(batch_of(model)).item() < before


def test_a_resumed_run_equals_one_without_a_pause(load, tmp_path):
    """All of it: penalties that fall due, the path length's mean, the discriminator, the running average."""
    options = {"steps": 20, "batch_size": 4, "lr": 1e-3, "ema_decay": 0.9, "quiet": True}
    whole = load(lora=2, bits=8)
    expected = whole.tune(data(), **options)

    def stop(step, _):
        if step == 14:
            raise KeyboardInterrupt

    stopped = load(lora=2, bits=8)
    with pytest.raises(KeyboardInterrupt):
        stopped.tune(data(), out=tmp_path / "run", on_step=stop, **options)
    fresh = load(lora=2, bits=8)
    result = fresh.tune(data(), out=tmp_path / "run", resume=True, **options)
    assert result.losses == expected.losses
    assert torch.equal(fresh.sample(2, seed=0).data, whole.sample(2, seed=0).data)
    assert fresh.module.path_length == whole.module.path_length > 0


def test_a_generator_alone_samples_and_says_what_tuning_needs(load):
    model = load(lora=2, bits=4, discriminator=False)
    assert model.sample(2, seed=0).data.shape == (2, 3, 16, 16)
    with pytest.raises(zoo.ZooError, match="add_discriminator"):
        model.tune(data(), steps=1)
    assert list(model.evaluate(data())) == ["frechet_pixels"]
    add_discriminator(model)
    before = model.module.discriminator.b4.out.weight.detach().clone()
    model.tune(data(), steps=2, batch_size=4, quiet=True)
    assert not torch.equal(model.module.discriminator.b4.out.weight, before)
    assert "critic_gap" in model.evaluate(data())
    with pytest.raises(zoo.ZooError, match="already"):
        add_discriminator(model)


def test_images_alone_make_a_batch(load):
    model = load()
    images, labels = data(4)
    torch.manual_seed(0)
    first, second = (model.loss({"images": images, "labels": labels}) for _ in range(2))
    assert first != second


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (torch.rand(3, 1, 32, 32), "need labels"),
        ((torch.rand(3, 1, 32, 32), torch.tensor([26, 26, 26])), "labels from 26 to 26"),
        ("letters:gothic", "gothic"),
    ],
)
def test_data_that_do_not_fit_are_refused(letters, given, found):
    with pytest.raises(zoo.DataError, match=found):
        letters.batches(given, batch_size=2)


def test_the_frechet_distance_of_gaussians_is_the_closed_form():
    rows = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, deviation = rows.mean(0), rows.std(0)
    other = (rows - mean) * 2 + mean + torch.tensor([1.0, 0, 0])
    wanted = 1 + torch.cov(rows.t()).trace()  # |shift|² + tr(Σ + 4Σ - 4Σ)
    assert frechet_distance(rows, other) == pytest.approx(wanted.item(), rel=1e-6)
    assert frechet_distance(rows, rows) == pytest.approx(0, abs=1e-9)
    assert deviation.min() > 0.9


def test_metrics_are_the_same_at_every_call_and_leave_the_random_state(letters):
    from zoo.data.letters import render

    styles = ("sans", "serif")
    sans, serif = (zoo.Data(render(style, 104, seed=0, split="test"), split="all") for style in styles)
    before = torch.get_rng_state()
    first = letters.evaluate(sans)
    assert torch.equal(before, torch.get_rng_state())
    assert first == letters.evaluate(sans)
    assert first["frechet_pixels"] < letters.evaluate(serif)["frechet_pixels"]
