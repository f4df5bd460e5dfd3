"""Folders that transformers and zoo write for each other, with weights in 4 bit as bitsandbytes has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, BertConfig, BitsAndBytesConfig, LlamaConfig

import zoo
from zoo.storage.atomic import digest

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 128,
}
MODELS: dict[str, tuple[Any, Any]] = {
    "llama": (AutoModelForCausalLM, LlamaConfig(**SIZES, num_key_value_heads=2)),
    "bert": (AutoModelForMaskedLM, BertConfig(**SIZES, max_position_embeddings=32)),
}
IDS = torch.randint(0, 128, (2, 9))


def exact(module: Any) -> Any:
    """The model in evaluation mode, without the CPU kernel that rounds weights to bf16."""
    for layer in module.modules():
        if isinstance(layer, bnb.nn.Linear4bit):
            layer.support_avx512bf16_for_cpu = False
    return module.eval()


def loaded(auto: Any, folder: Path, **options: Any) -> Any:
    return exact(auto.from_pretrained(folder, device_map={"": "cpu"}, dtype=torch.float32, **options))


@pytest.fixture(
    scope="module", params=[("llama", "nf4", True), ("llama", "fp4", False), ("bert", "nf4", True)], ids=str
)
def theirs(request, tmp_path_factory) -> tuple[Any, Path, Tensor]:
    """A folder that transformers wrote in 4 bit, how to load it there, and the logits."""
    name, kind, double = request.param
    auto, config = MODELS[name]
    folder = tmp_path_factory.mktemp("bitsandbytes")
    torch.manual_seed(0)
    auto.from_config(config).save_pretrained(folder / "full")
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=torch.float32,
    )
    module = loaded(auto, folder / "full", quantization_config=quantization)
    with torch.no_grad():
        logits = module(IDS).logits
    module.save_pretrained(folder / "4bit")
    return auto, folder, logits


def test_zoo_loads_what_transformers_saved(theirs):
    auto, folder, logits = theirs
    model = zoo.load(str(folder / "4bit"), device="cpu")
    torch.testing.assert_close(model(IDS).logits.detach(), logits, rtol=1e-5, atol=1e-5)
    assert model.scheme is not None
    assert model.scheme.bits == 4
    assert not hasattr(model.module.config, "quantization_config")
    linear = sum(isinstance(layer, bnb.nn.Linear4bit) for layer in loaded(auto, folder / "4bit").modules())
    assert sum(width < 5 for _, _, _, width, _ in model.weights()) == linear
    with pytest.raises(zoo.CheckpointError, match="leave bits out"):
        zoo.load(str(folder / "4bit"), bits=8, device="cpu")


def test_transformers_loads_what_zoo_saved(theirs, tmp_path):
    auto, folder, logits = theirs
    model = zoo.load(str(folder / "4bit"), device="cpu")
    model.save(tmp_path / "a", packed=True)
    with torch.no_grad():
        torch.testing.assert_close(loaded(auto, tmp_path / "a")(IDS).logits, logits, rtol=0, atol=0)
    again = zoo.load(str(tmp_path / "a"), device="cpu")
    again.save(tmp_path / "b", packed=True)
    assert [digest(path) for path in sorted((tmp_path / "a").iterdir())] == [
        digest(path) for path in sorted((tmp_path / "b").iterdir())
    ]
    assert again.fingerprint == model.fingerprint
    stored, written = (load_file(one / "model.safetensors") for one in (folder / "4bit", tmp_path / "a"))
    assert stored.keys() == written.keys()
    assert all(stored[name].equal(written[name]) for name in stored if "quant_state" not in name)


def test_the_base_is_one_whoever_loads_it(theirs, tmp_path, perturb):
    """An adapter made on zoo's is one for transformers' model in 4 bit, which saves the same file when wrapped."""
    auto, folder, _ = theirs
    model = zoo.load(str(folder / "4bit"), lora=4, device="cpu")
    perturb(model)
    model.save_adapter(tmp_path / "adapter")
    wrapped = zoo.wrap(loaded(auto, folder / "4bit"), lora=tmp_path / "adapter")
    torch.testing.assert_close(wrapped(IDS).logits, model(IDS).logits, rtol=1e-5, atol=1e-5)
    wrapped.deactivate()
    wrapped.save(tmp_path / "wrapped", packed=True)
    model.deactivate()
    model.save(tmp_path / "own", packed=True)
    assert digest(tmp_path / "wrapped" / "model.safetensors") == digest(tmp_path / "own" / "model.safetensors")


def test_what_transformers_cannot_say_is_written_in_zoos_own_format(theirs, tmp_path):
    """Embeddings in 4 bit; transformers then says that it finds no weights, and does not begin with random ones."""
    auto, folder, _ = theirs
    model = zoo.load(str(folder / "full"), bits=4, device="cpu")
    model.save(tmp_path, packed=True)
    assert (tmp_path / "packed.safetensors").is_file()
    assert not (tmp_path / "model.safetensors").exists()
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        auto.from_pretrained(tmp_path)
    torch.testing.assert_close(zoo.load(str(tmp_path), device="cpu")(IDS).logits, model(IDS).logits, rtol=0, atol=0)


def test_a_model_of_which_one_weight_was_merged_is_loaded_by_transformers(theirs, tmp_path, perturb):
    """The merged weight is dense, and named among those that are not quantized."""
    auto, folder, _ = theirs
    probe = zoo.load(str(folder / "4bit"), device="cpu")
    target = next(name for name, _, _, width, _ in probe.weights() if width < 5).removesuffix(".weight")
    model = zoo.load(str(folder / "4bit"), lora=zoo.LoRA(4, targets=[target]), device="cpu")
    perturb(model)
    model.merge()
    model.save(tmp_path, packed=True)
    with torch.no_grad():
        torch.testing.assert_close(loaded(auto, tmp_path)(IDS).logits, model(IDS).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("what", ["absmax", "quant_map", "short", "state", "block", "lacking"])
def test_damaged_parts_are_refused(what, tmp_path):
    auto, config = MODELS["llama"]
    torch.manual_seed(0)
    auto.from_config(config).save_pretrained(tmp_path)
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    loaded(auto, tmp_path, quantization_config=quantization).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.0.mlp.up_proj.weight"
    state = f"{name}.quant_state.bitsandbytes__nf4"
    told = json.loads(bytes(tensors[state].tolist()))
    if what == "absmax":
        tensors[f"{name}.absmax"] = tensors[f"{name}.absmax"][1:].clone()
    elif what == "quant_map":
        tensors[f"{name}.quant_map"] = tensors[f"{name}.quant_map"].flip(0).contiguous()
    elif what == "short":
        tensors[name] = tensors[name][1:].clone()
    elif what == "lacking":
        del tensors[f"{name}.absmax"]
    else:
        text = json.dumps(told | {"blocksize": 3})[: None if what == "block" else 20]
        tensors[state] = torch.tensor(list(text.encode()), dtype=torch.uint8)
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(zoo.CheckpointError, match="up_proj"):
        zoo.load(str(tmp_path), device="cpu")


def test_other_quantizations_of_files_are_refused(tmp_path):
    auto, config = MODELS["llama"]
    auto.from_config(config).save_pretrained(tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    for method in ({"quant_method": "gptq", "bits": 4}, {"quant_method": "bitsandbytes", "load_in_8bit": True}):
        (tmp_path / "config.json").write_text(json.dumps({**told, "quantization_config": method}))
        with pytest.raises(zoo.CheckpointError, match="quantized already"):
            zoo.load(str(tmp_path), device="cpu")


def test_a_wrapped_model_is_no_quantized_one_to_its_library(theirs, tmp_path):
    """It saves dense weights without calling them quantized, and casts; afterwards it is what it was."""
    auto, folder, logits = theirs
    module = loaded(auto, folder / "4bit")
    told = module.config.quantization_config
    model = zoo.wrap(module, lora=4)
    assert not getattr(module, "is_quantized", False)
    module.save_pretrained(tmp_path)
    dense = auto.from_pretrained(tmp_path).eval()
    assert not any(isinstance(layer, bnb.nn.Linear4bit) for layer in dense.modules())
    with torch.no_grad():
        torch.testing.assert_close(dense(IDS).logits, logits, rtol=1e-5, atol=1e-5)
        model.module.bfloat16()
        torch.testing.assert_close(model(IDS).logits.float(), logits, rtol=0.05, atol=0.05)
    model.unload()
    assert module.is_quantized
    assert module.config.quantization_config is told
