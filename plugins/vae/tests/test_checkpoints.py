"""Reading and writing diffusers' layouts, old and new."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import AutoencoderKL

import zoo

OLD = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}


def _same(model: zoo.Model, vae: AutoencoderKL) -> None:
    images = torch.rand(2, vae.config.in_channels, 16, 16) * 2 - 1
    with torch.no_grad():
        wanted, got = (module.encode(images).latent_dist.parameters for module in (vae, model.module))
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
        latents = vae.encode(images).latent_dist.mode()
        wanted, got = (module.decode(latents).sample for module in (vae, model.module))
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_a_folder_of_diffusers_loads_as_it_is(make):
    vae, folder = make()
    model = zoo.load(str(folder), device="cpu")
    assert type(model.module) is AutoencoderKL
    assert model.entry.plugin == "vae"
    _same(model, vae)


@pytest.mark.parametrize("convolutions", [False, True])
def test_attention_of_the_time_of_stable_diffusion_1_5_is_renamed(make, convolutions):
    vae, folder = make()
    state = {}
    for name, tensor in vae.state_dict().items():
        for new, before in OLD.items():
            if new in name:
                name = name.replace(new, before)
                tensor = tensor[:, :, None, None] if convolutions and tensor.ndim == 2 else tensor
        state[name] = tensor
    assert sum(".proj_attn." in name for name in state) == 2 * 2  # one attention each: weight and bias
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(state, folder / "diffusion_pytorch_model.bin")
    _same(zoo.load(str(folder), device="cpu"), vae)
    if not convolutions:
        _same(zoo.load(str(folder), device="cpu"), AutoencoderKL.from_pretrained(folder, use_safetensors=False).eval())


def test_a_pipelines_folder_gives_its_autoencoder(make, tmp_path):
    vae, folder = make()
    pipeline = tmp_path / "pipeline"
    pipeline.mkdir()
    folder.rename(pipeline / "vae")
    (pipeline / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    model = zoo.load("vae", weights=str(pipeline), device="cpu")
    _same(model, vae)
    with pytest.raises(zoo.ZooError, match="1e-06"):
        model.sample(1, seed=0)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"down_block_types": ["NoSuchBlock", "DownEncoderBlock2D"]}, "does not make an AutoencoderKL"),
        ({"norm_num_groups": 3}, "does not make an AutoencoderKL"),
        ({"_kl_weight": "much"}, "as a number from 0, got 'much'"),
        ({"_kl_weight": -1}, "as a number from 0, got -1"),
    ],
)
def test_a_wrong_configuration_is_refused(make, change, found):
    _, folder = make()
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(zoo.CheckpointError, match=found):
        zoo.load(str(folder), device="cpu").evaluate(torch.rand(2, 3, 16, 16))


@pytest.mark.parametrize("bits", [None, 4])
def test_what_is_saved_loads_in_diffusers_and_here(make, tmp_path, bits):
    vae, folder = make(kl_weight=0.5)
    model = zoo.load(str(folder), device="cpu", bits=bits)
    model.save(tmp_path / "saved")
    again = AutoencoderKL.from_pretrained(tmp_path / "saved").eval()
    _same(model, again)
    if bits is None:
        _same(model, vae)
    loaded = zoo.load(str(tmp_path / "saved"), device="cpu")
    _same(loaded, again)
    images = torch.rand(3, 3, 16, 16)
    assert loaded.evaluate(images) == pytest.approx(model.evaluate(images), rel=1e-5)  # the KL weight survives


@pytest.mark.parametrize(("name", "parameters"), [("vae", 1_280_889), ("sd-vae", 83_653_863)])
def test_registered_configurations_in_four_bit(name, parameters):
    model = zoo.load(name, device="meta", bits=4, lora=zoo.LoRA(rank=8, targets="all"))
    footprint = model.footprint()
    assert footprint.parameters == parameters
    assert footprint.quantized_share > 0.985
    matrices = sum(shape.numel() for _, shape, *_ in model.weights() if len(shape) > 1)
    assert footprint.adapted_share * parameters / matrices > 0.99
    assert footprint.bytes < (0.29 if name == "sd-vae" else 0.31) * footprint.bytes_16bit


def test_only_the_outermost_convolutions_stay_in_full_precision_where_all_is_in_4_bit():
    kept = {"encoder.conv_in.weight", "quant_conv.weight", "post_quant_conv.weight", "decoder.conv_out.weight"}
    for bits, wanted in ((zoo.Quantization(4, mixed=False), kept), (4, set()), (8, set())):
        model = zoo.load("vae", device="meta", bits=bits)
        assert {name for name, shape, _, found, _ in model.weights() if found >= 16 and len(shape) > 1} == wanted


def test_by_default_every_weight_of_stable_diffusions_has_an_adapter():
    model = zoo.load("sd-vae", device="meta", lora=4)
    adapted = {name for name, *_, adapters in model.weights() if adapters}
    assert adapted == {name for name, shape, *_ in model.weights() if len(shape) > 1}
    assert {name.partition(".")[0] for name in adapted} >= {"encoder", "decoder"}


def test_facts_say_whether_there_is_a_prior():
    from zoo.plugin import hooks

    small, large = (hooks.describe(zoo.load(name, device="meta").entry) for name in ("vae", "sd-vae"))
    assert small["latent"] == "8 × 2 × 2"
    assert small["prior"] == "N(0, I)"
    assert large["latent"] == "4 × 32 × 32"
    assert large["prior"].startswith("none")
    assert large["KL weight"] == "1e-06"
