"""Repositories of both libraries, old and new: the same outputs as the library's own loading."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForImageClassification, ViTForImageClassification

import zoo
from zoo_vit.facts import is_timm, is_transformers


def _outputs(module: nn.Module, channels: int = 3, size: int = 32) -> torch.Tensor:
    images = torch.randn(3, channels, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output = module(images)
    return getattr(output, "logits", output)


def _same(model: zoo.Model, module: nn.Module, **shape: int) -> None:
    assert torch.equal(_outputs(model.module, **shape), _outputs(module.eval(), **shape))


def _rewrite(folder: Path, change) -> Path:
    file = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in change(load_file(file)).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


def _reconfigure(folder: Path, **change: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    return folder


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"class_token": False, "global_pool": "avg", "in_chans": 1},
        {"init_values": 0.1, "reg_tokens": 4, "no_embed_class": True, "qk_norm": True},
    ],
)
def test_a_folder_as_timm_reads_it(make, file, arguments):
    module, folder = make(file=file, **arguments)
    model = zoo.load(str(folder), device="cpu")
    assert model.entry.plugin == "vit"
    assert type(model.module) is type(module)
    channels = arguments.get("in_chans", 3)
    _same(model, module, channels=channels)
    _same(model, timm.create_model(f"local-dir:{folder}", pretrained=True), channels=channels)


def test_a_repository_as_timm_itself_writes_it(tmp_path):
    module = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=3).eval()
    timm.models.save_for_hf(module, tmp_path / "hub", safe_serialization=True, model_args={"img_size": 32, "depth": 1})
    _same(zoo.load(str(tmp_path / "hub"), device="cpu"), module)


def test_the_flat_configuration_of_earlier_years(make):
    module, folder = make("test_vit")
    old = {
        "architecture": "test_vit",
        "num_features": 64,
        "input_size": [3, 160, 160],
        "fixed_input_size": True,
        "num_classes": 1000,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }
    (folder / "config.json").write_text(json.dumps(old))
    model = zoo.load(str(folder), device="cpu")
    _same(model, module, size=160)
    _same(model, timm.create_model(f"local-dir:{folder}", pretrained=True), size=160)


def test_other_architectures_of_timm_load_too(make):
    module, folder = make("test_resnet", facts={"fixed_input_size": False, "first_conv": "conv1", "classifier": "fc"})
    _same(zoo.load(str(folder), device="cpu"), module, size=64)


def test_positions_are_resized_as_timm_does(make):
    _, folder = make()
    arguments = json.loads((folder / "config.json").read_text())["model_args"]
    _reconfigure(folder, model_args={**arguments, "img_size": 48})
    model = zoo.load(str(folder), device="cpu")
    assert model.module.pos_embed.shape == (1, 37, 32)
    _same(model, timm.create_model(f"local-dir:{folder}", pretrained=True), size=48)


def test_weights_of_another_project_go_through_timms_conversion(make):
    module, folder = make()
    _rewrite(folder, lambda tensors: {f"visual.trunk.{name}": tensor for name, tensor in tensors.items()})
    _same(zoo.load(str(folder), device="cpu"), module)


def test_a_head_for_other_classes_starts_at_zero(make):
    module, folder = make()
    arguments = json.loads((folder / "config.json").read_text())["model_args"]
    del arguments["num_classes"]
    _reconfigure(folder, num_classes=2, label_names=["cat", "dog"], model_args=arguments)
    model = zoo.load(str(folder), device="cpu")
    assert model.module.head.weight.shape == (2, 32)
    assert torch.equal(_outputs(model.module), torch.zeros(3, 2))
    assert torch.equal(model.module.blocks[1].mlp.fc1.weight, module.blocks[1].mlp.fc1.weight)
    # Where the stored head fits after all, it is the one that counts.
    _reconfigure(folder, num_classes=7)
    facts = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    _reconfigure(folder, pretrained_cfg={**facts, "num_classes": 1000})
    _same(zoo.load(str(folder), device="cpu"), module)


def test_old_names_of_transformers(make_transformers):
    """google/vit-base-patch16-224 holds `…layer.0.attention.attention.query.weight`; so does today's file."""
    module, folder = make_transformers()
    names = load_file(folder / "model.safetensors")
    assert "vit.encoder.layer.0.attention.attention.query.weight" in names
    _rewrite(folder, lambda tensors: tensors | {"vit.pooler.dense.weight": torch.ones(32, 32)})
    model = zoo.load(str(folder), device="cpu")
    assert type(model.module) is ViTForImageClassification
    _same(model, module)
    _same(model, AutoModelForImageClassification.from_pretrained(folder))
    _rewrite(folder, lambda _: module.state_dict())  # today's names in a file
    _same(zoo.load(str(folder), device="cpu"), module)


def test_a_configuration_without_architectures(make_transformers):
    module, folder = make_transformers()
    _reconfigure(folder, architectures=None)
    _same(zoo.load(str(folder), device="cpu"), module)


def test_other_classifiers_of_transformers(make_transformers):
    module, folder = make_transformers("deit", architectures=["DeiTForImageClassification"])
    _same(zoo.load(str(folder), device="cpu"), module)


@pytest.mark.parametrize("bits", [None, 4])
def test_what_is_saved_loads_in_timm_and_here(make, tmp_path, bits):
    module, folder = make(top={"label_names": ["ant", "bee", "cat", "dog", "eel", "fox", "gnu"]})
    model = zoo.load(str(folder), device="cpu", bits=bits)
    model.save(tmp_path / "saved")
    again = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True).eval()
    if bits is None:
        _same(model, module)
    torch.testing.assert_close(_outputs(again), _outputs(model.module), rtol=1e-4, atol=1e-5)
    reloaded = zoo.load(str(tmp_path / "saved"), device="cpu")
    assert torch.equal(_outputs(reloaded.module), _outputs(again))
    assert reloaded.sample(images=torch.rand(1, 3, 32, 32)).labels[2] == "cat"
    facts = json.loads((tmp_path / "saved" / "config.json").read_text())["pretrained_cfg"]
    assert (facts["crop_pct"], facts["mean"]) == (0.8, [0.4, 0.5, 0.6])


@pytest.mark.parametrize("bits", [None, 4])
def test_what_is_saved_loads_in_transformers_and_here(make_transformers, tmp_path, bits):
    module, folder = make_transformers(processor={"image_mean": [0.1, 0.2, 0.3]})
    model = zoo.load(str(folder), device="cpu", bits=bits)
    model.save(tmp_path / "saved")
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "saved").eval()
    if bits is None:
        _same(model, module)
    torch.testing.assert_close(_outputs(again), _outputs(model.module), rtol=1e-4, atol=1e-5)
    reloaded = zoo.load(str(tmp_path / "saved"), device="cpu")
    torch.testing.assert_close(_outputs(reloaded.module), _outputs(again))
    assert reloaded.sample(images=torch.rand(1, 3, 32, 32)).labels == ["ant", "bee", "cat", "dog", "eel", "fox", "gnu"]
    assert json.loads((tmp_path / "saved" / "preprocessor_config.json").read_text())["image_mean"] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"architecture": "vit_nano_patch16_224"}, "no architecture 'vit_nano_patch16_224'"),
        ({"model_args": {"embed_dim": 33, "num_heads": 2}}, "does not make a vit_tiny_patch16_224"),
        ({"model_args": {"nothing_like_it": 1}}, "does not make a vit_tiny_patch16_224"),
    ],
)
def test_a_wrong_configuration_is_refused(make, change, found):
    _, folder = make()
    with pytest.raises(zoo.CheckpointError, match=found):
        zoo.load(str(_reconfigure(folder, **change)), device="cpu")


def test_incomplete_foreign_and_quantized_checkpoints_are_refused(make, make_transformers):
    _, folder = make()
    _rewrite(folder, lambda tensors: {name: tensor for name, tensor in tensors.items() if "fc1" not in name})
    with pytest.raises(zoo.CheckpointError, match=r"blocks\.0\.mlp\.fc1"):
        zoo.load(str(folder), device="cpu")
    _, folder = make_transformers()
    _reconfigure(folder, quantization_config={"quant_method": "gptq"})
    with pytest.raises(zoo.CheckpointError, match="quantized already"):
        zoo.load(str(folder), device="cpu")
    _, folder = make_transformers()
    _reconfigure(folder, hidden_act="none of them")
    with pytest.raises(zoo.CheckpointError, match="makes no image classifier"):
        zoo.load(str(folder), device="cpu")


def test_which_configurations_are_image_classifiers():
    assert is_timm({"architecture": "vit_base_patch16_224", "pretrained_cfg": {}})
    assert is_transformers({"architectures": ["DeiTForImageClassification"], "model_type": "deit"})
    for other in (
        {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"},
        {"_class_name": "UNet2DModel"},
        {"architectures": ["ViTMAEForPreTraining"], "model_type": "vit_mae"},
        {"architecture": "mine"},
    ):
        assert not is_timm(other)
        assert not is_transformers(other)


@pytest.mark.parametrize("name", ["vit-base", "vit-base-google"])
def test_the_real_structure_in_four_bits(name):
    model = zoo.load(name, bits=4, lora=zoo.LoRA(rank=8, targets="all"), device="meta")
    found = model.footprint()
    assert found.parameters == 86_567_656
    assert found.quantized_share > 0.985
    assert found.bytes < 0.29 * found.bytes_16bit
    matrices = sum(weight.shape.numel() for weight in model.weights() if len(weight.shape) > 1)
    assert found.adapted_share * found.parameters > 0.99 * matrices
    assert len(zoo.load(name, lora=4, device="meta").module.state_dict()) > 0
