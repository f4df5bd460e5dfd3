"""PEFT reads the adapters that zoo writes: equal outputs, no unexpected or missing key."""

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

from .helpers import close
from .peft_models import BEDS, Grouped, gpt2, keys_of, made_by_peft, run, strictly, tokens

peft = pytest.importorskip("peft")

# PEFT's advice on tied weights, fan_in_fan_out and the like; not what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")


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


def test_scale_of_every_kind_is_pefts(mixed: nn.Module) -> None:
    config = zoo.LoRA(rank=4, alpha=6, rank_pattern={"fc": 9}, alpha_pattern={"block.fc": 2})
    assert (config.scale_of("conv1d"), config.scale_of("fc"), config.scale_of("block.fc")) == (6 / 4, 6 / 9, 2 / 9)
    rooted = zoo.LoRA(rank=4, alpha=6, rslora=True, rank_pattern={"fc": 9})
    assert (rooted.scale_of("conv1d"), rooted.scale_of("fc")) == (6 / math.sqrt(4), 6 / math.sqrt(9))
