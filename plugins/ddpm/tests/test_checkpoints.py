"""Reading and writing diffusers' layouts, old and new."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

import zoo


def _same(model: zoo.Model, unet: UNet2DModel) -> None:
    channels, size = unet.config.in_channels, unet.config.sample_size
    images, times = torch.randn(2, channels, size, size), torch.tensor([3, 70])
    options = {"class_labels": torch.tensor([0, 1])} if unet.config.num_class_embeds else {}
    with torch.no_grad():
        wanted, got = (module(images, times, **options).sample for module in (unet, model.module))
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("classes", [None, 5])
def test_a_folder_of_diffusers_loads_as_it_is(make, classes):
    unet, folder = make(num_class_embeds=classes)
    model = zoo.load(str(folder), device="cpu")
    assert type(model.module) is UNet2DModel
    assert model.entry.plugin == "ddpm"
    _same(model, unet)


def test_names_of_old_files_are_translated(make):
    unet, folder = make()
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    state = {}
    for name, tensor in unet.state_dict().items():
        for new, before in old.items():
            name = name.replace(new, before)
        state[name] = tensor
    assert sum(".proj_attn." in name for name in state) == 2 * 4  # four attentions: weight and bias
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(state, folder / "diffusion_pytorch_model.bin")
    _same(zoo.load(str(folder), device="cpu"), unet)


def test_a_pipeline_loads_from_its_subfolders(make, tmp_path):
    unet, _ = make()
    scheduler = DDPMScheduler(num_train_timesteps=100, variance_type="fixed_large")
    DDPMPipeline(unet, scheduler).save_pretrained(tmp_path / "pipeline")
    model = zoo.load(str(tmp_path / "pipeline"), device="cpu")
    _same(model, unet)
    assert model.sample(1, seed=0, sampler="ddpm", steps=100).data.shape == (1, 3, 8, 8)
    with pytest.raises(zoo.ZooError, match="from 1 to 100"):
        model.sample(1, sampler="ddpm", steps=101)


def test_a_latent_pipeline_is_not_taken_for_one_of_pixels(make, tmp_path):
    index = {
        "_class_name": "LDMPipeline",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
        "vqvae": ["diffusers", "VQModel"],
    }
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(zoo.ZooError, match=r"is a pipeline, LDMPipeline.*/unet or .*/vqvae$"):
        zoo.load(str(tmp_path), device="cpu")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"down_block_types": ["NoSuchBlock", "AttnDownBlock2D"]}, "does not make a UNet2DModel"),
        ({"block_out_channels": [8]}, "does not make a UNet2DModel"),
    ],
)
def test_a_wrong_configuration_is_refused(make, change, found):
    _, folder = make()
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(zoo.CheckpointError, match=found):
        zoo.load(str(folder), device="cpu")


@pytest.mark.parametrize("bits", [None, 4])
def test_what_is_saved_loads_in_diffusers_and_here(make, tmp_path, bits):
    unet, folder = make(scheduler={"variance_type": "fixed_large", "beta_schedule": "squaredcos_cap_v2"})
    model = zoo.load(str(folder), device="cpu", bits=bits)
    model.save(tmp_path / "saved")
    again = UNet2DModel.from_pretrained(tmp_path / "saved")
    _same(model, again.eval())
    if bits is None:
        _same(model, unet)
    scheduler = DDPMScheduler.from_pretrained(tmp_path / "saved")
    assert scheduler.config.variance_type == "fixed_large"
    assert scheduler.config.num_train_timesteps == 100
    _same(zoo.load(str(tmp_path / "saved"), device="cpu"), again)


def test_the_embedded_models_class_names_survive_saving(tmp_path):
    model = zoo.load("ddpm", device="cpu")
    model.save(tmp_path / "saved")
    again = zoo.load(str(tmp_path / "saved"), device="cpu")
    assert again.sample(3, seed=0, steps=2, labels="ZOO").captions == ["Z", "O", "O"]
    assert UNet2DModel.from_pretrained(tmp_path / "saved").config.num_class_embeds == 26


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("ddpm", 1_808_449), ("ddpm-cifar10", 35_746_307)],
)
def test_registered_configurations_have_their_published_size(name, parameters):
    model = zoo.load(name, device="meta", bits=4)
    footprint = model.footprint()
    assert footprint.parameters == parameters
    assert footprint.quantized_share > 0.985
    assert footprint.bytes < (0.31 if name == "ddpm" else 0.28) * footprint.bytes_16bit


def test_only_the_outermost_convolutions_stay_in_full_precision_where_all_is_in_4_bit():
    model = zoo.load("ddpm", device="meta", bits=zoo.Quantization(4, mixed=False))
    kept = {name for name, shape, _, bits, _ in model.weights() if bits >= 16 and len(shape) > 1}
    assert kept == {"conv_in.weight", "conv_out.weight"}
    for bits in (4, 8):  # in 4 bit they are among the smallest weights, which are in 8 bit
        other = zoo.load("ddpm", device="meta", bits=bits)
        assert all(stored < 16 for _, shape, _, stored, _ in other.weights() if len(shape) > 1)


def test_by_default_every_weight_has_an_adapter():
    model = zoo.load("ddpm-cifar10", device="meta", lora=4)
    assert all(adapters for _, shape, *_, adapters in model.weights() if len(shape) > 1)
    assert model.footprint().adapted_share > 0.99
