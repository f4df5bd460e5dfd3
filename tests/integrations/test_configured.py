"""What a configuration could make a library fetch or run does not reach the library."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import zoo
import zoo_gpt
from zoo.errors import CheckpointError
from zoo.integrations.configured import without_code

EMBEDDED = Path(zoo_gpt.__file__).parent / "embedded"


def test_keys_that_name_code_go_at_any_depth() -> None:
    values = {
        "auto_map": {"AutoModel": "evil.X"},
        "n_layer": 1,
        "text_config": {"_attn_implementation": "evil/kernel", "hidden_size": 8},
        "parts": [{"use_pretrained_backbone": True, "backbone": "resnet18"}],
    }
    assert without_code(values, "toy") == {
        "n_layer": 1,
        "text_config": {"hidden_size": 8},
        "parts": [{"backbone": "resnet18"}],
    }
    assert "auto_map" in values
    for place in ("evil/backbone", "hf-hub:evil/x", "local-dir:/tmp", "C:\\x"):
        with pytest.raises(CheckpointError, match="nothing that a configuration names is fetched"):
            without_code({"backbone_config": {"backbone": place}}, "toy")


@pytest.mark.parametrize(
    "change",
    [
        {"_attn_implementation": "evil/kernel"},
        {"attn_implementation": {"": "evil/kernel"}},
        {"_attn_implementation_internal": "evil/kernel", "experts_implementation": "evil/kernel"},
        {"auto_map": {"AutoConfig": "evil--x.Y"}, "trust_remote_code": True, "use_kernels": True},
    ],
)
def test_a_model_computes_with_the_librarys_own(tmp_path: Path, change: dict) -> None:
    folder = tmp_path / "gpt"
    shutil.copytree(EMBEDDED, folder, ignore=lambda *_: ["SHA256SUMS"])
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    generation = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**generation, "custom_generate": "evil/loop"}))
    model = zoo.load(str(folder), device="cpu")
    assert model.module.config._attn_implementation in ("sdpa", "eager")
    assert not hasattr(model.module.generation_config, "custom_generate")


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("config.json", {"n_layer": 10**9}),
        ("config.json", {"n_positions": 60_000}),
        ("config.json", {"n_embd": 99_999_998}),
        ("config.json", {"id2label": 5}),
        ("config.json", {"num_labels": "x", "architectures": ["GPT2ForSequenceClassification"]}),
        ("generation_config.json", {"temperature": [1], "watermarking_config": 5}),
        ("generation_config.json", {"max_length": 9**99}),
    ],
)
def test_a_configuration_that_makes_no_model_is_one_error(tmp_path: Path, file: str, change: dict) -> None:
    folder = tmp_path / "gpt"
    shutil.copytree(EMBEDDED, folder, ignore=lambda *_: ["SHA256SUMS"])
    (folder / file).write_text(json.dumps({**json.loads((folder / file).read_text()), **change}))
    with pytest.raises(CheckpointError):
        zoo.load(str(folder), device="cpu")


def test_a_tokenizer_whose_expression_never_ends_is_one_error(tmp_path: Path) -> None:
    folder = tmp_path / "gpt"
    shutil.copytree(EMBEDDED, folder, ignore=lambda *_: ["SHA256SUMS"])
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    split = {"type": "Split", "pattern": {"Regex": "(a+)+b"}, "behavior": "Isolated", "invert": False}
    (folder / "tokenizer.json").write_text(json.dumps({**tokenizer, "pre_tokenizer": split}))
    with pytest.raises(CheckpointError, match=r"its? tokenizer|tokenizer\.json cannot read this text"):
        zoo.load(str(folder), device="cpu").sample(1, prompts="a" * 60, max_new_tokens=2)
