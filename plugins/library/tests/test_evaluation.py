"""Metrics of classes that are taken for their library's loss alone: what the loss is of is found, or left out."""

from __future__ import annotations

import pytest
import torch
from tiny_types import case, small_module
from torch.nn import functional

import zoo


def _loaded(kind: str, head: str, folder) -> zoo.Model:
    small_module(kind, head).save_pretrained(folder)
    return zoo.load(str(folder))


def test_tokens_of_text_in_and_out(tmp_path):
    case("t5", "SEQ_TO_SEQ_CAUSAL_LM", tmp_path)
    model = zoo.load(str(tmp_path))
    assert model.entry.plugin == "library"
    rows = [{"input": f"w{i % 20} w{i % 7}", "target": f"w{i % 20}"} for i in range(24)]
    found = model.evaluate(zoo.Data(rows, split="all"))
    assert list(found)[:2] == ["loss", "accuracy"]
    assert found.samples == 3  # batches of 8 rows
    assert found.count("perplexity") == 24
    assert found["perplexity"] == pytest.approx(torch.tensor(found["loss"]).exp().item(), rel=0.05)
    assert set(found.intervals) == set(found)


def test_classes_and_what_is_no_cross_entropy(tmp_path, ids):
    model = _loaded("bert", "MULTIPLE_CHOICE", tmp_path)
    choices = torch.stack([ids, ids.flip(1)], 1).repeat(8, 1, 1)
    labels = torch.arange(16) % 2
    found = model.evaluate(zoo.Data({"input_ids": choices, "labels": labels}, split="all"))
    with torch.no_grad():
        logits = model.module(input_ids=choices).logits
    assert found["accuracy"] == pytest.approx((logits.argmax(1) == labels).double().mean().item())
    assert found["loss"] == pytest.approx(functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert "calibration_error" in found
    answers = _loaded("bert", "QUESTION_ANSWERING", tmp_path / "qa")
    columns = {"input_ids": ids.repeat(8, 1), "start_positions": labels, "end_positions": labels + 1}
    assert list(answers.evaluate(zoo.Data(columns, split="all"))) == ["loss"]
