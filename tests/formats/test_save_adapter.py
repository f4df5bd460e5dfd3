"""Saving an adapter: what cannot be saved is named, and a failure leaves the folder as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import zoo
from zoo.errors import AdapterError, OutputError, UnknownNameError
from zoo.storage import atomic

from .saved_folders import CONFIG, MANIFEST, TENSORS


def test_an_adapter_on_meta_has_nothing_to_save(tmp_path: Path) -> None:
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(3, 4))
    model = zoo.wrap(module, lora=2)
    with pytest.raises(AdapterError, match="'meta' has no values to save"):
        model.save_adapter(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_saving_names_the_adapter_that_it_lacks(mixed: nn.Module, tmp_path: Path) -> None:
    model = zoo.wrap(mixed)
    with pytest.raises(AdapterError, match="no adapter to save"):
        model.save_adapter(tmp_path / "a")
    model.add_adapter("letters", 2)
    model.add_adapter("digits", 2)
    with pytest.raises(UnknownNameError, match="Did you mean 'letters'"):
        model.save_adapter(tmp_path / "a", "lettters")
    assert not list(tmp_path.iterdir())


def test_saving_below_a_file_is_refused(mixed: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    model = zoo.wrap(mixed, lora=2)
    for place in (tmp_path / "file" / "below", tmp_path / "file"):
        with pytest.raises(OutputError, match=r"cannot write .*file"):
            model.save_adapter(place)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_the_earlier_adapter(
    mixed: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = zoo.wrap(mixed, lora=2)
    folder = model.save_adapter(tmp_path / "a")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(path: Any, value: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "write_json", full)
    with pytest.raises(OutputError, match="No space left on device"):
        model.save_adapter(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_saving_leaves_other_files_alone(mixed: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "other").mkdir()
    zoo.wrap(mixed, lora=2).save_adapter(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    assert {path.name for path in tmp_path.iterdir()} == {"thesis.txt", "other", CONFIG, TENSORS, MANIFEST}
