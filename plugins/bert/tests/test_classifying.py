"""Classifiers: their data in folders and lists, the loss, posteriors and metrics."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional

import zoo

CLASSES = ["bad", "good"]
PAIRS = [
    (f"the file is {'not' if at % 2 == 0 else 'a'} value {chr(97 + at % 26)}{at % 7 * 'x'}", at % 2) for at in range(40)
]


def splits(model: zoo.Model, data: object) -> list[list[tuple[str, int]]]:
    """Return the texts and labels of the split "test", and those of one pass over "train"."""
    from zoo.integrations.transformers import tokenizer_of

    tokenizer = tokenizer_of(model.entry)
    found = []
    for split in ("test", "train"):
        rows: dict[str, int] = {}
        for batch in itertools.islice(model.batches(data, batch_size=16, split=split), 8):
            texts = tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)
            rows |= dict(zip(texts, batch["labels"].tolist(), strict=True))
        found.append(list(rows.items()))
    return found


@pytest.fixture
def model(make) -> zoo.Model:
    return zoo.load(str(make("bert", classes=CLASSES)), device="cpu")


def write(root: Path, names: list[str], count: int) -> Path:
    for label, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for at in range(count):
            (root / name / f"{at:02}.txt").write_text(PAIRS[2 * at % 40 + label][0])
    return root


def test_a_list_of_pairs(model: zoo.Model) -> None:
    batch = next(iter(model.batches(zoo.Data(PAIRS, split="all"), batch_size=8, split="test")))
    assert batch["labels"].tolist() == [0, 1] * 4
    held, kept = ([text for text, _ in split] for split in splits(model, PAIRS))
    assert len(held) >= 4
    assert set(held).isdisjoint(kept)
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    assert batch["attention_mask"].sum(1).max() == batch["input_ids"].shape[1]
    logits = model.module(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    by_hand = functional.cross_entropy(logits, batch["labels"])
    assert math.isclose(model.loss(batch).item(), by_hand.item(), rel_tol=1e-5)
    assert math.isclose(model.loss(batch).item(), model.module(**batch).loss.item(), rel_tol=1e-5)


def test_datasets_and_names_are_the_same(model: zoo.Model) -> None:
    class Data(torch.utils.data.Dataset):
        def __len__(self):
            return len(PAIRS)

        def __getitem__(self, at):
            return {"text": PAIRS[at][0], "label": torch.tensor(PAIRS[at][1])}

    named = [(text, CLASSES[label]) for text, label in PAIRS]
    batches = [next(iter(model.batches(data, batch_size=16, seed=3))) for data in (PAIRS, Data(), named)]
    for other in batches[1:]:
        assert all(torch.equal(batches[0][name], other[name]) for name in other)


def test_folders_of_classes(model: zoo.Model, tmp_path: Path) -> None:
    root = write(tmp_path / "all", CLASSES, 20)
    train, test = (model.evaluate(root) if split == "test" else root for split in ("train", "test"))
    assert 0 <= test["accuracy"] <= 1
    labels = [label for batch in model.batches(train, batch_size=9, split="test") for label in batch["labels"].tolist()]
    assert labels.count(0) == labels.count(1) > 0  # a tenth of each class, equal texts together
    own = tmp_path / "own"
    write(own / "train", CLASSES, 3)
    write(own / "test", CLASSES[1:], 2)
    labels = [label for batch in model.batches(own, batch_size=9, split="test") for label in batch["labels"].tolist()]
    assert labels == [1, 1]


def test_classes_without_names_are_taken_in_order(make, tmp_path: Path) -> None:
    model = zoo.load(str(make("bert", classes=["LABEL_0", "LABEL_1"])), device="cpu")
    data = zoo.Data(write(tmp_path / "x", ["no", "yes"], 2), split="all")
    assert next(iter(model.batches(data, batch_size=4, split="test")))["labels"].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "texts with labels, got none"),
        ("nowhere", "expected a file or a folder"),
        ([], "hold nothing"),
        (["text alone"], r"give \(text, label\)"),
        ([("text", 2)], "from 0 to 1 or one of bad, good"),
        ([("text", "ugly")], "Its classes are bad, good"),
        ([{"text": "text"}], "label"),
    ],
)
def test_data_that_do_not_fit(model: zoo.Model, data, message: str) -> None:
    with pytest.raises(zoo.DataError, match=message) as caught:
        model.batches(data, batch_size=2)
    assert "\n" not in str(caught.value)


def test_folders_named_like_no_class(model: zoo.Model, tmp_path: Path) -> None:
    with pytest.raises(zoo.DataError, match=r"none of .*: left, right. Its classes are bad, good"):
        model.batches(write(tmp_path / "x", ["left", "right"], 2), batch_size=2)


def test_samples_are_posteriors(model: zoo.Model) -> None:
    samples = model.sample(texts=["the value", "a file is not it , None"], seed=0)
    assert samples.captions == ["the value", "a file is not it , None"]
    assert len(model.sample(3, text="the value")) == 3
    assert samples.data.equal(model.sample(texts=["the value", "a file is not it , None"], seed=1).data)
    assert (samples.kind, samples.labels) == ("posterior", CLASSES)
    with pytest.raises(zoo.ZooError, match="give text= or texts="):
        model.sample()


@pytest.mark.parametrize("bits", [None, 4])
def test_it_learns_to_tell_two_words_apart(make, tmp_path: Path, bits: int | None) -> None:
    folder = make("bert", classes=CLASSES)
    lora = zoo.LoRA(rank=4, targets="all") if bits else None
    model = zoo.load(str(folder), device="cpu", bits=bits, lora=lora, seed=0)
    model.tune(PAIRS, steps=60, batch_size=16, lr=3e-3, seed=0)
    metrics = model.evaluate(PAIRS)
    assert metrics["accuracy"] == 1.0
    assert metrics["loss"] < 0.2
    assert list(metrics) == ["accuracy", "loss", "calibration_error"]


def test_token_ids_with_classes_are_used_as_they_are(model: zoo.Model) -> None:
    ids = torch.randint(5, 60, (12, 9))
    mask = torch.ones_like(ids)
    ids[::2, 6:], mask[::2, 6:] = 0, 0
    kinds = torch.randint(2, (12, 9))
    labels = torch.arange(12) % 2
    data = zoo.Data({"input_ids": ids, "attention_mask": mask, "token_type_ids": kinds, "labels": labels}, split="all")
    [batch] = model.batches(data, batch_size=12, split="test")
    expected = model.module(input_ids=ids, attention_mask=mask, token_type_ids=kinds, labels=labels).loss
    assert model.loss(batch).item() == pytest.approx(expected.item(), rel=1e-5)
    assert model.evaluate(data)["loss"] == pytest.approx(expected.item(), rel=1e-4)
    with pytest.raises(zoo.DataError, match="does not use 'idx'"):
        model.batches({"input_ids": ids, "labels": labels, "idx": labels}, batch_size=2)
    with pytest.raises(zoo.DataError, match="expected labels beside the token ids"):
        model.batches({"input_ids": ids}, batch_size=2)


def test_pairs_of_texts_are_sent_as_the_tokenizer_sends_them(model: zoo.Model) -> None:
    from zoo.integrations.transformers import tokenizer_of

    table = {
        "premise": ["the file", "a name of it"],
        "hypothesis": ["it is not", "the value"],
        "label": ["bad", "good"],
    }
    data = zoo.Data(table, columns={"text": "premise", "text_pair": "hypothesis"}, split="all")
    [batch] = model.batches(data, batch_size=2, split="test")
    sent = tokenizer_of(model.entry)(table["premise"], table["hypothesis"], padding=True, return_tensors="pt")
    assert sent["token_type_ids"].any()
    assert all(torch.equal(batch[name], sent[name]) for name in sent)
    assert batch["labels"].tolist() == [0, 1]
