"""Batches with masks in them, the loss and held-out metrics."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.nn import functional

import zoo

LINES = [f"The name of file {index} is not the value of text {index}, it returns None." for index in range(60)]
TEXT = "\n\n".join(LINES)  # one continuous text


@pytest.fixture
def model(make) -> zoo.Model:
    return zoo.load(str(make("bert")), device="cpu")


def test_a_batch_holds_all_that_its_loss_needs(model: zoo.Model) -> None:
    batch = next(iter(model.batches(TEXT, batch_size=4, seed=1)))
    assert list(batch) == ["input_ids", "attention_mask", "labels"]
    assert all(each.shape == (4, 40) and each.dtype == torch.int64 for each in batch.values())
    assert torch.equal(model.loss(batch), model.loss(batch))
    again, other = (next(iter(model.batches(TEXT, batch_size=4, seed=seed))) for seed in (1, 2))
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    assert not torch.equal(batch["labels"], other["labels"])


def test_every_window_is_between_the_tokenizers_ends_and_every_token_comes_once(model: zoo.Model) -> None:
    from transformers import AutoTokenizer

    ids = []
    for batch in model.batches(TEXT, batch_size=7, split="test"):
        whole = torch.where(batch["labels"] == -100, batch["input_ids"], batch["labels"])
        for row, attention in zip(whole, batch["attention_mask"], strict=True):
            tokens = row[: attention.sum()].tolist()
            assert (tokens[0], tokens[-1]) == (2, 3)
            assert not row[attention.sum() :].any()
            ids += tokens[1:-1]
    tokenizer = AutoTokenizer.from_pretrained(model.entry.folder)
    from zoo.data.text import text_data

    assert ids == tokenizer("\n\n".join(text_data(TEXT, split="test")), add_special_tokens=False)["input_ids"]


def test_fifteen_in_a_hundred_of_which_eighty_ten_and_ten(model: zoo.Model) -> None:
    ids = torch.randint(5, 67, (400, 40))
    ids[:, 0], ids[:, -1] = 2, 3
    batch = next(iter(model.batches(ids, batch_size=400)))
    chosen = batch["labels"] != -100
    assert (chosen.sum(1) == 6).all()  # of 38
    assert not chosen[:, [0, -1]].any()
    inputs, labels = batch["input_ids"][chosen], batch["labels"][chosen]
    assert abs((inputs == 4).float().mean() - 0.8) < 0.03
    assert abs((inputs == labels).float().mean() - 0.1) < 0.03
    others = inputs[(inputs != 4) & (inputs != labels)]
    assert others.min() >= 5  # never a special token
    assert others.max() < 76  # the tokenizer's, not the model's 120


def test_the_loss_is_cross_entropy_at_the_places(model: zoo.Model) -> None:
    batch = list(model.batches(LINES[:30], batch_size=3, split="test"))[-1]  # with padding
    logits = model.module(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.double()
    by_hand = functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
    assert math.isclose(model.loss(batch).item(), by_hand.item(), rel_tol=1e-5)
    ours = model.module(**batch).loss
    assert math.isclose(model.loss(batch).item(), ours.item(), rel_tol=1e-5)


def test_ids_alone_make_a_batch(model: zoo.Model) -> None:
    batch = {"input_ids": torch.randint(5, 60, (4, 20))}
    torch.manual_seed(0)
    first, second = model.loss(batch), model.loss(batch)
    assert first != second
    torch.manual_seed(0)
    assert model.loss(batch) == first


@pytest.mark.parametrize(
    "ids", [torch.rand(4, 16), torch.zeros(4, dtype=torch.int64), torch.full((2, 41), 7), torch.full((2, 8), 3)]
)
def test_tensors_that_are_no_windows(model: zoo.Model, ids: torch.Tensor) -> None:
    with pytest.raises(zoo.DataError, match="expected"):
        model.batches(ids, batch_size=2)


def test_tokens_of_another_tokenizer(model: zoo.Model) -> None:
    with pytest.raises(zoo.CheckpointError, match="belongs to another model"):
        model.batches(torch.full((2, 8), 120), batch_size=2)


def test_batches_are_seeded_and_endless(model: zoo.Model) -> None:
    ids = torch.randint(5, 60, (10, 16))

    def first(seed: int) -> torch.Tensor:
        batches = model.batches(ids, batch_size=8, seed=seed)
        return torch.cat([batch["labels"] for batch in itertools.islice(batches, 4)])

    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))


def test_held_out_figures(model: zoo.Model) -> None:
    before = torch.get_rng_state()
    metrics = model.evaluate(LINES)
    assert list(metrics) == ["accuracy", "loss", "perplexity"]
    assert metrics == model.evaluate(LINES)
    assert torch.equal(before, torch.get_rng_state())
    assert math.isclose(math.exp(metrics["loss"]), metrics["perplexity"], rel_tol=1e-6)


def test_an_oracle_is_always_right(make) -> None:
    """One text of one word: a decoder that prefers it is right everywhere."""
    model = zoo.load(str(make("bert")), device="cpu")
    with torch.no_grad():
        model.module.cls.predictions.bias.zero_()
        model.module.cls.predictions.bias[5] = 1e3
    assert model.evaluate(["the " * 300])["accuracy"] == 1.0
    assert model.evaluate(["a " * 300])["accuracy"] == 0.0


def test_roberta_has_fewer_places_than_its_table_has_rows(make) -> None:
    model = zoo.load(str(make("roberta")), device="cpu")  # 41 rows, the first of padding
    batch = next(iter(model.batches(TEXT, batch_size=2)))
    assert batch["input_ids"].shape == (2, 40)
    assert model.loss(batch).isfinite()


def test_a_missing_tokenizer_and_one_without_a_mask(make) -> None:
    import json

    lacking = zoo.load(str(make("bert", tokenizer=False)), device="cpu")
    with pytest.raises(zoo.CheckpointError, match=r"tokenizer\.json"):
        lacking.batches(LINES, batch_size=2)
    folder = make("bert")
    file = folder / "tokenizer_config.json"
    config = {name: value for name, value in json.loads(file.read_text()).items() if "mask" not in name}
    file.write_text(json.dumps({**config, "tokenizer_class": "PreTrainedTokenizerFast"}))
    with pytest.raises(zoo.ZooError, match="without"):
        zoo.load(str(folder), device="cpu").batches(LINES, batch_size=2)


def test_no_window_spans_two_documents(model: zoo.Model) -> None:
    from zoo.integrations.transformers import tokenizer_of

    tokenizer = tokenizer_of(model.entry)
    texts = [*LINES[:20], "the value is a name " * 20]
    rows = []
    for batch in model.batches(zoo.Data(texts, split="all"), batch_size=4, split="test"):
        whole = torch.where(batch["labels"] == -100, batch["input_ids"], batch["labels"])
        rows += [tokenizer.decode(row, skip_special_tokens=True) for row in whole]
    for text in texts[:20]:
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) in rows
    assert " ".join(rows[20:]) == texts[20].strip()


def test_labels_and_masks_of_the_user_are_used_as_they_are(model: zoo.Model) -> None:
    ids = torch.randint(5, 60, (4, 12))
    labels = ids.masked_fill(torch.rand(ids.shape) < 0.5, -100)
    labels[:, 3] = ids[:, 3]
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    kinds = torch.randint(2, ids.shape)
    labels[0, :4] = -100
    labels[0, 5] = ids[0, 5]
    data = {"input_ids": ids, "labels": labels, "attention_mask": mask, "token_type_ids": kinds}
    expected = model.module(**data).loss
    [batch] = model.batches(zoo.Data(data, split="all"), batch_size=4, split="test")
    assert all(torch.equal(batch[name], data[name]) for name in data)
    assert model.loss(batch).item() == pytest.approx(expected.item(), rel=1e-5)
    assert model.evaluate(zoo.Data(data, split="all"))["loss"] == pytest.approx(expected.item(), rel=1e-4)
    assert zoo.plugin.hooks.count(model, batch) == (labels != -100).sum()
    for more, said in (({"special_mask": mask}, "does not use 'special_mask'"), ({"labels": mask[:, 0]}, "classes")):
        with pytest.raises(zoo.DataError, match=said):
            model.batches(zoo.Data({**data, **more}, split="all"), batch_size=4)


def test_conversations_are_none_of_its_data(model: zoo.Model) -> None:
    with pytest.raises(zoo.DataError, match=r"holds conversations; .* learns from prose, documents, tokens"):
        model.batches([{"messages": [{"role": "assistant", "content": "x"}]}], batch_size=1)
