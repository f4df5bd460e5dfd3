"""New heads on masked language models' bodies: all tasks, their files, and PEFT's reading of them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo

WORDS = ["the", "file", "is", "not", "a", "value", "of", "name"]
KINDS = ["bert", "roberta", "distilbert", "electra", "modernbert"]


def texts(count: int) -> list[str]:
    return [" ".join(random.choices(WORDS, k=random.randint(2, 7))) for _ in range(count)]


def examples(task: str) -> tuple[list[str] | None, list[Any]]:
    """Return classes, and data from which they can be told."""
    given = texts(40)
    if task == "regress":
        return None, [(text, float("not" in text.split())) for text in given]
    if task == "multilabel":
        names = ["not", "file", "value"]
        return names, [(text, [name for name in names if name in text.split()]) for text in given]
    if task == "tokens":
        return ["O", "B-NOT"], [
            (text.split(), ["B-NOT" if word == "not" else "O" for word in text.split()]) for text in given
        ]
    return ["no", "yes"], [(text, "yes" if "not" in text.split() else "no") for text in given]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["classify", "multilabel", "regress", "tokens"])
@pytest.mark.parametrize("bits", [None, 4])
def test_it_is_tuned_saved_and_loaded_again(make, tmp_path: Path, task: str, bits: int | None) -> None:
    folder = make("bert")
    classes, data = examples(task)
    model = zoo.load(str(folder), classes=classes, task=task, lora=4, bits=bits, device="cpu", seed=0)
    batch = next(iter(model.batches(data, batch_size=6, split="test")))
    assert model.loss(batch).item() == pytest.approx(model.module(**batch).loss.item(), rel=1e-6)
    whole = zoo.Data(data, split="all")
    before = model.evaluate(whole)["loss" if task != "regress" else "mse"]
    model.tune(data, steps=25, batch_size=8, lr=3e-3, seed=0, quiet=True)
    assert model.evaluate(whole)["loss" if task != "regress" else "mse"] < before
    model.save_adapter(tmp_path / "saved")
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    wanted = model.module.eval()(**inputs).logits
    loaded = zoo.load(str(tmp_path / "saved"), bits=bits, device="cpu")
    assert torch.equal(loaded.module(**inputs).logits, wanted)
    assert loaded.entry.head == model.entry.head
    model.save(tmp_path / "whole")
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert config["architectures"] == [type(model.module).__name__]
    assert classes is None or list(config["id2label"].values()) == classes
    alone = zoo.load(str(tmp_path / "whole"), device="cpu")
    assert torch.allclose(alone.module(**inputs).logits, wanted, atol=1e-5)
    assert [*alone.evaluate(whole), "seen_in_training"] == list(model.evaluate(whole))


@pytest.mark.parametrize("kind", KINDS)
def test_the_body_is_the_checkpoints(make, kind: str) -> None:
    from transformers import AutoModel

    folder = make(kind)
    model = zoo.load(str(folder), classes=["a", "b", "c"], device="cpu")
    body = getattr(model.module, model.module.base_model_prefix)
    ids = torch.randint(5, 60, (2, 9))
    wanted = AutoModel.from_pretrained(folder).eval()(input_ids=ids).last_hidden_state
    assert torch.allclose(body(input_ids=ids).last_hidden_state, wanted, atol=1e-5)
    assert model.module.config.id2label == {0: "a", 1: "b", 2: "c"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_body_alone_gets_a_head(make, tmp_path: Path, kind: str) -> None:
    from transformers import AutoModel

    body = AutoModel.from_pretrained(make(kind))
    body.save_pretrained(tmp_path / "body")
    model = zoo.load(str(tmp_path / "body"), classes=3, device="cpu")
    stored = body.state_dict()
    found = {name.partition(".")[2]: tensor for name, tensor in model.module.state_dict().items()}
    kept = [name for name in stored if name in found and "pooler" not in name]
    assert len(kept) > 10
    assert all(torch.equal(found[name], stored[name]) for name in kept)
    with pytest.raises(zoo.ZooError, match="body without a head"):
        zoo.load(str(tmp_path / "body"), device="cpu").loss({"input_ids": torch.ones(1, 3, dtype=torch.long)})


@pytest.mark.parametrize(
    ("task", "targets"), [("classify", "all"), ("classify", ["query", "value"]), ("tokens", "all")]
)
def test_peft_reads_it_back(make, tmp_path: Path, task: str, targets: Any) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

    folder = make("bert")
    lora = zoo.LoRA(rank=3, targets=targets)
    model = zoo.load(str(folder), classes=["a", "b", "c"], task=task, lora=lora, device="cpu")
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_adapter(tmp_path / "saved")
    fields = json.loads((tmp_path / "saved" / "adapter_config.json").read_text())
    assert fields["task_type"] == {"classify": "SEQ_CLS", "tokens": "TOKEN_CLS"}[task]
    maker = AutoModelForTokenClassification if task == "tokens" else AutoModelForSequenceClassification
    theirs = PeftModel.from_pretrained(maker.from_pretrained(folder, num_labels=3), tmp_path / "saved").eval()
    ids = torch.randint(5, 60, (2, 9))
    assert torch.allclose(model.module(input_ids=ids).logits, theirs(input_ids=ids).logits, atol=1e-5)


def test_the_first_token_of_a_word_has_its_tag(make) -> None:
    model = zoo.load(str(make("bert")), classes=["O", "B-X"], task="tokens", device="cpu")
    words, tags = ["the", "zqj", "file"], ["O", "B-X", "O"]
    batch = next(iter(model.batches(zoo.Data([(words, tags)], split="all"), batch_size=1, split="test")))
    assert batch["labels"].tolist() == [[-100, 0, 1, -100, -100, 0, -100]]  # [CLS] the z ##q ##j file [SEP]
    assert [said.split() for said in model.sample(text="the zqj file").data[0].split("  ")][1][0] == "zqj"


def test_a_trained_classifier_goes_or_stays_by_its_names(make) -> None:
    folder = make("bert", classes=["bad", "good"])
    ids = {"input_ids": torch.randint(5, 60, (2, 9))}
    own = zoo.load(str(folder), device="cpu").module(**ids).logits
    assert torch.equal(zoo.load(str(folder), classes=["bad", "good"], device="cpu").module(**ids).logits, own)
    turned = zoo.load(str(folder), classes=["good", "bad"], device="cpu").module(**ids).logits
    assert torch.allclose(turned, own.flip(1), atol=1e-6)
    other = zoo.load(str(folder), classes=["cat", "dog"], lora=2, device="cpu")
    assert other.entry.head is not None
    assert other.entry.head.modules == ("classifier",)  # its pooler is trained, and stays


def test_facts_say_it(make) -> None:
    from zoo.plugin import hooks

    entry = zoo.load(str(make("bert")), classes=["a", "b"], device="meta").entry
    assert hooks.describe(entry)["classes"] == "a, b"


def test_an_adapter_of_pefts_own_needs_its_classes_said(make, tmp_path: Path) -> None:
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import AutoModelForSequenceClassification

    folder = make("bert")
    base = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS, r=2, target_modules=["query"], modules_to_save=["classifier", "pooler"]
    )
    theirs = get_peft_model(base, config)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.eval().save_pretrained(tmp_path / "peft")
    with pytest.raises(zoo.AdapterError, match=r"give classes=\[…\]"):
        zoo.load(str(folder), lora=str(tmp_path / "peft"), device="cpu")
    model = zoo.load(str(folder), classes=["a", "b", "c"], lora=str(tmp_path / "peft"), device="cpu")
    ids = torch.randint(5, 60, (2, 9))
    assert torch.allclose(model.module(input_ids=ids).logits, theirs(input_ids=ids).logits, atol=1e-5)
    loaded = zoo.load(str(tmp_path / "peft"), classes=3, device="cpu")  # by the base that it names
    assert torch.allclose(loaded.module(input_ids=ids).logits, theirs(input_ids=ids).logits, atol=1e-5)
