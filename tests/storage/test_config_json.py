"""config.json: where it is read from, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from zoo import CheckpointError, Entry
from zoo.storage.config_json import check_counts, model_folder, read_config, read_json_file, read_json_object


def entry(folder=None, **config):
    return Entry("toy", "toy", folder=folder, config=config)


def test_the_folders_file_goes_before_the_registry(tmp_path):
    assert read_config(entry(size=1)) == {"size": 1}
    assert read_config(entry(tmp_path, size=1)) == {"size": 1}
    (tmp_path / "config.json").write_text(json.dumps({"size": 2}))
    assert read_config(entry(tmp_path, size=1)) == {"size": 2}
    with pytest.raises(CheckpointError, match="toy: expected a configuration in the registry, got none"):
        read_config(entry())


def test_a_part_of_a_pipeline_is_found_in_its_subfolder(tmp_path):
    assert model_folder(entry()) is None
    assert model_folder(entry(tmp_path), "unet") == tmp_path
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(json.dumps({"_class_name": "UNet"}))
    assert model_folder(entry(tmp_path), "unet") == tmp_path / "unet"
    assert read_config(entry(tmp_path), "unet", class_name="UNet") == {"_class_name": "UNet"}
    with pytest.raises(CheckpointError, match="expected the configuration of VAE, got that of UNet"):
        read_config(entry(tmp_path), "unet", class_name="VAE")


@pytest.mark.parametrize(
    ("content", "found"), [("{", "damaged, expected JSON"), ("[1]", "expected a JSON object, got l")]
)
def test_damaged_files_are_refused_by_name(tmp_path, content, found):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=rf"config\.json: {found}"):
        read_config(entry(tmp_path))


def test_a_file_that_is_not_there_is_none(tmp_path):
    assert read_json_file(tmp_path / "a.json") is None
    assert read_json_object(tmp_path / "a.json") is None
    (tmp_path / "a.json").write_text("[1]")
    assert read_json_file(tmp_path / "a.json") == [1]


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "2", None])
def test_sizes_are_whole_numbers(value):
    check_counts({"size": 1, "depth": 3}, "size", "depth")
    with pytest.raises(CheckpointError, match=r"^config\.json: expected depth as a whole number, at least 1, got "):
        check_counts({"size": 1, "depth": value}, "size", "depth")
    check_counts({"classes": 0}, "classes", least=0)


def test_no_torch_is_imported():
    code = "import sys, zoo.storage.config_json; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
