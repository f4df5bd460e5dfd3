"""Which file of a folder is the adapter, and what files are that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import zoo
from zoo.errors import AdapterError

from .helpers import gpt2, small

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")


def test_the_tensors_of_peft_without_its_configuration_are_refused(tmp_path: Path) -> None:
    model = zoo.wrap(gpt2(), lora=zoo.LoRA(rank=2, targets=["c_attn"]))
    model.save_adapter(tmp_path / "a")
    other = tmp_path / "alone.safetensors"
    other.write_bytes((tmp_path / "a" / "adapter_model.safetensors").read_bytes())
    with pytest.raises(AdapterError, match="without PEFT's configuration"):
        zoo.wrap(gpt2(), lora=other)
    (tmp_path / "a" / "adapter_config.json").unlink()
    (tmp_path / "a" / "zoo.json").unlink()
    with pytest.raises(AdapterError, match=r"no adapter_config\.json"):
        zoo.wrap(gpt2(), lora=tmp_path / "a")


def test_a_file_beside_its_configuration_stands_for_the_folder(tmp_path: Path) -> None:
    model = zoo.wrap(gpt2(), lora=zoo.LoRA(rank=2, targets=["c_attn"]))
    model.save_adapter(tmp_path / "a")
    again = zoo.wrap(model.unload(), lora=tmp_path / "a" / "adapter_model.safetensors")
    assert again.adapters["default"].targets == ("c_attn",)


def test_files_that_are_no_adapter_say_what_they_are(tmp_path: Path) -> None:
    model = zoo.wrap(small())
    (tmp_path / "a.pt").write_bytes(b"x")
    with pytest.raises(AdapterError, match="zoo reads no pickles"):
        model.add_adapter("a", tmp_path / "a.pt")
    with pytest.raises(AdapterError, match=r"a\.pt: a pickle"):
        model.add_adapter("a", tmp_path)
    for name in ("one", "two"):
        save_file({"x": torch.zeros(2)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(AdapterError, match=r"2 \.safetensors files"):
        model.add_adapter("a", tmp_path)
    with pytest.raises(AdapterError, match="no adapter that zoo knows, its keys are 'x'"):
        model.add_adapter("a", tmp_path / "one.safetensors")


def test_several_adapters_in_one_folder(tmp_path: Path) -> None:
    model = zoo.wrap(small(), lora={"default": 2, "night": 3})
    model.save_adapter(tmp_path)
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("adapter_config.json"))
    assert names == ["adapter_config.json", "night/adapter_config.json"]
    again = zoo.wrap(small(), lora={"day": tmp_path, "night": tmp_path / "night"})
    assert [config.rank for config in again.adapters.values()] == [2, 3]  # type: ignore[attr-defined]
    (tmp_path / "adapter_config.json").unlink()
    (tmp_path / "adapter_model.safetensors").unlink()
    (tmp_path / "zoo.json").unlink()
    with pytest.raises(AdapterError, match="holds several in folders: give one of night"):
        zoo.wrap(small(), lora=tmp_path)
    config = json.loads((tmp_path / "night" / "adapter_config.json").read_text())
    assert config["r"] == 3
