"""Zoo reads the adapters that PEFT writes: equal outputs, and what it cannot take is refused by name."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.errors import AdapterError

from .helpers import close
from .peft_models import BEDS, Grouped, gpt2, keys_of, made_by_peft, randomised, run, strictly, tokens

peft = pytest.importorskip("peft")

# PEFT's advice on tied weights, fan_in_fan_out and the like; not what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")

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
    "mica": {"target_modules": ["fc"], "init_lora_weights": "mica"},
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


def test_a_grouped_convolution_of_peft_is_refused_because_it_reaches_across_groups(tmp_path: Path) -> None:
    module = Grouped(groups=2).eval()
    model = zoo.wrap(copy.deepcopy(module))
    made_by_peft(module, tmp_path / "a", target_modules=["conv"], r=4)
    with pytest.raises(AdapterError, match=r"conv\.weight.*grouped convolution.*across its groups"):
        model.add_adapter("theirs", tmp_path / "a")
    assert not model.adapters


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


@pytest.mark.parametrize("targets", [["wte"], ["wte", "lm_head"]])
def test_tied_weights_that_peft_adapts_apart_are_refused(targets: list[str], tmp_path: Path) -> None:
    base = gpt2()
    model = zoo.wrap(copy.deepcopy(base))
    made_by_peft(base, tmp_path / "a", target_modules=targets, r=2, fan_in_fan_out=False)
    with pytest.raises(AdapterError, match=r"shares its weight with .*(wte|lm_head).*keeps tied"):
        model.add_adapter("theirs", tmp_path / "a")
    assert not model.adapters
