"""Layers that a library calls otherwise today: adapters of every kind, text encoders, old diffusers models."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import zoo
import zoo_ia3
from zoo.integrations.old_names import old_names, renamings

from .test_renamed import TEXT, VISION, neox, run


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
