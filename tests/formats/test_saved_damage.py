"""Saved adapters whose files are damaged or say what cannot be: one clear error, and the model is unchanged."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .saved_folders import CONFIG, MANIFEST, TENSORS, edit_json, with_own


@pytest.mark.parametrize("name", [CONFIG, TENSORS])
def test_a_file_that_is_not_there(name: str, saved: Path, refuses: Callable[..., None]) -> None:
    (saved / name).unlink()
    refuses(saved, f"no {name}")


@pytest.mark.parametrize("name", [CONFIG, TENSORS])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_file(name: str, damage: str, saved: Path, refuses: Callable[..., None]) -> None:
    data = bytearray((saved / name).read_bytes())
    if damage == "flipped":
        data[7 if name == TENSORS else 0] ^= 64
    (saved / name).write_bytes(data[: {"truncated": len(data) // 2, "empty": 0}.get(damage, len(data))])
    refuses(saved, f"{name}: damaged")
    refuses(with_own(saved), f"{name}: damaged|sha256")


@pytest.mark.parametrize("name", [CONFIG, TENSORS])
def test_one_bit_that_only_the_digest_shows(name: str, saved: Path, refuses: Callable[..., None]) -> None:
    data = bytearray((saved / name).read_bytes())
    if name == CONFIG:
        data = data.replace(b'"lora_alpha": 16', b'"lora_alpha": 17')
    else:
        data[-2] ^= 1
    (saved / name).write_bytes(data)
    refuses(with_own(saved), f"{name}: damaged or changed, its sha256 is not the one in zoo.json")


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "3",
        '{"format": 2}',
        '{"format": 3, "base": {}, "sha256": {}}',
        '{"format": 1, "base": {}, "sha256": {"../x": ""}}',
        '{"format": 1, "base": {}}',
        "{",
        "\x00",
        "[" * 100_000,
    ],
)
def test_a_zoo_json_that_says_something_else(content: str, saved: Path, refuses: Callable[..., None]) -> None:
    (saved / MANIFEST).write_text(content)
    refuses(saved, r"zoo\.json: ")


def test_a_pickle_is_not_read(saved: Path, tmp_path: Path, refuses: Callable[..., None]) -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    (saved / TENSORS).unlink()
    (saved / "adapter_model.bin").write_bytes(pickle.dumps({"x": Payload()}))
    refuses(saved, r"adapter_model\.bin: a pickle, which zoo does not execute")
    (saved / TENSORS).write_bytes(pickle.dumps({"x": Payload()}))
    refuses(saved, "damaged or no safetensors")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"r": 0}, "rank: expected a whole number of at least 1, got 0"),
        ({"r": "8"}, "rank"),
        ({"r": True}, "rank"),
        ({"lora_alpha": None}, "alpha: expected a number, at most 1e.18, got None"),
        ({"lora_alpha": float("nan")}, "alpha"),
        ({"lora_dropout": 1.0}, "dropout"),
        ({"target_modules": "("}, "not a regular expression"),
        ({"target_modules": [1]}, "targets"),
        ({"target_modules": {"a": 1}}, "targets"),
        ({"rank_pattern": {"(": 2}}, "rank_pattern: .* is not a regular expression"),
        ({"rank_pattern": [2]}, "rank_pattern"),
        ({"rank_pattern": {"fc": 0}}, "rank"),
        ({"use_rslora": "yes"}, "rslora"),
        ({"peft_type": "PROMPT"}, "expected peft_type 'LORA' or a plugin's"),
        ({"peft_type": 3}, "expected a peft_type such as 'LORA', got 3"),
        ({"use_dora": True}, "has only its factors A and B, and magnitude is missing"),
        ({"use_dora": 1}, "dora: expected True or False"),
        ({"lora_bias": True}, "lora_bias = True is a feature of PEFT"),
        ({"bias": "some"}, "bias: expected one of"),
        ({"modules_to_save": ["block.norm"]}, "saves block.norm.weight whole, and the file does not hold it"),
        ({"modules_to_save": ["nrm"]}, "modules_to_save: 'nrm' matches no parameter"),
        ({"modules_to_save": 3}, "modules_to_save"),
        ({"target_parameters": "fc"}, "target_parameters: expected a list"),
        ({"some_future_option": {"x": 1}}, "some_future_option"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights"),
    ],
)
def test_a_configuration_that_cannot_be(
    values: dict[str, Any], match: str, saved: Path, refuses: Callable[..., None]
) -> None:
    refuses(edit_json(saved, **values), match)


@pytest.mark.parametrize("missing", ["r", "lora_alpha", "peft_type"])
def test_a_configuration_that_does_not_say(missing: str, saved: Path, refuses: Callable[..., None]) -> None:
    raw = json.loads((saved / CONFIG).read_text())
    del raw[missing]
    (saved / CONFIG).write_text(json.dumps(raw))
    refuses(saved, f"{missing}")
