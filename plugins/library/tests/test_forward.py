"""The library's own loss: used as it is, with every argument that is given, and with none that would be passed over."""

from __future__ import annotations

import pytest
import torch
from tiny_types import case, small_module
from torch.utils.data import DataLoader

import zoo


@pytest.fixture
def pairs(tmp_path):
    """T5 with a tokenizer, in a folder."""
    torch.manual_seed(0)
    case("t5", "SEQ_TO_SEQ_CAUSAL_LM", tmp_path)
    return zoo.load(str(tmp_path), lora=4, seed=0)


def rows(count: int = 40) -> list[dict[str, str]]:
    return [{"input": f"w{i % 20} w{i % 7}", "target": f"w{i % 20}"} for i in range(count)]


def test_the_loss_is_the_librarys(tmp_path, ids):
    module = small_module("bert", "MULTIPLE_CHOICE")
    module.save_pretrained(tmp_path)
    choices = torch.stack([ids, ids.flip(1)], 1)  # [2, choices, t]
    batch = {"input_ids": choices, "labels": torch.tensor([0, 1]), "attention_mask": torch.ones_like(choices)}
    model = zoo.load(str(tmp_path))
    assert torch.allclose(model.loss(batch), module(**batch).loss)


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        ({"input_id": 0}, "no argument 'input_id'.*Did you mean 'input_ids'"),
        ({"input_ids": 0}, "makes its loss of start_positions and end_positions, which the batch lacks"),
        ({"input_ids": 0, "start_positions": 99}, "makes its loss of end_positions"),
        (["input_ids"], "as a dict of tensors"),
    ],
)
def test_a_batch_that_does_not_fit(batch, says, tmp_path, ids):
    small_module("bert", "QUESTION_ANSWERING").save_pretrained(tmp_path)
    if isinstance(batch, dict):
        batch = {name: ids[:, 0] % 4 if value == 99 else ids for name, value in batch.items()}
    with pytest.raises(zoo.DataError, match=says):
        zoo.load(str(tmp_path)).loss(batch)


def test_labels_that_are_seen_are_refused(tmp_path, ids):
    small_module("xlnet", "CAUSAL_LM").save_pretrained(tmp_path)
    model = zoo.load(str(tmp_path))
    assert model.entry.plugin == "library"
    with pytest.raises(zoo.DataError, match=r"every label is the token at its own place.*permutations"):
        model.loss({"input_ids": ids, "labels": ids})
    with pytest.raises(zoo.ZooError, match="cannot continue a text"):
        model.sample(prompt="w1")
    mask = torch.eye(8).expand(2, 8, 8)
    assert model.loss({"input_ids": ids, "labels": ids, "perm_mask": mask}).isfinite()
    assert model.loss({"input_ids": ids.masked_fill(ids > 40, 4), "labels": ids}).isfinite()


def test_pairs_of_texts_train_and_are_answered(pairs):
    before = pairs.evaluate(rows())
    result = pairs.tune(rows(), steps=60, batch_size=16, lr=5e-3, seed=0)
    assert len(result.losses) == 60
    assert pairs.evaluate(rows())["loss"] < 0.8 * before["loss"]
    texts = pairs.sample(2, prompts=["w1 w2", "w3"], seed=0, max_new_tokens=4)
    assert len(texts.data) == 4
    assert texts.data == pairs.sample(2, prompts=["w1 w2", "w3"], seed=0, max_new_tokens=4).data


def test_the_padding_of_pairs_counts_nothing(pairs):
    short, long = {"input": "w1", "target": "w2"}, {"input": "w3 w4 w5 w6", "target": "w7 w8 w9"}
    data = zoo.Data([short, long] * 3, split="all")
    (both,) = pairs.batches(data, batch_size=6, split="test")
    alone = pairs.batches(zoo.Data([short] * 6, split="all"), batch_size=6, split="test")
    module = pairs.module.eval()
    logits = module(**both).logits
    (batch,) = alone
    assert torch.allclose(logits[0, :2], module(**batch).logits[0, :2], atol=1e-4)
    assert (both["labels"][0] == -100).sum() == 2


def test_columns_of_pairs_by_name(pairs):
    data = [{"question": "w1", "reply": "w2", "id": i} for i in range(12)]
    assert {"input_ids", "attention_mask", "labels"} == set(next(iter(pairs.batches(data, batch_size=2))))
    with pytest.raises(zoo.DataError, match="found no column of the completions"):
        pairs.batches([{"input": "w1", "other": "w2"}] * 12, batch_size=2)


def test_a_dataloader_is_used_as_it_is(pairs, ids):
    given = [{"input_ids": row, "labels": row.clone()} for row in ids.repeat(4, 1)]
    loader = DataLoader(given, batch_size=3)
    sizes = [len(batch["labels"]) for batch in pairs.batches(loader, batch_size=1, split="test")]
    assert sizes == [3, 3, 2]
    pairs.tune(loader, steps=4, batch_size=3, seed=0)


def test_rows_of_tensors_are_split_once(pairs):
    ids = torch.randint(5, 90, (30, 8))
    data = {"input_ids": ids, "labels": ids.clone()}
    train = {
        tuple(row) for batch in [next(iter(pairs.batches(data, batch_size=27)))] for row in batch["labels"].tolist()
    }
    test = {tuple(row) for batch in pairs.batches(data, batch_size=3, split="test") for row in batch["labels"].tolist()}
    assert len(test) == 3
    assert not train & test


def test_a_class_without_a_loss_says_what_to_do(tmp_path):
    import diffusers

    kind = diffusers.VQModel(block_out_channels=(16,), norm_num_groups=8, num_vq_embeddings=8)
    kind.save_pretrained(tmp_path)
    model = zoo.load(str(tmp_path), lora=2)
    for verb in (
        lambda: model.loss({"sample": torch.rand(1, 3, 8, 8)}),
        lambda: model.evaluate(torch.rand(4, 3, 8, 8)),
    ):
        with pytest.raises(zoo.ZooError, match=r"VQModel has no loss of its own.*trainable_parameters"):
            verb()
    with pytest.raises(zoo.ZooError, match="zoo cannot sample from a VQModel"):
        model.sample()
