"""Adapters from zoo to PEFT and from PEFT to zoo give equal outputs; `benchmarks/roundtrips.py` has the cases."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("peft")
TOLERANCE = 1e-5  # of the largest output, in float32


def script() -> ModuleType:
    folder = str(Path(__file__).parents[2] / "benchmarks")
    sys.path.insert(0, folder)  # as when it runs as a script: its models are in a file beside it
    try:
        return import_module("roundtrips")
    finally:
        sys.path.remove(folder)


TRIPS: dict[str, Any] = dict(script().trips())
# Both directions of every case, alternately in 4 bit; the script itself runs all combinations.
NAMES = list(TRIPS)
PAIRS = list(dict.fromkeys(name.partition(": ")[2].removesuffix(", 4 bit") for name in NAMES))
CHOSEN = [
    name
    for number, pair in enumerate(PAIRS)
    for name in (
        f"zoo → PEFT: {pair}" + (", 4 bit" if number % 2 else ""),
        f"PEFT → zoo: {pair}" + ("" if number % 2 else ", 4 bit"),
    )
    if name in TRIPS
]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", CHOSEN)
def test_round_trip(name: str, tmp_path: Path) -> None:
    found = TRIPS[name](tmp_path)
    assert found.difference <= TOLERANCE
    assert found.effect > 20 * TOLERANCE


def test_every_kind_of_layer_and_of_adapter_is_tried() -> None:
    for word in (
        "GPT-2",
        "BERT",
        "ViT",
        "UNet2DModel",
        "AutoencoderKL",
        "Conv1D",
        "Conv2d",
        "Embedding",
        "MHA",
        "DoRA",
    ):
        assert any(word in name for name in CHOSEN), word
    for word in ("rsLoRA", "patterns", "modules_to_save", "bias", "target_parameters", "LoHa", "LoKr", "4 bit"):
        assert any(word in name for name in CHOSEN), word


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_classifiers_usual_heads(tmp_path: Path) -> None:
    # For a classifier PEFT writes modules_to_save = ["classifier", "score"], whichever of the two the model has.
    import copy

    import peft
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    import zoo

    size = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    base = BertForSequenceClassification(BertConfig(**size, intermediate_size=64, num_labels=3)).eval()
    theirs = peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(task_type="SEQ_CLS", r=4)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    theirs.save_pretrained(tmp_path)
    ours = zoo.wrap(base, lora=tmp_path)
    assert ours.adapters["default"].modules_to_save == ("classifier",)
    ids = torch.randint(0, 97, (2, 7))
    torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=1e-6, rtol=1e-5)
