"""Checkpoints in the layouts in which they are published: the same logits as transformers' own loading."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import zoo

CONTEXT, VOCABULARY = 64, 96


def same_logits(folder: Path, **options: object) -> zoo.Model:
    """Loads `folder` with zoo and with transformers, and compares."""
    expected = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model = zoo.load(str(folder), device="cpu", **options)
    ids = torch.randint(VOCABULARY, (2, 40))
    with torch.no_grad():
        difference = model.module(input_ids=ids).logits - expected(input_ids=ids).logits
    assert difference.abs().max() == 0
    return model


def rewrite(folder: Path, change) -> Path:
    file = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in change(load_file(file)).items()}
    file.unlink()  # not written over: what is mapped of it elsewhere keeps its values
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2", "mixtral"])
@pytest.mark.parametrize("shards", [False, True])
def test_as_transformers_writes_it(make, kind: str, shards: bool) -> None:
    folder = make(kind, shards=shards)
    assert shards == (folder / "model.safetensors.index.json").is_file()
    same_logits(folder)


def test_gpt2_as_the_hub_has_it(make) -> None:
    """openai-community/gpt2: no `transformer.` before the names, mask buffers among them, no lm_head."""

    def original(tensors):
        mask = torch.ones(CONTEXT, CONTEXT).tril()[None, None]
        stripped = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
        masks = {f"h.{layer}.attn.bias": mask for layer in range(2)}
        return stripped | masks | {"h.0.attn.masked_bias": torch.tensor(-1e4)}

    folder = rewrite(make("gpt2"), original)
    assert "wte.weight" in load_file(folder / "model.safetensors")
    model = same_logits(folder)
    assert model.module.lm_head.weight is model.module.transformer.wte.weight


def test_a_tied_head_that_is_stored_too(make) -> None:
    folder = rewrite(make("gpt2"), lambda tensors: tensors | {"lm_head.weight": tensors["transformer.wte.weight"]})
    same_logits(folder)


def test_a_tied_head_under_its_own_name_only(make) -> None:
    def head_only(tensors):
        return {("lm_head.weight" if "embed_tokens" in name else name): tensor for name, tensor in tensors.items()}

    folder = make("qwen2")
    expected = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    model = zoo.load(str(rewrite(folder, head_only)), device="cpu")
    assert torch.equal(model.module.model.embed_tokens.weight, expected)
    assert model.module.lm_head.weight is model.module.model.embed_tokens.weight


def test_tied_by_the_configuration_and_different_in_the_file(make) -> None:
    folder = rewrite(make("qwen2"), lambda tensors: tensors | {"lm_head.weight": torch.randn(VOCABULARY, 32)})
    with pytest.raises(zoo.CheckpointError, match="tie_word_embeddings"):
        zoo.load(str(folder), device="cpu")


def test_old_names_and_stored_frequencies(make) -> None:
    """Llama files of 2023 hold every layer's rotary frequencies."""
    frequencies = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.rand(4) for layer in range(2)}
    same_logits(rewrite(make("llama"), lambda tensors: tensors | frequencies))


def test_half_precision_files(make) -> None:
    folder = make("llama")
    rewrite(folder, lambda tensors: {name: tensor.bfloat16() for name, tensor in tensors.items()})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    same_logits(folder)


def test_a_configuration_of_earlier_years(make) -> None:
    """rope_theta at the top, torch_dtype, a transformers_version of then."""
    folder = make("llama")
    config = json.loads((folder / "config.json").read_text())
    config = {name: value for name, value in config.items() if not name.startswith("rope") and name != "dtype"}
    old = {"rope_theta": 37.0, "rope_scaling": None, "torch_dtype": "float32", "transformers_version": "4.28.0"}
    (folder / "config.json").write_text(json.dumps(config | old))
    model = same_logits(folder)
    frequencies = model.module.model.rotary_emb.inv_freq
    assert torch.allclose(frequencies, 37.0 ** -(torch.arange(0, 8, 2) / 8))


def test_a_missing_and_an_unknown_weight(make) -> None:
    folder = rewrite(make("llama"), lambda tensors: {n: t for n, t in tensors.items() if "layers.1.mlp.up" not in n})
    with pytest.raises(zoo.CheckpointError, match=r"layers\.1\.mlp\.up_proj\.weight"):
        zoo.load(str(folder), device="cpu")
    folder = rewrite(make("gpt2"), lambda tensors: tensors | {"value_head.weight": torch.ones(1, 32)})
    with pytest.raises(zoo.CheckpointError, match=r"value_head\.weight"):
        zoo.load(str(folder), device="cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "nobodys-model", "auto_map": {"AutoConfig": "code.Config"}}, "never run"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantized already"),
        ({"num_attention_heads": "many"}, "valid llama configuration"),
    ],
)
def test_configurations_that_cannot_be_built(make, change: dict, message: str) -> None:
    folder = make("llama")
    (folder / "code.py").write_text("raise SystemExit('was run')")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(zoo.CheckpointError, match=message):
        zoo.load(str(folder), device="cpu")


def test_foreign_code_beside_a_known_architecture_is_not_run(make) -> None:
    folder = make("llama")
    (folder / "code.py").write_text("raise SystemExit('was run')")
    config = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": own}))
    assert type(zoo.load(str(folder), device="cpu").module).__name__ == "LlamaForCausalLM"


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mixtral"])
def test_saved_models_load_in_transformers(make, tmp_path: Path, kind: str) -> None:
    model = zoo.load(str(make(kind)), device="cpu", lora=2)
    ids = torch.randint(VOCABULARY, (2, 20))
    with torch.no_grad():
        untrained = model.module(input_ids=ids).logits
        for _, factor in model.trainable_parameters():
            factor.add_(0.1 * torch.randn_like(factor))
        expected = model.module(input_ids=ids).logits
    assert (expected - untrained).abs().max() > 0.01
    model.merge()
    model.save(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32).eval()
    with torch.no_grad():
        assert torch.allclose(again(input_ids=ids).logits, expected, atol=1e-4)
    assert (tmp_path / "saved" / "tokenizer.json").is_file()
    assert zoo.load(str(tmp_path / "saved"), device="cpu").sample(seed=0).data


@pytest.mark.parametrize("name", ["gpt", "gpt2"])
def test_registered_structures_without_their_weights(name: str) -> None:
    model = zoo.load(name, bits=4, device="meta")
    expected = {"gpt": 2_863_680, "gpt2": 124_439_808}[name]
    assert model.footprint().parameters == expected
    assert model.footprint().quantized_share > 0.985
