"""Layers that a library calls otherwise today: adapters of every kind, text encoders, old diffusers models."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import zoo
import zoo_ia3
from zoo.errors import AdapterError
from zoo.integrations.old_names import old_names, renamings

from .test_renamed import TEXT, VISION, mixtral, neox, run


def vit() -> nn.Module:
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    return ViTModel(ViTConfig(**VISION)).eval()


@pytest.mark.parametrize("kind", ["ia3", "lokr", "full beside a DoRA"])
def test_other_kinds_of_renamed_layers(kind: str, tmp_path: Path) -> None:
    """What zoo writes for today's names, moved to the old ones by hand, loads as itself."""
    configs: dict[str, Any] = {
        "ia3": zoo_ia3.IA3(targets=["q_proj", "mlp.fc1"], feedforward=["mlp.fc1"]),
        "lokr": zoo.LoKr(1, targets=["q_proj", "mlp.fc1"], rank_pattern={"mlp.fc1": 2}),
        "full beside a DoRA": zoo.LoRA(
            2, dora=True, targets=["q_proj", "mlp.fc1"], modules_to_save=["layernorm_after"]
        ),
    }
    module = vit()
    model = zoo.wrap(copy.deepcopy(module), lora=configs[kind])
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_adapter(tmp_path)
    (tmp_path / "zoo.json").unlink()
    old = {"layers.0": "encoder.layer.0", "attention.q_proj": "attention.attention.query"}
    old |= {"mlp.fc1": "intermediate.dense"}
    file, config = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"

    def renamed(text: str) -> str:
        for today, before in old.items():
            text = text.replace(today, before)
        return text

    save_file({renamed(key): tensor for key, tensor in load_file(file).items()}, file, {"format": "pt"})
    fields = json.loads(config.read_text())
    for key in ("target_modules", "feedforward_modules"):
        if key in fields:
            fields[key] = [renamed(path) for path in fields[key]]
    if kind == "lokr":
        fields["rank_pattern"] = {"intermediate.dense": 2}
    config.write_text(json.dumps(fields))
    assert not any("fc1" in key for key in load_file(file))
    again = zoo.wrap(module, lora=tmp_path)
    torch.testing.assert_close(run(again), run(model))
    assert (run(again) - run(vit())).norm() > 1e-3


def clip_text() -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(CLIPTextConfig(**TEXT, bos_token_id=1, eos_token_id=2)).eval()


@pytest.mark.parametrize("form", ["kohya", "diffusers", "PEFT"])
def test_a_text_encoder_of_a_pipeline_whose_prefix_is_gone(form: str, tmp_path: Path) -> None:
    module, path = clip_text(), "text_model.encoder.layers.0.mlp.fc1"
    A, B = torch.randn(2, 16), torch.randn(24, 2)
    stem = {"kohya": "lora_te_" + path.replace(".", "_"), "PEFT": f"base_model.model.{path}"}.get(
        form, f"text_encoder.{path}"
    )
    names = ("lora_down", "lora_up") if form == "kohya" else ("lora_A", "lora_B")
    folder = tmp_path / "adapter_model.safetensors"
    save_file({f"{stem}.{name}.weight": one for name, one in zip(names, (A, B), strict=True)}, folder)
    if form == "PEFT":
        fields = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["fc1"]}
        (tmp_path / "adapter_config.json").write_text(json.dumps(fields))
    before = module.get_parameter("encoder.layers.0.mlp.fc1.weight").detach().clone()
    model = zoo.wrap(module, lora=folder if form != "PEFT" else tmp_path)
    after = model.state_dict()["encoder.layers.0.mlp.fc1.weight"]
    torch.testing.assert_close(after, before + B @ A)


def test_attention_of_old_diffusers_models(tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    module = AutoencoderKL(norm_num_groups=4, block_out_channels=(8,)).eval()
    names = old_names(module)
    assert names["encoder.mid_block.attentions.0.proj_attn"] == "encoder.mid_block.attentions.0.to_out.0"
    A, B = torch.randn(2, 8), torch.randn(8, 2)
    stem = "encoder.mid_block.attentions.0.query"
    save_file({f"{stem}.lora.down.weight": A, f"{stem}.lora.up.weight": B}, tmp_path / "a.safetensors")
    weight = module.get_parameter("encoder.mid_block.attentions.0.to_q.weight").detach().clone()
    model = zoo.wrap(module, lora=tmp_path)
    torch.testing.assert_close(model.state_dict()["encoder.mid_block.attentions.0.to_q.weight"], weight + B @ A)


def test_renamings_that_a_class_outside_the_library_declares() -> None:
    module = neox()
    module._checkpoint_conversion_mapping = {r"^body\.": "gpt_neox."}  # type: ignore[assignment]
    today = renamings(module)
    assert today is not None
    name = "layers.0.attention.dense.weight"
    assert today([f"body.{name}"])[f"body.{name}"].name == f"gpt_neox.{name}"


def test_a_module_of_no_library_has_no_other_names() -> None:
    assert renamings(nn.Sequential(nn.Linear(2, 2))) is None
    assert old_names(nn.Sequential(nn.Linear(2, 2))) == {}


def aged(folder: Path, names: dict[str, str]) -> None:
    """Give an adapter of zoo's the names that weights had in an earlier release, in all of its files."""

    def renamed(text: str) -> str:
        for today, before in names.items():
            text = text.replace(today, before)
        return text

    manifest = json.loads((folder / "zoo.json").read_text())
    tensors, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    save_file({renamed(key): tensor for key, tensor in load_file(tensors).items()}, tensors, {"format": "pt"})
    config.write_text(json.dumps({**json.loads(config.read_text()), "rank_pattern": {}, "target_modules": ["query"]}))
    for part in ("weights", "replaced", "buffers"):
        manifest[part] = {renamed(name): value for name, value in manifest[part].items()}
    manifest["targets"] = ["query"]
    manifest["base"]["fingerprint"] = "0" * 32
    manifest["sha256"] = {one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in (tensors, config)}
    (folder / "zoo.json").write_text(json.dumps(manifest))


OLD = {"layers.0": "encoder.layer.0", "attention.q_proj": "attention.attention.query", "mlp.fc1": "intermediate.dense"}


def test_the_base_is_compared_under_its_old_names(tmp_path: Path) -> None:
    lora = zoo.LoRA(2, targets=["q_proj"], modules_to_save=["layernorm_before"])
    model = zoo.wrap(vit(), lora=lora)
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_adapter(tmp_path)
    aged(tmp_path, OLD)
    assert any("encoder.layer.0" in name for name in json.loads((tmp_path / "zoo.json").read_text())["weights"])
    again = zoo.wrap(vit(), lora=tmp_path)
    torch.testing.assert_close(run(again), run(model))
    other = vit()
    with torch.no_grad():
        other.get_parameter("layers.0.mlp.fc1.weight").add_(1)
    with pytest.raises(AdapterError, match=r"first in layers\.0\.mlp\.fc1\.weight"):
        zoo.wrap(other, lora=tmp_path)
    other = vit()
    with torch.no_grad():
        other.get_parameter("layers.0.layernorm_before.weight").mul_(3)  # which the adapter replaces
    assert zoo.wrap(other, lora=tmp_path).active == ("default",)


def test_a_base_whose_weights_were_joined_since_is_compared_by_the_others(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = mixtral().eval()
    model = zoo.wrap(copy.deepcopy(module), lora=zoo.LoRA(2, targets=["q_proj"]))
    model.save_adapter(tmp_path)
    manifest = json.loads((tmp_path / "zoo.json").read_text())
    experts = [name for name in manifest["weights"] if "experts" in name]
    entry = manifest["weights"][experts[0]]
    for name in experts:
        del manifest["weights"][name]
    for number in range(3):
        manifest["weights"][f"model.layers.0.block_sparse_moe.experts.{number}.w1.weight"] = entry
    gate = manifest["weights"].pop("model.layers.0.mlp.gate.weight")
    manifest["weights"]["model.layers.0.block_sparse_moe.gate.weight"] = gate
    manifest["base"]["fingerprint"] = "0" * 32
    (tmp_path / "zoo.json").write_text(json.dumps(manifest))
    assert zoo.wrap(copy.deepcopy(module), lora=tmp_path).active == ("default",)
    with torch.no_grad():
        module.get_parameter("model.layers.0.mlp.gate.weight").add_(1)
    with pytest.raises(AdapterError, match=r"first in model\.layers\.0\.mlp\.gate\.weight"):
        zoo.wrap(module, lora=tmp_path)
