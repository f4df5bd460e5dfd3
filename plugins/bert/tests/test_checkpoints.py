"""Checkpoints in the layouts in which they are published: the same logits as transformers' own loading."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

import zoo

KINDS = ["bert", "roberta", "distilbert", "electra", "modernbert"]
CLASSES = ["bad", "good", "neither"]


def same_logits(folder: Path, maker=AutoModelForMaskedLM, original: Path | None = None) -> zoo.Model:
    """Loads `folder` with zoo and with transformers, and compares, padding included."""
    expected = maker.from_pretrained(original or folder, dtype=torch.float32).eval()
    model = zoo.load(str(folder), device="cpu")
    assert type(model.module) is type(expected)
    ids, attention = torch.randint(5, 100, (2, 20)), torch.ones(2, 20, dtype=torch.int64)
    attention[1, 12:], ids[1, 12:] = 0, 0
    with torch.no_grad():
        ours, theirs = (each(input_ids=ids, attention_mask=attention).logits for each in (model.module, expected))
    assert torch.equal(ours, theirs)
    return model


def rewrite(folder: Path, change, *, pickled: bool = False) -> Path:
    file = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in change(load_file(file)).items()}
    file.unlink()  # not written over: what is mapped of it elsewhere keeps its values
    if pickled:
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        save_file(tensors, file, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_as_transformers_writes_it(make, kind: str) -> None:
    same_logits(make(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_a_classifier_as_transformers_writes_it(make, kind: str) -> None:
    same_logits(make(kind, classes=CLASSES), AutoModelForSequenceClassification)


@pytest.mark.parametrize("pickled", [False, True])
def test_bert_as_google_published_it(make, pickled: bool) -> None:
    """gamma and beta, both objectives' heads, the pooler, and positions as a buffer; the decoder's bias not apart."""

    def original(tensors):
        old = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
            for name, tensor in tensors.items()
        }
        assert "cls.predictions.decoder.bias" not in old
        return old | {
            "bert.pooler.dense.weight": torch.randn(32, 32),
            "bert.pooler.dense.bias": torch.randn(32),
            "cls.seq_relationship.weight": torch.randn(2, 32),
            "cls.seq_relationship.bias": torch.randn(2),
            "bert.embeddings.position_ids": torch.arange(40)[None],
        }

    model = same_logits(rewrite(make("bert"), original, pickled=pickled))
    head, embeddings = model.module.cls.predictions, model.module.bert.embeddings
    assert head.decoder.weight is embeddings.word_embeddings.weight
    assert head.decoder.bias is head.bias
    assert torch.equal(embeddings.position_ids, torch.arange(40)[None])


def test_a_head_that_is_stored_too(make) -> None:
    def both(tensors):
        return tensors | {
            "cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"],
            "cls.predictions.decoder.bias": tensors["cls.predictions.bias"],
        }

    same_logits(rewrite(make("bert"), both))


def test_pretraining_repositories_fill_masks(make, tmp_path: Path) -> None:
    from transformers import BertConfig, BertForPreTraining

    values = json.loads((make("bert") / "config.json").read_text())
    module = BertForPreTraining(BertConfig.from_dict(values)).eval()
    module.save_pretrained(tmp_path / "both")
    model = zoo.load(str(tmp_path / "both"), device="cpu")
    ids = torch.randint(5, 100, (2, 20))
    with torch.no_grad():
        difference = model.module(input_ids=ids).logits - module(input_ids=ids).prediction_logits
    assert difference.abs().max() < 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bare", [False, True])
def test_a_classifier_on_a_checkpoint_without_one(make, kind: str, bare: bool) -> None:
    """From a masked language model, also from its body alone, whose names have no prefix: a new head on old weights."""
    folder = make(kind)
    prefix = AutoModelForMaskedLM.from_pretrained(folder).base_model_prefix + "."
    before = load_file(folder / "model.safetensors")
    if bare:
        rewrite(folder, lambda tensors: {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
    config = json.loads((folder / "config.json").read_text())
    name = config["architectures"][0].replace("ForMaskedLM", "ForSequenceClassification")
    config |= {"architectures": [name], "id2label": dict(enumerate(CLASSES))}
    (folder / "config.json").write_text(json.dumps(config))
    first, second = (zoo.load(str(folder), device="cpu", bits=bits) for bits in (None, None))
    assert type(first.module).__name__ == name
    assert first.module.config.num_labels == 3
    own, other = first.state_dict(), second.state_dict()
    assert all(torch.equal(own[key], other[key]) for key in own)
    shared = {key for key in own.keys() & before.keys() if key.startswith(prefix) or not bare}
    assert all(torch.equal(own[key], before[key]) for key in shared)
    assert {key for key in before if key.startswith(prefix)} - own.keys() <= {f"{prefix}embeddings.position_ids"}
    ids = torch.randint(5, 100, (2, 20))
    assert first.module(input_ids=ids).logits.shape == (2, 3)
    first.save(folder.parent / "saved")
    same_logits(folder.parent / "saved", AutoModelForSequenceClassification)


def test_half_a_classifier_is_an_error(make) -> None:
    folder = rewrite(
        make("bert", classes=CLASSES), lambda tensors: {n: t for n, t in tensors.items() if n != "classifier.bias"}
    )
    with pytest.raises(zoo.CheckpointError, match=r"lacks 1 \(classifier\.bias\)"):
        zoo.load(str(folder), device="cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: {n: t for n, t in tensors.items() if "word_emb" not in n}, "lacks"),
        (lambda tensors: {n: t for n, t in tensors.items() if not n.startswith("cls.")}, "lacks"),
        (lambda tensors: tensors | {"bert.encoder.layer.7.output.dense.bias": torch.zeros(32)}, "unexpected"),
        (lambda tensors: tensors | {"cls.predictions.decoder.weight": torch.randn(120, 32)}, "two that differ"),
    ],
)
def test_checkpoints_of_something_else(make, change, message: str) -> None:
    with pytest.raises(zoo.CheckpointError, match=message) as caught:
        zoo.load(str(rewrite(make("bert"), change)), device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantization_config": {"bits": 4}}, "quantized already"),
        ({"model_type": "someones-bert"}, "never run"),
    ],
)
def test_configurations_that_cannot_be(make, changes: dict, message: str) -> None:
    folder = make("bert")
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(zoo.CheckpointError, match=message) as caught:
        zoo.load(str(folder), device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_as_the_library_loads_it(make, tmp_path: Path, kind: str) -> None:
    model = zoo.load(str(make(kind)), device="cpu", bits=4, lora=zoo.LoRA(rank=2, targets="all"))
    with torch.no_grad():
        for name, parameter in model.trainable_parameters():
            if "lora_B" in name or name.endswith(".b"):
                parameter.normal_(std=0.1)
    model.save(tmp_path / "saved")
    again = AutoModelForMaskedLM.from_pretrained(tmp_path / "saved").eval()
    ids = torch.randint(5, 100, (2, 20))
    with torch.no_grad():
        difference = again(input_ids=ids).logits - model.module.eval()(input_ids=ids).logits
    assert difference.abs().max() < 1e-4
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").mask_token == "[MASK]"


def test_what_is_recognised() -> None:
    import zoo_bert.facts

    assert zoo_bert.facts.recognises({"architectures": ["ModernBertForMaskedLM"]})
    assert zoo_bert.facts.recognises({"architectures": ["BertForPreTraining"], "model_type": "bert"})
    assert zoo_bert.facts.recognises({"architectures": ["RobertaForSequenceClassification"], "model_type": "roberta"})
    assert not zoo_bert.facts.recognises({"architectures": ["GPT2ForSequenceClassification"], "model_type": "gpt2"})
    assert not zoo_bert.facts.recognises({"architectures": ["ViTMAEForPreTraining"], "model_type": "vit_mae"})
    assert not zoo_bert.facts.recognises({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"})
    assert not zoo_bert.facts.recognises({"_class_name": "UNet2DModel"})
