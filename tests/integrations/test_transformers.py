"""What the plugins for transformers' models share. Their own tests cover it with the architectures' real layouts."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

import zoo
from zoo.integrations import transformers as library
from zoo.integrations.transformers_config import library_config

VALUES = {"model_type": "bert", "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
VALUES |= {"intermediate_size": 24, "max_position_embeddings": 16}


def entry(**options) -> zoo.Entry:
    return zoo.Entry(name="tiny", plugin=None, **options)


def build(values=VALUES):
    from transformers import AutoModelForMaskedLM

    config = library_config(entry(), values, known=lambda kind: kind == "bert", called="a BERT")
    return AutoModelForMaskedLM.from_config(config).eval()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "got none"),
        ({"model_type": "gpt2"}, "expected a model_type that transformers knows as a BERT, got 'gpt2'"),
        ({**VALUES, "quantization_config": {"bits": 4}}, "quantized already"),
        ({**VALUES, "hidden_size": "wide"}, "no valid bert configuration"),
    ],
)
def test_configurations_that_cannot_be(values, message):
    with pytest.raises(zoo.CheckpointError, match=message) as caught:
        library_config(entry(), values, known=lambda kind: kind == "bert", called="a BERT")
    assert "\n" not in str(caught.value)


def test_code_that_comes_with_a_configuration_is_forgotten():
    config = library_config(
        entry(), {**VALUES, "auto_map": {"AutoModel": "evil.Model"}}, known=lambda _: True, called="a BERT"
    )
    assert not hasattr(config, "auto_map")


def test_names_old_and_new_and_what_is_ignored(tmp_path):
    module = build()
    module.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    stored = {name.replace("LayerNorm.weight", "LayerNorm.gamma"): value for name, value in load_file(file).items()}
    stored |= {"bert.pooler.dense.bias": torch.zeros(16), "extra": torch.zeros(1)}
    save_file(stored, file)
    named = dict(library.named_tensors(entry(folder=tmp_path), module, ignored=lambda name: "pooler" in name))
    own = dict(module.named_parameters())
    assert named.keys() == own.keys() | {"extra"}
    assert all(torch.equal(named[name], own[name]) for name in own)


def test_ties_are_one_object_after_a_meta_context():
    from zoo.loading.empty import meta_parameters

    with meta_parameters():
        module = build()
        library.tie(module)
    assert library.ties(module)
    for alias, source in library.ties(module).items():
        assert module.get_parameter(alias) is module.get_parameter(source)


def test_a_folder_without_a_tokenizer(tmp_path):
    with pytest.raises(zoo.CheckpointError, match=r"expected a tokenizer\.json .* got no files"):
        library.read_tokenizer(str(tmp_path))
