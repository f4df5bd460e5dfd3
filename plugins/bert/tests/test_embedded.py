"""The model that the plugin carries, and the structure of those that it names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import zoo

HERE = Path(__file__).resolve().parents[1]
EMBEDDED = HERE / "zoo_bert" / "embedded"
ACCURACY = 0.42  # README.md


@pytest.fixture(scope="module")
def model() -> zoo.Model:
    return zoo.load("bert", device="cpu")


def test_the_files_are_small_and_half_precision() -> None:
    from safetensors import safe_open

    assert sum(file.stat().st_size for file in EMBEDDED.iterdir()) <= 6_000_000
    with safe_open(EMBEDDED / "model.safetensors", framework="pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118


@pytest.mark.slow
def test_it_is_as_good_as_its_readme_says(model: zoo.Model) -> None:
    metrics = model.evaluate()
    # Another version of Python has slightly other text.
    assert metrics["accuracy"] > ACCURACY - 0.03
    assert zoo.load("bert", device="cpu", bits=4).evaluate()["accuracy"] > ACCURACY - 0.05


def test_it_fills_what_is_plain(model: zoo.Model) -> None:
    texts = ["Return True if the object is an [MASK] of the class.", "Return the number [MASK] bytes in the file."]
    samples = model.sample(seed=0, texts=texts, temperature=0.0)
    assert list(samples) == [
        "Return True if the object is an instance of the class.",
        "Return the number of bytes in the file.",
    ]
    assert samples.captions[1].startswith("of ")


@pytest.mark.slow
def test_free_text_is_of_words(model: zoo.Model) -> None:
    from zoo.data.text import text_data

    known = {word for text in text_data("text:english") for word in text.lower().split()}
    for mode in ("gibbs", "mask-predict"):
        written = " ".join(model.sample(4, seed=1, mode=mode, length=24, top_k=20)).lower().split()
        assert len(written) > 24
        assert sum(word in known for word in written) > 0.7 * len(written)


def test_it_learns_another_text(tmp_path: Path) -> None:
    lines = [f"The {a} of the {b} is {c}." for a in "pqrs" for b in ("zebra", "yak", "xerus") for c in ("low", "high")]
    (tmp_path / "facts.txt").write_text("\n\n".join(lines * 3 + [f"{line} It is so." for line in lines]))
    model = zoo.load("bert", device="cpu", bits=4, lora=zoo.LoRA(rank=4, targets="all"), seed=0)
    before = model.evaluate(tmp_path / "facts.txt")
    model.tune(tmp_path / "facts.txt", steps=20, batch_size=4, lr=1e-3)
    after = model.evaluate(tmp_path / "facts.txt")
    assert after["perplexity"] < 0.7 * before["perplexity"]
    assert after["accuracy"] >= before["accuracy"]


@pytest.mark.parametrize("name", ["bert-base", "roberta-base"])
def test_real_configurations_in_four_bits(name: str) -> None:
    model = zoo.load(name, device="meta", bits=4, lora=zoo.LoRA(rank=8, targets="all"))
    found = model.footprint()
    assert {"bert-base": 109_514_298, "roberta-base": 124_697_433}[name] == found.parameters
    assert found.quantized_share >= 0.985
    assert found.bytes <= 0.27 * found.bytes_16bit
    matrices = sum(weight.shape.numel() for weight in model.weights() if len(weight.shape) > 1)
    adapted = sum(weight.shape.numel() for weight in model.weights() if len(weight.shape) > 1 and weight.adapters)
    assert adapted >= 0.99 * matrices


def test_facts_without_torch() -> None:
    code = (
        "import sys, zoo_bert.facts; from types import SimpleNamespace as N;"
        "print(zoo_bert.facts.describe(N(plugin='bert', config={}, folder=None, weights='embedded', head=None)));"
        "config = {'architectures': ['BertForSequenceClassification'], 'id2label': {0: 'a'}};"
        "print(zoo_bert.facts.describe(N(config=config, head=None)));"
        "assert zoo_bert.facts.recognises({'architectures': ['RobertaForMaskedLM']});"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'context': '128 tokens'" in found
    assert "'task': 'classifies text', 'classes': 'a'" in found
