"""Networks in the layouts of NVlabs's and rosinality's repositories, and what must not be run or read."""

from __future__ import annotations

import argparse
import os
import pickle

import pytest
import torch

import zoo


def images(model, n=3, **options):
    with torch.no_grad():
        z = torch.randn(n, model.module.config["z_dim"], generator=torch.Generator().manual_seed(1))
        return model.module(z, **options)


def test_one_network_in_both_layouts_gives_one_image(layouts, network, tmp_path):
    module = network()
    layouts.write_nvlabs(module, tmp_path / "nvlabs" / "network.pkl")
    layouts.write_rosinality(module, tmp_path / "rosinality" / "network.pt")
    first, second = (
        zoo.load("stylegan2-ffhq-1024", weights=str(tmp_path / name), device="cpu") for name in ("nvlabs", "rosinality")
    )
    for options in ({}, {"psi": 0.5}, {"noise": "none"}):
        wanted = images(argparse.Namespace(module=module), **options)
        assert (images(first, **options) - wanted).abs().max() <= 1e-6
        assert (images(first, **options) - images(second, **options)).abs().max() <= 1e-4
    shown = torch.rand(4, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        wanted = module.discriminator(shown)
        for model in (first, second):
            torch.testing.assert_close(model.module.discriminator(shown), wanted)
    assert first.module.config["channels"] == module.config["channels"]


def test_images_are_those_of_the_papers_formulas(layouts, network):
    module = network(1).double()
    w = module.generator.mapping(torch.randn(3, 12, dtype=torch.float64))
    for noise in ("const", "none"):
        got = module.generator.synthesis(module.generator.styles(w), noise)
        torch.testing.assert_close(got, layouts.plain_generator(module, w, noise == "const"), rtol=1e-9, atol=1e-9)


def test_a_conditional_network_and_its_options_come_from_the_pickle(layouts, network, tmp_path):
    own = {"channels": {"4": 8, "8": 7, "16": 6}, "mapping_layers": 1, "architecture": "orig", "group": 2}
    module = network(c_dim=5, conv_clamp=256, discriminator=own)
    layouts.write_nvlabs(module, tmp_path / "network.pkl")
    model = zoo.load("stylegan2-ffhq-1024", weights=str(tmp_path), device="cpu", bits=4, lora=2)
    assert model.module.config == module.config
    assert model.footprint().quantized_share > 0.9
    assert model.sample(2, seed=0, labels=[4, 1], psi=0.7).captions == ["4", "1"]


def test_a_training_runs_options_and_a_missing_average_are_fine(layouts, network, tmp_path):
    path = layouts.write_rosinality(network(), tmp_path / "run" / "100000.pt", average=False)
    content = torch.load(path, weights_only=True)
    torch.save({**content, "args": argparse.Namespace(batch=16)}, path)
    model = zoo.load("stylegan2-ffhq-1024", weights=str(path.parent), device="cpu")
    w = model.module.generator.mapping(torch.randn(2000, 12)).mean(0)
    assert (model.module.generator.mapping.w_avg - w).abs().max() < 0.1


class Payload:
    def __reduce__(self):
        return os.system, ("echo ran",)


class Spying:
    def __reduce__(self):
        return eval, ("__import__('zoo_stylegan_tests_spy').RAN.append('a payload')",)


@pytest.mark.parametrize("payload", [Payload(), Spying()])
def test_a_payload_is_refused_and_not_run(layouts, network, tmp_path, payload, spy):
    layouts.write_nvlabs(network(), tmp_path / "network.pkl", {"augment_pipe": payload})
    with pytest.raises(zoo.CheckpointError, match=r"asks to run .*executes nothing"):
        zoo.load("stylegan2-ffhq-1024", weights=str(tmp_path), device="cpu")
    assert spy == []


def test_a_payload_inside_an_objects_state_is_refused(layouts, network, tmp_path):
    held = layouts.persistent(network().generator, "Generator")
    held.state["_buffers"]["more"] = Spying()
    (tmp_path / "network.pkl").write_bytes(pickle.dumps({"G_ema": held}))
    with pytest.raises(zoo.CheckpointError, match="executes nothing"):
        zoo.load("stylegan2-ffhq-1024", weights=str(tmp_path), device="cpu")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"no pickle", "damaged"),
        (pickle.dumps({"a": 1}), "expected networks G, D and G_ema"),
        (b"cdnnlib.tflib.network\nNetwork\n.", "TensorFlow"),
    ],
)
def test_other_files_are_refused_with_a_reason(tmp_path, content, found):
    (tmp_path / "network.pkl").write_bytes(content)
    with pytest.raises(zoo.CheckpointError, match=found):
        zoo.load("stylegan2-ffhq-1024", weights=str(tmp_path), device="cpu")


def test_another_network_is_refused(layouts, tmp_path):
    content = {"G_ema": layouts.Persistent("Generator", {"_modules": {}})}
    (tmp_path / "network.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(zoo.CheckpointError, match="no StyleGAN2"):
        zoo.load("stylegan2-ffhq-1024", weights=str(tmp_path), device="cpu")


def test_another_filter_is_refused(layouts, network, tmp_path):
    module = network()
    module.generator.synthesis.b8.conv0.resample_filter[0, 0, 0, 0] = 1
    layouts.write_nvlabs(module, tmp_path / "network.pkl")
    with pytest.raises(zoo.CheckpointError, match="another filter"):
        zoo.load("stylegan2-ffhq-1024", weights=str(tmp_path), device="cpu")


def test_two_files_in_a_folder_are_refused(layouts, network, tmp_path):
    layouts.write_nvlabs(network(), tmp_path / "a.pkl")
    layouts.write_rosinality(network(), tmp_path / "b.pt")
    with pytest.raises(zoo.CheckpointError, match=r"got a.pkl, b.pt"):
        zoo.load("stylegan2-ffhq-1024", weights=str(tmp_path), device="cpu")


def test_a_name_without_files_says_what_to_get():
    with pytest.raises(zoo.CheckpointError, match=r"\.pkl .*give weights="):
        zoo.load("stylegan2-ffhq-1024", device="cpu")


def test_what_is_saved_loads_back(layouts, network, tmp_path):
    layouts.write_nvlabs(network(), tmp_path / "pickled" / "network.pkl")
    model = zoo.load("stylegan2-ffhq-1024", weights=str(tmp_path / "pickled"), device="cpu")
    model.save(tmp_path / "own")
    again = zoo.load(str(tmp_path / "own"), device="cpu")
    assert torch.equal(model.sample(2, seed=0).data, again.sample(2, seed=0).data)
    assert again.module.discriminator is not None


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"img_resolution": 48}, "img_resolution as one of"),
        ({"z_dims": 3}, "unknown key 'z_dims'"),
        ({"w_dim": 0}, "w_dim as a whole number from 1"),
        ({"img_resolution": 8, "channels": {"4": 2}}, "a number for each of 4, 8"),
        ({"discriminator": {"architecture": "skip"}}, "resnet or orig"),
    ],
)
def test_impossible_configurations_are_refused(config, found, tmp_path):
    import json

    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "StyleGAN2", **config}))
    with pytest.raises(zoo.CheckpointError, match=found):
        zoo.load(str(tmp_path), device="meta")


def test_the_real_configuration_is_small_in_four_bits():
    model = zoo.load("stylegan2-ffhq-1024", device="meta", bits=4, lora=zoo.LoRA(rank=8, targets="all"))
    footprint = model.footprint()
    assert footprint.parameters == 30_370_060
    assert footprint.quantized_share > 0.985
    assert footprint.bytes <= 0.27 * footprint.bytes_16bit
    matrices = [info for info in model.weights() if len(info.shape) > 1]
    assert sum(i.shape.numel() for i in matrices if i.adapters) >= 0.99 * sum(i.shape.numel() for i in matrices)
    default = zoo.load("stylegan2-ffhq-1024", device="meta", lora=8)
    assert all(info.adapters for info in default.weights() if len(info.shape) > 1)
