"""Saved adapters with random values, bytes and headers: loaded, or one error and the model is unchanged."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import zoo
from zoo.errors import ZooError
from zoo.storage import atomic

CONFIG, TENSORS, MANIFEST = "adapter_config.json", "adapter_model.safetensors", "zoo.json"


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    module = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 3))
    folder = zoo.wrap(copy.deepcopy(module), lora=2).save_adapter(tmp_path_factory.mktemp("bed") / "a")
    return module, folder


def survives(module: nn.Module, folder: Path) -> None:
    """Check that loading returns a model or raises a ZooError, and that after an error the model is unchanged."""
    model = zoo.wrap(copy.deepcopy(module))
    try:
        model.add_adapter("a", folder)
    except ZooError as error:
        assert "\n" not in str(error)  # noqa: PT017 - any other example may load
        assert not model.adapters
        assert [type(p) for p in model.module.parameters()] == [nn.Parameter, nn.Parameter, nn.Parameter]
    else:
        model(torch.tensor([1, 2]))
        model.footprint()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["all", "0", "1|"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.just("0"), inner, max_size=3),
    max_leaves=5,
)
BOUNDED = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), database=None)


@BOUNDED
@given(data=st.data())
def test_mutated_values_of_config_and_zoo_json(
    data: st.DataObject, bed: tuple[nn.Module, Path], tmp_path: Path
) -> None:
    module, good = bed
    raw, own = json.loads((good / CONFIG).read_text()), json.loads((good / MANIFEST).read_text())
    (tmp_path / TENSORS).write_bytes((good / TENSORS).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        where = data.draw(st.sampled_from([raw, own, own["base"], own["sha256"]]))
        where[data.draw(st.sampled_from([*where, "x"]) | st.text(max_size=5))] = data.draw(JSON)
        if not isinstance(own.get("base"), dict) or not isinstance(own.get("sha256"), dict):
            break
    (tmp_path / CONFIG).write_text(json.dumps(raw))
    if data.draw(st.booleans()):
        if isinstance(own.get("sha256"), dict) and data.draw(st.booleans()):
            own["sha256"][CONFIG] = atomic.digest(tmp_path / CONFIG)
        (tmp_path / MANIFEST).write_text(json.dumps(own))
    else:
        (tmp_path / MANIFEST).unlink(missing_ok=True)
    survives(module, tmp_path)


@BOUNDED
@given(data=st.data(), name=st.sampled_from([CONFIG, TENSORS, MANIFEST]))
def test_mutated_bytes(data: st.DataObject, name: str, bed: tuple[nn.Module, Path], tmp_path: Path) -> None:
    module, good = bed
    for other in (CONFIG, TENSORS, MANIFEST):
        (tmp_path / other).write_bytes((good / other).read_bytes())
    content = bytearray((good / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, min(len(content) - 1, 600)))
        content[place] = data.draw(st.integers(0, 255))
    (tmp_path / name).write_bytes(content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))])
    if name != MANIFEST:
        (tmp_path / MANIFEST).unlink()
    survives(module, tmp_path)


@BOUNDED
@given(data=st.data())
def test_mutated_headers(data: st.DataObject, bed: tuple[nn.Module, Path], tmp_path: Path) -> None:
    module, good = bed
    content = (good / TENSORS).read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    name = data.draw(st.sampled_from(sorted(header)))
    change = data.draw(st.sampled_from(["rename", "drop", "shape", "dtype", "offsets", "any"]))
    if change == "rename":
        header[data.draw(st.text(max_size=20))] = header.pop(name)
    elif change == "drop":
        del header[name]
    elif change == "any" or name == "__metadata__":
        header[name] = data.draw(JSON)
    elif change == "shape":
        header[name]["shape"] = data.draw(st.lists(st.integers(0, 2**63) | st.integers(0, 9), max_size=4))
    elif change == "dtype":
        kinds = ["F64", "F32", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "C64", "F4", "X"]
        header[name]["dtype"] = data.draw(st.sampled_from(kinds))
        count = len(header[name]["shape"])
        header[name]["shape"] = data.draw(st.just(header[name]["shape"]) | st.lists(st.integers(1, 16), max_size=count))
    else:
        header[name]["data_offsets"] = data.draw(st.lists(st.integers(0, 2**40) | st.integers(0, 99), max_size=3))
    text = json.dumps(header).encode()
    length = data.draw(st.just(len(text)) | st.integers(0, 2**64 - 1))
    (tmp_path / TENSORS).write_bytes(length.to_bytes(8, "little") + text + content[8 + size :])
    (tmp_path / CONFIG).write_bytes((good / CONFIG).read_bytes())
    survives(module, tmp_path)
