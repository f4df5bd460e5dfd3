"""Token ids that a user brings: used as they are, with padding on either side, or refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.utils.data import DataLoader

import zoo


@pytest.fixture
def model(make) -> zoo.Model:
    return zoo.load(str(make("gpt2")), device="cpu")


def lone_loss(model: zoo.Model, rows: list[list[int]]) -> float:
    total, count = 0.0, 0
    for row in rows:
        ids = torch.tensor([row])
        with torch.no_grad():
            logits = model.module(input_ids=ids, use_cache=False).logits[0, :-1].double()
        total += functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        count += len(row) - 1
    return total / count


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bloom", "opt"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("labelled", [False, True])
def test_padding_on_either_side_counts_nowhere(make, kind: str, side: str, labelled: bool) -> None:
    model = zoo.load(str(make(kind)), device="cpu")
    rows = [torch.randint(3, 90, (length,)).tolist() for length in (4, 9, 6)]
    pads = [[0] * (9 - len(row)) for row in rows]
    whole = [pad + row if side == "left" else row + pad for row, pad in zip(rows, pads, strict=True)]
    ones = [[0 * p for p in pad] + [1] * len(row) for row, pad in zip(rows, pads, strict=True)]
    mask = torch.tensor([one if side == "left" else one[::-1] for one in ones])
    data = {"input_ids": torch.tensor(whole), "attention_mask": mask}
    data |= {"labels": torch.tensor(whole)} if labelled else {}
    expected = lone_loss(model, rows)
    assert model.loss(data).item() == pytest.approx(expected, rel=1e-5)  # a batch of the user's own
    [batch] = model.batches(zoo.Data(data, split="all"), batch_size=3, split="test")
    assert model.loss(batch).item() == pytest.approx(expected, rel=1e-5)
    assert model.evaluate(zoo.Data(data, split="all"))["loss"] == pytest.approx(expected, rel=1e-5)


def test_labels_that_mask_the_prompt_stay(model: zoo.Model) -> None:
    ids = torch.arange(5, 21)[None].repeat(2, 1)
    labels = ids.clone()
    labels[:, :8] = -100
    data = zoo.Data({"input_ids": ids, "labels": labels}, split="all")
    batch = next(iter(model.batches(data, batch_size=2)))
    assert torch.equal(batch["labels"], labels)
    ours = model.module(input_ids=ids, labels=labels).loss
    assert model.loss(batch).item() == pytest.approx(ours.item(), rel=1e-5)
    assert model.evaluate(data)["loss"] == pytest.approx(ours.item(), rel=1e-5)


def test_positions_are_the_users(model: zoo.Model) -> None:
    ids, positions = torch.randint(3, 90, (2, 8)), torch.arange(20, 28)[None].repeat(2, 1)
    [batch] = model.batches(
        zoo.Data({"input_ids": ids, "position_ids": positions}, split="all"), batch_size=2, split="test"
    )
    logits = model.module(input_ids=ids, position_ids=positions).logits[:, :-1]
    expected = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    assert model.loss(batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_every_form_of_token_rows_is_the_same(model: zoo.Model) -> None:
    import datasets

    ids = torch.randint(3, 90, (20, 8))
    rows = [{"input_ids": row, "labels": [-100, -100, *row[2:]]} for row in ids.tolist()]
    forms: list[Any] = [
        rows,
        {"input_ids": ids, "labels": torch.tensor([row["labels"] for row in rows])},
        datasets.Dataset.from_list(rows),
        DataLoader(datasets.Dataset.from_list(rows).with_format("torch"), batch_size=3),
    ]
    found = [list(model.batches(form, batch_size=4, split="test")) for form in forms]
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            assert one.keys() == same.keys()
            assert all(torch.equal(one[name], same[name]) for name in one)
    held = {tuple(row) for batch in found[0] for row in batch["input_ids"].tolist()}
    trained = next(iter(model.batches(rows, batch_size=18)))["input_ids"].tolist()
    assert held.isdisjoint(map(tuple, trained))


def test_rows_of_several_lengths_are_padded(model: zoo.Model) -> None:
    rows = [torch.randint(3, 90, (length,)).tolist() for length in (4, 9, 6)]
    data = zoo.Data([{"input_ids": row} for row in rows], split="all")
    [batch] = model.batches(data, batch_size=3, split="test")
    assert batch["attention_mask"].sum(1).tolist() == [4, 9, 6]
    assert model.loss(batch).item() == pytest.approx(lone_loss(model, rows), rel=1e-5)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"loss_mask": torch.ones(2, 8)}, "does not use 'loss_mask'"),
        ({"atention_mask": torch.ones(2, 8)}, "Did you mean 'attention_mask'"),
        ({"labels": torch.zeros(2, 7).long()}, "8,\\) token ids and \\(7,\\) labels"),
        ({"labels": torch.tensor([1, 0])}, "a label|labels for each token"),
        ({"attention_mask": torch.full((2, 8), 2)}, "attention_mask of 0 and 1"),
        ({"labels": torch.full((2, 8), -100)}, "a label to predict in every row"),
    ],
)
def test_what_would_be_ignored_or_does_not_fit_is_refused(model: zoo.Model, more: dict[str, Any], said: str) -> None:
    data = zoo.Data({"input_ids": torch.randint(3, 90, (2, 8)), **more}, split="all")
    with pytest.raises(zoo.DataError, match=said) as caught:
        model.batches(data, batch_size=2)
    assert "\n" not in str(caught.value)


def test_a_key_that_the_architecture_lacks_is_refused(make) -> None:
    model = zoo.load(str(make("llama")), device="cpu")
    ids = torch.randint(3, 90, (2, 8))
    with pytest.raises(zoo.DataError, match="does not use 'token_type_ids'"):
        model.batches({"input_ids": ids, "token_type_ids": torch.zeros_like(ids)}, batch_size=2)
    with pytest.raises(zoo.DataError, match="does not use 'token_type_ids'"):
        model.loss({"input_ids": ids, "token_type_ids": torch.zeros_like(ids)})
