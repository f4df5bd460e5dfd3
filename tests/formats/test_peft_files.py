"""PEFT reads the adapters that zoo writes, and zoo those of PEFT: equal outputs, no unexpected or missing key."""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.errors import AdapterError

peft = pytest.importorskip("peft")

# PEFT's advice on tied weights, fan_in_fan_out and the like; not what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")


def close(one: Tensor, other: Tensor, tolerance: float = 1e-5) -> bool:
    """Check that two outputs are equal within `tolerance`, relative to the larger one."""
    return bool((one - other).abs().max() <= tolerance * max(1.0, float(other.abs().max())))


def randomised(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.1 * torch.randn_like(parameter) + 0.3 * (parameter.dim() < 2))
    return module.eval()


def gpt2(**more: Any) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 16, "vocab_size": 50, "bos_token_id": 0}
    return randomised(GPT2LMHeadModel(GPT2Config(**sizes, eos_token_id=0, **more)))


def bert() -> nn.Module:
    from transformers import BertConfig, BertForMaskedLM

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    return randomised(BertForMaskedLM(BertConfig(**sizes, vocab_size=50, max_position_embeddings=16)))


def unet() -> nn.Module:
    from diffusers import UNet2DModel

    return randomised(
        UNet2DModel(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=8,
            norm_num_groups=4,
        )
    )


def vit() -> nn.Module:
    import timm

    return randomised(timm.create_model("vit_tiny_patch16_224", img_size=32, embed_dim=48, depth=2, num_classes=5))


def tokens() -> tuple[Tensor, ...]:
    return (torch.randint(0, 50, (2, 12)),)


def images() -> tuple[Tensor, ...]:
    return torch.randn(2, 1, 8, 8), torch.tensor([3, 700])


def pictures() -> tuple[Tensor, ...]:
    return (torch.randn(2, 3, 32, 32),)


BEDS = {"gpt2": (gpt2, tokens), "bert": (bert, tokens), "unet": (unet, images), "vit": (vit, pictures)}


@torch.no_grad()
def run(module: Any, inputs: tuple[Tensor, ...]) -> Tensor:
    output = module(*inputs)
    return output if isinstance(output, Tensor) else output[0]


def strictly(base: nn.Module, folder: Path) -> nn.Module:
    """Return `base` with the adapter injected by PEFT, which must find every key in its place."""
    config = peft.LoraConfig.from_pretrained(str(folder))
    peft.inject_adapter_in_model(config, base)
    from safetensors.torch import load_file

    result = peft.set_peft_model_state_dict(
        base,
        {k.removeprefix("base_model.model."): v for k, v in load_file(folder / "adapter_model.safetensors").items()},
    )
    assert not result.unexpected_keys
    assert not [key for key in result.missing_keys if "lora" in key]
    return base


def all_of_it(name: str) -> str | list[str]:
    # timm's position embedding and class token are raw parameters, which PEFT cannot express in its own keys.
    return ["qkv", "proj", "fc1", "fc2", "head"] if name == "vit" else "all"


@pytest.mark.parametrize("name", BEDS)
@pytest.mark.parametrize("bits", [None, 4])
def test_peft_reads_what_zoo_wrote(name: str, bits: int | None, tmp_path: Path, perturb: Callable[..., None]) -> None:
    build, make = BEDS[name]
    base = build()
    inputs = make()
    model = zoo.wrap(copy.deepcopy(base), bits=bits, lora=zoo.LoRA(rank=3, alpha=7, targets=all_of_it(name)))
    perturb(model)
    model.save_adapter(tmp_path / "a")
    if bits:
        # PEFT has no 4-bit convolutions: it gets the dequantized values.
        with WithoutAdapters(model):
            base.load_state_dict(model.state_dict())
    plain = run(base, inputs)
    ours = run(model, inputs)
    assert not close(ours, plain, 1e-2)
    theirs = run(strictly(base, tmp_path / "a"), inputs)
    assert close(ours, theirs)


class WithoutAdapters:
    def __init__(self, model: zoo.Model) -> None:
        self.model, self.active = model, model.active

    def __enter__(self) -> None:
        self.model.deactivate()

    def __exit__(self, *_: object) -> None:
        self.model.activate(*self.active)


VARIANTS = {
    "c_attn": zoo.LoRA(rank=4, alpha=8, targets=["c_attn"]),
    "all": zoo.LoRA(rank=2, alpha=8, targets="all"),
    "rank pattern": zoo.LoRA(rank=2, targets=["c_attn", "c_proj"], rank_pattern={"mlp.c_proj": 5}),
    "alpha pattern": zoo.LoRA(rank=2, targets=["c_attn", "c_fc"], alpha_pattern={r"h\.0\.attn\.c_attn": 3.0}),
    "tied pattern": zoo.LoRA(rank=2, targets="all", rank_pattern={"wte": 3}, alpha_pattern={"lm_head": 1.0}),
    "rslora": zoo.LoRA(rank=4, targets=["c_attn"], rslora=True),
    "rslora pattern": zoo.LoRA(rank=4, targets=["c_attn", "wte"], rslora=True, rank_pattern={"wte": 7}),
    "regex": zoo.LoRA(rank=4, targets=r".*h\.1\..*c_(attn|fc)"),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_peft_model_from_pretrained_reads_gpt2_adapters(
    variant: str, tmp_path: Path, perturb: Callable[..., None]
) -> None:
    base = gpt2()
    inputs = tokens()
    model = zoo.wrap(copy.deepcopy(base), lora=VARIANTS[variant])
    perturb(model)
    ours = run(model, inputs)
    assert not close(ours, run(base, inputs), 1e-3)
    model.save_adapter(tmp_path / "a")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        theirs = peft.PeftModel.from_pretrained(base, str(tmp_path / "a"))
    assert not [str(w.message) for w in said if "key" in str(w.message)]
    assert close(ours, run(theirs, inputs))


def made_by_peft(module: nn.Module, folder: Path, **config: Any) -> nn.Module:
    """Save an adapter of PEFT for `module`, with random factors; return PEFT's model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = peft.get_peft_model(module, peft.LoraConfig(**config)).eval()
        with torch.no_grad():
            for name, parameter in made.named_parameters():
                if "lora_" in name:
                    parameter.copy_(0.3 * torch.randn_like(parameter))
        made.save_pretrained(str(folder))
    return made


THEIRS: dict[str, dict[str, Any]] = {
    "linear": {"target_modules": ["fc"]},
    "HF Conv1D": {"target_modules": ["mix"], "fan_in_fan_out": True},
    "convolutions": {"target_modules": ["conv1d", "conv2d"]},
    "embedding": {"target_modules": ["embed"]},
    "every layer": {"target_modules": ["embed", "conv1d", "conv2d", "mix", "fc"], "lora_alpha": 3},
    "rank and alpha patterns": {
        "target_modules": ["embed", "conv2d", "fc"],
        "rank_pattern": {"block.fc": 5, "^fc": 2},
        "alpha_pattern": {"conv2d": 32, "embed|fc": 4},
    },
    "rslora": {"target_modules": ["fc", "conv1d"], "use_rslora": True, "r": 6},
    "regex": {"target_modules": r"block\.fc|conv\dd"},
    "a layer's weight as a raw parameter": {"target_modules": ["fc"], "target_parameters": ["embed.weight"]},
    "all-linear": {"target_modules": "all-linear"},
    "excluded": {"target_modules": ["fc"], "exclude_modules": ["block.fc"]},
    "dropout": {"target_modules": ["fc"], "lora_dropout": 0.3},
    "gaussian": {"target_modules": ["fc"], "init_lora_weights": "gaussian"},
}


@pytest.mark.parametrize("case", THEIRS)
@pytest.mark.parametrize("bits", [None, 4])
def test_zoo_reads_what_peft_wrote(case: str, bits: int | None, mixed: nn.Module, ids: Tensor, tmp_path: Path) -> None:
    model = zoo.wrap(copy.deepcopy(mixed), bits=bits)
    mixed.load_state_dict(model.state_dict())  # the dequantized values
    plain = run(mixed, (ids,))
    theirs = made_by_peft(mixed, tmp_path / "theirs", **{"r": 4, **THEIRS[case]})
    model.add_adapter("theirs", tmp_path / "theirs")
    assert close(run(model, (ids,)), run(theirs, (ids,)))
    assert not close(run(theirs, (ids,)), plain, 1e-4)
    model.deactivate()
    assert torch.equal(run(model, (ids,)), plain) or close(run(model, (ids,)), plain, 1e-6)


@pytest.mark.parametrize("name", BEDS)
def test_zoo_reads_what_peft_wrote_for_real_architectures(name: str, tmp_path: Path) -> None:
    build, make = BEDS[name]
    base = build()
    targets = {
        "gpt2": ["c_attn", "c_proj", "wpe"],
        "bert": ["query", "value", "position_embeddings"],
        "unet": ["to_q", "conv1", "conv2", "conv_in", "linear_1"],
        "vit": ["qkv", "proj", "head"],
    }[name]
    model, fresh = zoo.wrap(copy.deepcopy(base)), copy.deepcopy(base)
    theirs = made_by_peft(base, tmp_path / "a", target_modules=targets, r=4)
    model.add_adapter("theirs", tmp_path / "a")
    inputs = make()
    assert close(run(model, inputs), run(theirs, inputs))
    # And back: PEFT reads the adapter that zoo writes.
    model.save_adapter(tmp_path / "b")
    assert close(run(strictly(fresh, tmp_path / "b"), inputs), run(theirs, inputs))


class Grouped(nn.Module):
    def __init__(self, **convolution: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, padding=1, **convolution)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def test_a_grouped_convolution_of_peft_is_refused_because_it_reaches_across_groups(tmp_path: Path) -> None:
    module = Grouped(groups=2).eval()
    model = zoo.wrap(copy.deepcopy(module))
    made_by_peft(module, tmp_path / "a", target_modules=["conv"], r=4)
    with pytest.raises(AdapterError, match=r"conv\.weight.*grouped convolution.*across its groups"):
        model.add_adapter("theirs", tmp_path / "a")
    assert not model.adapters


@pytest.mark.parametrize(
    "options", [{"groups": 2}, {"dilation": 2, "padding_mode": "zeros"}, {"padding_mode": "circular"}]
)
def test_what_peft_computes_otherwise_is_written_in_keys_of_our_own(
    options: dict[str, Any], tmp_path: Path, perturb: Callable[..., None]
) -> None:
    base = Grouped(**options)
    model = zoo.wrap(copy.deepcopy(base), lora=zoo.LoRA(rank=2, targets="all"))
    perturb(model)
    model.save_adapter(tmp_path / "a")
    assert keys_of(tmp_path / "a") == ["zoo.conv.weight.lora_A", "zoo.conv.weight.lora_B"]
    again = zoo.wrap(base, lora=tmp_path / "a")
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(run(again, (x,)), run(model, (x,)))


def test_save_load_save_is_byte_identical(mixed: nn.Module, tmp_path: Path, perturb: Callable[..., None]) -> None:
    config = zoo.LoRA(
        rank=3,
        alpha=5,
        targets=["fc", "conv2d", "embed", "mix"],
        rank_pattern={"block.fc": 2},
        dropout=0.1,
        rslora=True,
    )
    model = zoo.wrap(copy.deepcopy(mixed), lora=config)
    perturb(model)
    model.save_adapter(tmp_path / "a")
    again = zoo.wrap(copy.deepcopy(mixed), lora=tmp_path / "a")
    assert again.adapters["default"] == config
    again.save_adapter(tmp_path / "b")
    for name in ("adapter_model.safetensors", "adapter_config.json", "zoo.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_the_file_peft_would_have_written(mixed: nn.Module, tmp_path: Path) -> None:
    """The keys, shapes and metadata equal those of PEFT's file of the same adapter."""
    from safetensors import safe_open

    targets = ["embed", "conv1d", "conv2d", "mix", "fc"]
    model = zoo.wrap(copy.deepcopy(mixed), lora=zoo.LoRA(rank=4, targets=targets))
    made_by_peft(mixed, tmp_path / "theirs", target_modules=targets, r=4, lora_alpha=16)
    model.save_adapter(tmp_path / "ours")
    contents = []
    for folder in ("ours", "theirs"):
        with safe_open(tmp_path / folder / "adapter_model.safetensors", "pt") as file:
            contents.append((file.metadata(), {key: file.get_slice(key).get_shape() for key in file.keys()}))  # noqa: SIM118
    assert contents[0] == contents[1]
    ours, theirs = (
        json.loads((tmp_path / folder / "adapter_config.json").read_text()) for folder in ("ours", "theirs")
    )
    assert set(ours) <= set(theirs)
    for key in ("r", "lora_alpha", "lora_dropout", "bias", "peft_type", "use_dora", "use_rslora"):
        assert ours[key] == theirs[key], key


def test_a_layer_whose_path_ends_like_another_is_adapted_alone_in_peft_too(
    mixed: nn.Module, ids: Tensor, tmp_path: Path, perturb: Callable[..., None]
) -> None:
    model = zoo.wrap(copy.deepcopy(mixed), lora=zoo.LoRA(rank=2, targets="^fc$"))
    perturb(model)
    assert [info.name for info in model.weights() if info.adapters] == ["fc.weight"]
    model.save_adapter(tmp_path / "a")
    again = zoo.wrap(copy.deepcopy(mixed), lora=tmp_path / "a")
    theirs = strictly(copy.deepcopy(mixed), tmp_path / "a")
    assert [name for name, layer in theirs.named_modules() if hasattr(layer, "lora_A")] == ["fc"]
    assert close(run(theirs, (ids,)), run(model, (ids,)))
    assert torch.equal(run(again, (ids,)), run(model, (ids,)))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "lora_bias": ({"target_modules": ["block.fc"], "lora_bias": True}, "lora_bias"),
    "pissa": ({"target_modules": ["block.fc"], "init_lora_weights": "pissa"}, "init_lora_weights"),
    "olora": ({"target_modules": ["block.fc"], "init_lora_weights": "olora"}, "init_lora_weights"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_peft_has_and_zoo_has_not_is_refused_by_name(
    case: str, mixed: nn.Module, ids: Tensor, tmp_path: Path
) -> None:
    options, named = REFUSED[case]
    model = zoo.wrap(copy.deepcopy(mixed))
    before = run(model, (ids,))
    made_by_peft(mixed, tmp_path / "a", r=4, **options)
    with pytest.raises(AdapterError, match=named) as caught:
        model.add_adapter("theirs", tmp_path / "a")
    assert "\n" not in str(caught.value)
    assert not model.adapters
    assert torch.equal(run(model, (ids,)), before)


def test_another_kind_of_peft_adapter_is_refused(mixed: nn.Module, tmp_path: Path) -> None:
    model = zoo.wrap(copy.deepcopy(mixed))
    peft.get_peft_model(mixed, peft.VeraConfig(target_modules=["block.fc"])).save_pretrained(str(tmp_path / "a"))
    with pytest.raises(AdapterError, match="no plugin knows adapters of the kind 'VERA'"):
        model.add_adapter("theirs", tmp_path / "a")


def llama(**more: Any) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    return randomised(LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=50, max_position_embeddings=16, **more)))


@pytest.mark.parametrize("bits", [None, 4])
def test_the_copy_of_the_base_that_peft_puts_beside_adapted_embeddings_must_be_of_this_base(
    bits: int | None, tmp_path: Path
) -> None:
    """PEFT's setting "auto" saves embed_tokens and lm_head whole when they are adapted."""
    base = llama()
    model, other = zoo.wrap(copy.deepcopy(base), bits=bits), zoo.wrap(llama(), bits=bits)
    base.load_state_dict(model.state_dict())
    made = made_by_peft(base, tmp_path / "a", target_modules=["embed_tokens", "lm_head", "q_proj"], r=2)
    assert "base_model.model.lm_head.base_layer.weight" in keys_of(tmp_path / "a")
    model.add_adapter("theirs", tmp_path / "a")
    inputs = tokens()
    assert close(run(model, inputs), run(made, inputs))
    with pytest.raises(AdapterError, match=r"weight of (model\.embed_tokens|lm_head) itself.*not this base's"):
        other.add_adapter("theirs", tmp_path / "a")
    assert not other.adapters


def keys_of(folder: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        return sorted(file.keys())


@pytest.mark.parametrize("targets", [["wte"], ["wte", "lm_head"]])
def test_tied_weights_that_peft_adapts_apart_are_refused(targets: list[str], tmp_path: Path) -> None:
    base = gpt2()
    model = zoo.wrap(copy.deepcopy(base))
    made_by_peft(base, tmp_path / "a", target_modules=targets, r=2, fan_in_fan_out=False)
    with pytest.raises(AdapterError, match=r"shares its weight with .*(wte|lm_head).*keeps tied"):
        model.add_adapter("theirs", tmp_path / "a")
    assert not model.adapters


def test_scale_of_every_kind_is_pefts(mixed: nn.Module) -> None:
    config = zoo.LoRA(rank=4, alpha=6, rank_pattern={"fc": 9}, alpha_pattern={"block.fc": 2})
    assert (config.scale_of("conv1d"), config.scale_of("fc"), config.scale_of("block.fc")) == (6 / 4, 6 / 9, 2 / 9)
    rooted = zoo.LoRA(rank=4, alpha=6, rslora=True, rank_pattern={"fc": 9})
    assert (rooted.scale_of("conv1d"), rooted.scale_of("fc")) == (6 / math.sqrt(4), 6 / math.sqrt(9))
