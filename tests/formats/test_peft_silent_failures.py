"""Cases that PEFT and related libraries get wrong without an error: zoo is correct, or raises one."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

import zoo
from zoo.errors import AdapterError


def perturb(model: zoo.Model, size: float = 0.2) -> None:
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.copy_(size * torch.randn_like(parameter))


def run(model: zoo.Model | nn.Module, *inputs: Tensor) -> Tensor:
    with torch.no_grad():
        output = model(*inputs)
    return output if isinstance(output, Tensor) else output[0]


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": 30}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).eval()


def close(one: Tensor, other: Tensor, tolerance: float = 1e-5) -> bool:
    return bool((one - other).abs().max() <= tolerance * max(1.0, float(other.abs().max())))


@pytest.mark.parametrize("bits", [None, 4])
def test_1_a_tied_weight_has_one_adapter_which_merging_and_reloading_keep(bits: int | None, tmp_path: Path) -> None:
    base = gpt2()
    model = zoo.wrap(copy.deepcopy(base), bits=bits, lora=zoo.LoRA(rank=2, targets=["wte", "lm_head"]))
    perturb(model)
    ids = torch.randint(0, 30, (2, 8))
    adapted = run(model, ids)
    model.save_adapter(tmp_path)
    again = zoo.wrap(copy.deepcopy(base), bits=bits, lora=tmp_path)
    assert torch.equal(run(again, ids), adapted)
    model.merge()
    assert close(run(model, ids), adapted)
    plain = model.unload()
    assert plain.lm_head.weight is plain.transformer.wte.weight
    assert close(run(plain, ids), adapted)


@pytest.mark.parametrize("size", [0.1, 0.03, 0.01, 0.003])
def test_2_merging_into_four_bit_keeps_an_update_of_any_size(size: float) -> None:
    model = zoo.wrap(nn.Sequential(nn.Linear(64, 64, bias=False)), bits=4)
    base = model.state_dict()["0.weight"].double()
    model.add_adapter("a", zoo.LoRA(rank=4))
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.copy_(torch.randn_like(parameter))
        (store,) = (m for m in model.module.modules() if hasattr(m, "updates"))
        update = store.updates["a"]
        update.B.mul_(size * base.norm() / (update.scale * update.B @ update.A).norm())
    effect = update.scale * update.B.double() @ update.A.double()
    for _ in range(3):
        model.merge()
        merged = model.state_dict()["0.weight"].double()
        assert (merged - base - effect).norm() <= 1e-3 * effect.norm()
        model.unmerge()
        model.deactivate()
        assert torch.equal(model.state_dict()["0.weight"].double(), base), "and comes back to the bit"
        model.activate("a")


def test_3_keys_that_match_nothing_are_an_error_that_names_them(tmp_path: Path) -> None:
    model = zoo.wrap(gpt2(), lora=zoo.LoRA(rank=2, targets=["c_attn"]))
    model.save_adapter(tmp_path)
    (tmp_path / "zoo.json").unlink()
    path = tmp_path / "adapter_model.safetensors"
    tensors = {key.replace("transformer.h", "model.layers"): tensor for key, tensor in load_file(path).items()}
    save_file(tensors, path)
    with pytest.raises(AdapterError, match=r"model\.layers\.0\.attn\.c_attn\.lora_A\.weight' matches no weight"):
        model.add_adapter("again", tmp_path)
    assert list(model.adapters) == ["default"]


@pytest.mark.parametrize("bits", [None, 4])
def test_4_torchs_fast_path_for_encoders_does_not_pass_the_adapter_by(bits: int | None) -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2).eval()
    model = zoo.wrap(encoder, bits=bits, lora=zoo.LoRA(rank=2, targets="all"))
    x = torch.randn(2, 5, 16)
    before = run(model, x)
    perturb(model)
    assert torch.backends.mha.get_fastpath_enabled()
    adapted = run(model, x)
    assert not close(adapted, before, 1e-2)
    model.merge()
    assert close(run(model, x), adapted)
    with torch.no_grad():
        assert close(model.unload()(x), adapted)


@pytest.mark.parametrize(
    "options",
    [{"padding_mode": "circular"}, {"padding_mode": "reflect"}, {"dilation": 2}, {"groups": 4}, {"groups": 2}],
)
def test_5_convolutions_with_padding_modes_dilation_and_groups_merge_exactly(options: dict[str, object]) -> None:
    module = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1, **options))  # type: ignore[arg-type]
    model = zoo.wrap(module, lora=zoo.LoRA(rank=3))
    perturb(model)
    x = torch.randn(2, 4, 7, 6)
    adapted = run(model, x)
    model.merge()
    assert close(run(model, x), adapted)
    assert close(run(model.unload(), x), adapted)


def test_6_every_weight_of_an_attention_is_adapted_and_gets_a_gradient() -> None:
    attention = nn.MultiheadAttention(16, 2, batch_first=True)
    model = zoo.wrap(attention, lora=zoo.LoRA(rank=2, targets="all"))
    assert [info.name for info in model.weights() if info.adapters] == ["in_proj_weight", "out_proj.weight"]
    perturb(model)
    x = torch.randn(2, 5, 16)
    model(x, x, x)[0].square().sum().backward()
    for name, parameter in model.trainable_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


class Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


def test_7_a_parametrized_weight_under_an_adapter_merges() -> None:
    module = nn.Sequential(nn.Linear(6, 5))
    parametrize.register_parametrization(module[0], "weight", Halved())
    model = zoo.wrap(module, lora=zoo.LoRA(rank=2, targets="all"))
    x = torch.randn(3, 6)
    plain = run(model, x)
    perturb(model)
    adapted = run(model, x)
    assert not close(adapted, plain, 1e-3)
    model.merge()
    assert close(run(model, x), adapted)
    assert close(run(model.unload(), x), adapted)


@pytest.mark.parametrize("library", ["timm", "diffusers"])
def test_8_training_in_four_bit_needs_nothing_of_the_library(library: str) -> None:
    if library == "timm":
        import timm

        sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_classes": 5}
        module, inputs = timm.create_model("vit_tiny_patch16_224", **sizes), (torch.randn(2, 3, 16, 16),)
    else:
        from diffusers import UNet2DModel

        sizes = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "norm_num_groups": 4}
        blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (8,)}
        module, inputs = UNet2DModel(**sizes, **blocks), (torch.randn(2, 1, 8, 8), torch.tensor([3, 700]))
    model = zoo.wrap(module, bits=4, lora=2).train()
    output = model(*inputs)
    (output if isinstance(output, Tensor) else output[0]).square().sum().backward()
    grads = [parameter.grad for name, parameter in model.trainable_parameters() if name.endswith("B")]
    assert all(grad is not None for grad in grads)
    assert sum(bool(grad.abs().max() > 0) for grad in grads) > 0.9 * len(grads)


def test_9_an_adapter_of_any_library_names_its_base_and_is_refused_on_another(tmp_path: Path) -> None:
    import json

    import timm

    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_classes": 5}
    model = zoo.wrap(timm.create_model("vit_tiny_patch16_224", **sizes), lora=zoo.LoRA(rank=2, targets=["qkv"]))
    model.save_adapter(tmp_path)
    base = json.loads((tmp_path / "zoo.json").read_text())["base"]
    assert base["fingerprint"] == model.fingerprint
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "VisionTransformer"
    assert config["auto_mapping"]["parent_library"] == "timm.models.vision_transformer"
    other = zoo.wrap(timm.create_model("vit_tiny_patch16_224", **sizes))
    with pytest.raises(AdapterError, match=r"made for the base 'VisionTransformer'.*load that base"):
        other.add_adapter("a", tmp_path)


def test_a_part_that_peft_cannot_express_makes_it_refuse_the_whole(tmp_path: Path) -> None:
    """It would silently skip zoo's keys, and compute with half an adapter."""
    peft = pytest.importorskip("peft")
    module = nn.Sequential(nn.Linear(4, 4), nn.Conv2d(2, 2, 3, groups=2))
    model = zoo.wrap(copy.deepcopy(module), lora=zoo.LoRA(rank=2, targets="all"))
    model.save_adapter(tmp_path)
    keys = sorted(load_file(tmp_path / "adapter_model.safetensors"))
    assert [key.partition(".")[0] for key in keys] == ["base_model", "base_model", "zoo", "zoo"]
    with pytest.raises((KeyError, ValueError), match="ZOO_LORA"):
        peft.PeftModel.from_pretrained(copy.deepcopy(module), str(tmp_path))
    assert zoo.wrap(module, lora=tmp_path).active == ("default",)


def test_peft_adds_the_update_of_an_attentions_out_proj_twice() -> None:
    """Written and read with that factor, so that PEFT computes what zoo computes; this fails when PEFT changes it."""
    peft = pytest.importorskip("peft")

    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.att = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.att(x, x, x, need_weights=False)[0]

    module = Attending().eval()
    expected = copy.deepcopy(module)
    made = peft.get_peft_model(module, peft.LoraConfig(r=2, lora_alpha=2, target_modules=["att"])).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn_like(parameter))
        factors = {name: parameter for name, parameter in made.named_parameters() if "lora_" in name}
        own = {name.rpartition("lora_")[2][0]: p for name, p in factors.items() if "out_proj" not in name}
        out = {name.rpartition("lora_")[2][0]: p for name, p in factors.items() if "out_proj" in name}
        expected.att.in_proj_weight.add_(own["B"] @ own["A"])
        expected.att.out_proj.weight.add_(2 * out["B"] @ out["A"])
    x = torch.randn(2, 5, 8)
    assert close(run(made, x), run(expected, x))
