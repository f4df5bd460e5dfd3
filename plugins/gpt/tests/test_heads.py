"""New heads on decoders: the last token that is not padding decides, as in transformers."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

import zoo

WORDS = ["the", "file", "is", "not", "a", "value"]
KINDS = ["gpt2", "llama", "qwen2"]


def data(count: int = 40) -> list[tuple[str, str]]:
    texts = [" ".join(random.choices(WORDS, k=random.randint(2, 7))) for _ in range(count)]
    return [(text, "yes" if "not" in text.split() else "no") for text in texts]


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_token_that_is_not_padding_decides(make, kind: str) -> None:
    from transformers import AutoModelForSequenceClassification

    folder = make(kind)
    model = zoo.load(str(folder), classes=["no", "yes"], device="cpu", dtype=torch.float64)
    assert model.module.config.pad_token_id == 0  # the end of a text
    theirs = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=2, pad_token_id=0, dtype=torch.float64
    )
    theirs.load_state_dict(model.module.state_dict())
    pairs = data(9)
    batch = next(iter(model.batches(zoo.Data(pairs, split="all"), batch_size=9, split="test")))
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    logits = model.module(**inputs).logits
    assert torch.allclose(logits, theirs.eval()(**inputs).logits, atol=1e-12)
    for row, mask in enumerate(inputs["attention_mask"]):  # each text by itself, without padding
        alone = theirs(input_ids=inputs["input_ids"][row : row + 1, : int(mask.sum())]).logits
        assert torch.allclose(logits[row], alone[0], atol=1e-12)
    loss = model.module(**batch).loss
    assert model.loss(batch).item() == pytest.approx(loss.item(), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [None, 4])
def test_it_is_tuned_saved_and_loaded_again(make, tmp_path: Path, kind: str, bits: int | None) -> None:
    pairs = data()
    model = zoo.load(str(make(kind)), classes=["no", "yes"], lora=4, bits=bits, device="cpu", seed=0)
    whole = zoo.Data(pairs, split="all")
    before = model.evaluate(whole)["loss"]
    model.tune(pairs, steps=25, batch_size=8, lr=3e-3, seed=0, quiet=True)
    assert model.evaluate(whole)["loss"] < before
    model.save_adapter(tmp_path / "saved")
    loaded = zoo.load(str(tmp_path / "saved"), bits=bits, device="cpu")
    texts = ["the file", "not a file"]
    assert loaded.sample(texts=texts).data.equal(model.sample(texts=texts).data)
    wanted = {name: value for name, value in model.evaluate(whole).items() if name != "seen_in_training"}
    assert loaded.evaluate(whole) == wanted
    model.save(tmp_path / "whole")
    assert zoo.load(str(tmp_path / "whole"), device="cpu").evaluate(whole) == pytest.approx(wanted, abs=1e-4)


def test_tags_of_words(make) -> None:
    given = [text.split() for text, _ in data()]
    tagged = [(words, ["X" if word == "not" else "O" for word in words]) for words in given]
    model = zoo.load(str(make("gpt2")), classes=["O", "X"], task="tokens", lora=4, device="cpu", seed=0)
    batch = next(iter(model.batches(zoo.Data(tagged, split="all"), batch_size=40, split="test")))
    assert [(row[row != -100]).tolist() for row in batch["labels"]] == [
        [int(tag == "X") for tag in tags] for _, tags in tagged
    ]
    assert model.loss(batch).item() == pytest.approx(model.module(**batch).loss.item(), rel=1e-6)


@pytest.mark.parametrize("targets", ["all", ["c_attn"]])
def test_peft_reads_it_back(make, tmp_path: Path, targets: str | list[str]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    folder = make("gpt2")
    model = zoo.load(str(folder), classes=["a", "b", "c"], lora=zoo.LoRA(rank=3, targets=targets), device="cpu")
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_adapter(tmp_path / "saved")
    fields = json.loads((tmp_path / "saved" / "adapter_config.json").read_text())
    assert (fields["task_type"], fields["modules_to_save"]) == ("SEQ_CLS", ["score"])
    base = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3, pad_token_id=0)
    theirs = PeftModel.from_pretrained(base, tmp_path / "saved").eval()
    ids = torch.randint(1, 60, (2, 9))
    ids[1, 6:] = 0
    mask = (ids != 0).long()
    ours = model.module(input_ids=ids, attention_mask=mask).logits
    assert torch.allclose(ours, theirs(input_ids=ids, attention_mask=mask).logits, atol=1e-5)
