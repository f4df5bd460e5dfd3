"""Documents: kept apart in a window, ended by the end-of-text token; conversations and pairs: answers alone count."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn import functional

import zoo
from zoo.data.report import collecting
from zoo.integrations.packed import keeps_apart
from zoo.integrations.transformers import tokenizer_of

APART = ["gpt2", "llama", "qwen2", "mixtral"]
ROWS = ["bloom", "opt", "mamba"]


def documents(count: int, longest: int = 40) -> list[str]:
    draw = random.Random(count)
    return ["".join(draw.choice("abcdefgh") for _ in range(draw.randint(3, longest))) for _ in range(count)]


def lone_losses(model: zoo.Model, texts: list[str]) -> Iterator[tuple[float, int]]:
    """Yield the summed loss and the number of predicted tokens of each document, alone, in float64."""
    tokenizer = tokenizer_of(model.entry)
    for text in texts:
        ids = torch.tensor([[0, *tokenizer(text)["input_ids"], 0]])
        with torch.no_grad():
            logits = model.module(input_ids=ids, use_cache=False).logits[0, :-1].double()
        yield functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item(), ids.shape[1] - 1


@pytest.mark.parametrize("kind", [*APART, *ROWS])
def test_the_loss_of_documents_is_that_of_each_alone(make, kind: str) -> None:
    model = zoo.load(str(make(kind)), device="cpu")
    texts = documents(12)
    with collecting() as reports:
        batches = list(model.batches(zoo.Data(texts, split="all"), batch_size=100, split="test"))
    assert len(batches) == 1
    total, count = map(sum, zip(*lone_losses(model, texts), strict=True))
    assert model.loss(batches[0]).item() == pytest.approx(total / count, rel=2e-5)
    assert zoo.plugin.hooks.count(model, batches[0]) == count
    assert keeps_apart(model.module) == (kind in APART) == ("position_ids" in batches[0])
    assert (len(batches[0]["input_ids"]) < 12) == (kind in APART)
    said = "each document is in a row of its own: the model cannot keep documents in one window apart"
    assert (said in reports[0].lines()) == (kind in ROWS)


def test_a_long_document_is_in_windows_and_every_token_is_predicted_once(make) -> None:
    model = zoo.load(str(make("llama")), device="cpu")  # 64 tokens
    texts = [*documents(6), "abcdefgh" * 40]
    with collecting() as reports:
        [batch] = model.batches(zoo.Data(texts, split="all"), batch_size=100, split="test")
    wanted = sorted(batch["labels"][batch["labels"] != -100].tolist())
    tokenizer = tokenizer_of(model.entry)
    assert wanted == sorted(token for text in texts for token in [*tokenizer(text)["input_ids"], 0])
    assert batch["input_ids"].shape[1] <= 64
    assert "1 of 7 documents are longer than 64 tokens: they are in several windows" in reports[0].lines()


def test_a_text_file_is_one_text_and_several_are_documents(make, tmp_path: Path) -> None:
    model = zoo.load(str(make("gpt2")), device="cpu")
    root = tmp_path / "texts"
    root.mkdir()
    for name in ("a.txt", "b.md", "c"):
        (root / name).write_text("\n\n".join(documents(20)))
    (root / "d.bin").write_bytes(b"\0\1\2")
    one = next(iter(model.batches(root / "a.txt", batch_size=2)))
    assert list(one) == ["input_ids", "labels"]
    assert not (one["labels"] == 0).any()
    with collecting() as reports:
        several = next(iter(model.batches(root, batch_size=2)))
    assert (several["labels"] == 0).any(), "the end of a document is learnt"
    assert reports[0].skipped == (("d.bin", "it is no text"),)


def test_a_pair_counts_its_completion_and_an_end(make) -> None:
    model = zoo.load(str(make("gpt2")), device="cpu")
    pairs = [{"prompt": f"ask{at}:", "completion": f"say{at}"} for at in range(20)]
    batch = next(iter(model.batches(pairs, batch_size=4)))
    tokenizer = tokenizer_of(model.entry)
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        wanted = labels[labels != -100].tolist()
        text = tokenizer.decode(wanted[:-1])
        assert wanted[-1] == 0
        assert text.startswith("say")
        assert tokenizer.decode(ids).startswith(f"ask{text[3:]}:{text}")


def test_only_answers_count_as_transformers_counts_them(make, tmp_path: Path) -> None:
    """Against the library's own loss on labels that are masked by hand, text by text."""
    folder = make("llama")
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
    template += "{% if add_generation_prompt %}<assistant>{% endif %}"
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
    model = zoo.load(str(folder), device="cpu")
    talk = [("user", "ab"), ("assistant", "cd"), ("user", "e"), ("assistant", "fgh")]
    data = [{"messages": [{"role": role, "content": content} for role, content in talk]}]
    [batch] = model.batches(zoo.Data(data, split="all"), batch_size=1, split="test")
    tokenizer = tokenizer_of(model.entry)
    ids, labels = [], []
    for role, content in talk:
        for text, counts in ((f"<{role}>", False), (f"{content}</>", role == "assistant")):
            part = tokenizer(text, add_special_tokens=False)["input_ids"]
            ids += part
            labels += part if counts else [-100] * len(part)
    ids, labels = torch.tensor([[*ids, 0]]), torch.tensor([[*labels, 0]])  # no special token ends this template
    assert torch.equal(batch["input_ids"], ids)
    assert torch.equal(batch["labels"], labels)
    ours = model.module(input_ids=ids, labels=labels).loss
    assert math.isclose(model.loss(batch).item(), ours.item(), rel_tol=1e-5)


def test_what_is_too_long_is_cut_and_said(make) -> None:
    model = zoo.load(str(make("llama")), device="cpu")
    data = [{"prompt": "a" * length, "completion": "bc"} for length in (5, 62, 70)]
    with collecting() as reports:
        [batch] = model.batches(zoo.Data(data, split="all"), batch_size=9, split="test")
    assert batch["input_ids"].shape == (2, 64)
    assert {"1 of 3 pairs of test are cut at 64 tokens"} < set(reports[0].lines())
    assert any(line.startswith("1 of 3 pairs of test are left out: nothing to predict") for line in reports[0].lines())


@pytest.mark.slow
def test_the_small_model_learns_to_answer_and_to_stop(tmp_path: Path) -> None:
    answers = {
        "What do you call a list that cannot change?": "A tuple.",
        "Which statement ends a loop?": "The break statement.",
        "What opens a file?": "The open function.",
        "How is a module loaded?": "With import.",
    }
    rows = [
        {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}
        for question, answer in answers.items()
    ]
    (tmp_path / "chat.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = zoo.Data(tmp_path / "chat.jsonl", split="all")
    model = zoo.load("gpt", device="cpu", lora=zoo.LoRA(rank=16, targets="all"), seed=0)
    model.tune(data, steps=60, batch_size=4, lr=2e-3, quiet=True)
    for question, answer in answers.items():
        assert model.sample(seed=0, messages=question, do_sample=False).data == [answer]
    talks = [[{"role": "user", "content": question}] for question in answers]
    assert model.sample(seed=0, messages=talks, do_sample=False).data == list(answers.values())


def test_batches_of_documents_are_seeded(make) -> None:
    model = zoo.load(str(make("gpt2")), device="cpu")
    texts = documents(200)

    def first(seed: int) -> torch.Tensor:
        return torch.cat([b["input_ids"] for b in itertools.islice(model.batches(texts, batch_size=4, seed=seed), 3)])

    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))
