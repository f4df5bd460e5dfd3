"""Metrics of a language model's tokens, and of its answers beside those of the data."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

import zoo
from zoo.integrations.transformers import tokenizer_of

PAIRS = [{"prompt": f"say {word}:", "completion": f" {word} {word}"} for word in ("abc", "def", "ghi", "jkl")]


def test_tokens_are_those_of_the_loss(make):
    model = zoo.load(str(make("llama")), device="cpu")
    ids = torch.randint(1, 90, (5, 12))
    found = model.evaluate(zoo.Data({"input_ids": ids}, split="all"), metrics=["accuracy", "top5_accuracy"])
    with torch.no_grad():
        logits = model.module(ids).logits[:, :-1].double()
    nats = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    best = logits.topk(5).indices
    assert (found.samples, list(found)[:2]) == (5, ["perplexity", "loss"])
    assert found["loss"] == pytest.approx(nats.item(), rel=1e-5)
    assert found["accuracy"] == pytest.approx((best[..., 0] == ids[:, 1:]).double().mean().item())
    assert found["top5_accuracy"] == pytest.approx((best == ids[:, 1:, None]).any(-1).double().mean().item())
    assert set(found.intervals) == set(found)


@pytest.mark.parametrize("kind", ["pairs", "conversations"])
def test_answers_are_compared_with_those_of_the_data(make, kind, monkeypatch):
    from zoo_gpt import answers as module

    model = zoo.load(str(make("llama")), device="cpu")
    data = PAIRS
    if kind == "conversations":
        roles = ("user", "assistant", "user", "assistant")
        data = [
            {
                "messages": [
                    {"role": r, "content": c}
                    for r, c in zip(roles, ["hi", "yes", p["prompt"], p["completion"]], strict=True)
                ]
            }
            for p in PAIRS
        ]
    given = zoo.Data(data, split="all")
    found = model.evaluate(given, metrics=["bleu", "rougeL", "exact_match"])
    assert found["exact_match"] == 0.0
    assert [found.count(name) for name in ("perplexity", "bleu")] == [4, 4]
    # A model that says what the data say is right, so the references are whole and begin where the answer does.
    seen = []

    def right(model, inputs, limit):
        seen.append(inputs)
        tokenizer = tokenizer_of(model.entry)
        said = tokenizer.decode(inputs[0])
        [one] = [pair for pair in PAIRS if pair["prompt"] in said]
        assert not said.rstrip().endswith(one["completion"].strip())
        return tokenizer(one["completion"])["input_ids"]

    monkeypatch.setattr(module, "greedy", right)
    found = model.evaluate(given, metrics=["bleu", "chrf", "exact_match", "rouge1"], samples=3)
    assert len(seen) == 3
    assert (found["exact_match"], found["rouge1"], found["chrf"]) == pytest.approx((1.0, 1.0, 1.0))


def test_prose_has_no_references(make):
    model = zoo.load(str(make("gpt2")), device="cpu")
    data = zoo.Data(["abc def " * 40], split="all")
    with pytest.raises(zoo.DataError, match="metrics of answers need prompts with references"):
        model.evaluate(data, metrics=["bleu"])
    with pytest.raises(zoo.UnknownNameError, match=r"no metric 'blue'.*Did you mean 'bleu'"):
        model.evaluate(data, metrics=["blue"])
