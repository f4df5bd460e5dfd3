"""The plugin's promises, and what is special about DCGAN: transposed convolutions, two players, running means."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import zoo
from zoo.data.letters import render
from zoo.storage import atomic
from zoo.testing import conformance
from zoo_dcgan.model import DCGAN

test_promise = conformance("dcgan", data=render("sans", 64, seed=0)[0])  # few, and so quickly drawn


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def tuned():
    """4 bit, LoRA on everything, some steps on faces that it has not seen."""
    model = zoo.load("dcgan", bits=4, lora=zoo.LoRA(rank=4, targets="all"), device="cpu", seed=0)
    losses = model.tune("letters:serif", steps=12, batch_size=16, lr=1e-3, quiet=True).losses
    return model, losses


def test_at_real_size_everything_is_quantized_and_adapted():
    model = zoo.load("dcgan-64", bits=4, lora=zoo.LoRA(rank=8, targets="all"), device="meta")
    footprint = model.footprint()
    wide = [info for info in model.weights() if len(info.shape) >= 2]
    adapted = sum(math.prod(info.shape) for info in wide if info.adapters)
    assert footprint.parameters == 3_576_704 + 2_765_568  # the paper's networks at 64 pixels
    assert footprint.quantized_share > 0.985
    assert footprint.bytes < 0.27 * footprint.bytes_16bit
    assert adapted >= 0.99 * sum(math.prod(info.shape) for info in wide)


def test_every_factor_of_both_players_learns_in_four_bit(tuned):
    model, losses = tuned
    assert sum(losses[-4:]) < sum(losses[:4])
    factors = dict(model.trainable_parameters())
    assert len(factors) == 2 * 8  # four convolutions each
    assert all(float(factor.detach().abs().max()) > 0 for factor in factors.values())


def test_an_adapter_is_all_that_tuning_changes(tuned, tmp_path):
    model, _ = tuned
    z = torch.randn(5, 64)
    with torch.no_grad():
        expected = model(z)
        judged = model.module.discriminator(expected)
        model.save_adapter(tmp_path / "adapter")
        again = zoo.load("dcgan", bits=4, lora=str(tmp_path / "adapter"), device="cpu")
        assert torch.equal(again(z), expected)  # running means too are as they were
        assert torch.equal(again.module.discriminator(expected), judged)
        assert torch.equal(copy.deepcopy(model.module)(z), expected)
        model.save(tmp_path / "whole")
        whole = zoo.load(str(tmp_path / "whole"), device="cpu")
        torch.testing.assert_close(whole(z), expected, atol=1e-5, rtol=1e-5)
        model.merge()
        torch.testing.assert_close(model(z), expected, atol=1e-5, rtol=1e-5)
        model.unmerge()
        assert torch.equal(model(z), expected)


def test_a_factored_transposed_convolution_is_that_of_the_sum():
    model = zoo.load("dcgan", lora=zoo.LoRA(rank=3, targets="all"), device="cpu", dtype="float64")
    for _, factor in model.trainable_parameters():
        factor.data.normal_(std=0.1)
    plain = DCGAN.from_config(model.entry.config).double()
    plain.load_state_dict(model.state_dict())  # dense: base + B·A under the module's own names
    z = torch.randn(3, 64, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model(z), plain(z), atol=1e-5, rtol=1e-5)  # factors are float32


def test_one_scalar_trains_both_players_and_neither_through_the_other():
    model = zoo.load("dcgan", device="cpu", dtype="float64")
    batch = {"images": torch.rand(6, 1, 32, 32) * 2 - 1, "z": torch.randn(6, 64)}
    loss = model.loss(batch)
    loss.backward()
    module, z, real = model.module, batch["z"].double(), batch["images"].double()
    players = list(module.generator.parameters()), list(module.discriminator.parameters())
    fake = module(z)
    loss_g = F.softplus(-module.discriminator(fake)).mean()
    seen = module.discriminator(fake.detach())
    loss_d = F.softplus(seen).mean() + F.softplus(-module.discriminator(real)).mean()
    torch.testing.assert_close(loss.double(), loss_d, atol=1e-5, rtol=1e-5)  # logits are rounded
    for player, own in zip(players, (loss_g, loss_d), strict=True):
        expected = torch.autograd.grad(own, player, retain_graph=True)
        for parameter, gradient in zip(player, expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-5)


def test_running_means_stay_and_every_batch_counts_alike():
    model = zoo.load("dcgan", device="cpu").train()
    before = {name: buffer.clone() for name, buffer in model.module.named_buffers()}
    assert len(before) == 3 * sum(isinstance(layer, nn.BatchNorm2d) for layer in model.module.modules())
    model.loss(next(iter(model.batches(torch.rand(8, 1, 32, 32), batch_size=4)))).backward()
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.module.named_buffers())


def test_generated_letters_look_like_held_out_ones():
    figures = zoo.load("dcgan", bits=4, device="cpu").evaluate()
    assert figures["frechet_pixels"] < 0.5  # serif letters are at 1.05, uniform noise far beyond
    few = zoo.load("dcgan", device="cpu").sample(3, seed=0, spread=0.5)
    assert few.data.shape == (3, 1, 32, 32)


@pytest.mark.parametrize(
    ("change", "told"),
    [({"size": 48}, "power of two"), ({"features": "many"}, "features as a whole number"), ({"latent": 0}, "latent")],
)
def test_a_configuration_that_cannot_be_is_refused(change, told):
    config = {"size": 32, "channels": 1, "latent": 8, "features": 4}
    with pytest.raises(zoo.CheckpointError, match=told):
        DCGAN.from_config({**config, **change})


def test_a_colour_network_of_another_size_loads_from_its_folder(tmp_path):
    module = DCGAN(16, 3, 10, 6).eval()
    config = {"_class_name": "DCGAN", "size": 16, "channels": 3, "latent": 10, "features": 6}
    atomic.write_json(tmp_path / "config.json", config)
    atomic.save_tensors(tmp_path / "model.safetensors", module.state_dict())
    model = zoo.load(str(tmp_path), bits=4, lora=2, device="cpu")
    assert model.entry.plugin == "dcgan"
    assert model.sample(2, seed=0).data.shape == (2, 3, 16, 16)
    z = torch.randn(2, 10)
    with torch.no_grad():
        assert torch.equal(zoo.load(str(tmp_path), device="cpu")(z), module(z))


def test_from_random_weights_the_batchs_own_statistics_count_and_the_running_ones_follow(tmp_path):
    model = zoo.load("dcgan", weights="random", seed=0, device="cpu")
    convolution = model.state_dict()["generator.3.weight"]
    assert convolution.std().item() == pytest.approx(0.02, rel=0.05)  # the paper's start
    before = model.state_dict()["generator.1.running_var"].clone()
    result = model.tune(steps=3, batch_size=8, quiet=True)
    assert result.lr == 1e-3
    assert not torch.equal(before, model.state_dict()["generator.1.running_var"])
    model.save(tmp_path / "new", digests=True)
    again = zoo.load(f"{tmp_path}/new", device="cpu")
    assert again.entry.plugin == "dcgan"
    assert torch.equal(again.sample(2, seed=0).data, model.sample(2, seed=0).data)
