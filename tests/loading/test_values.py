"""Tensors that are no weights: one error that names them, when they are read."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import zoo
from zoo.loading.values import is_finite

from .tiny import Tiny, put, refused, state

pytestmark = pytest.mark.usefixtures("tiny_plugin")
Open = Callable[..., zoo.Model]


def pickled(folder: Path, tensors: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    torch.save(tensors, folder / "pytorch_model.bin")
    return folder


def with_(value: float, tensor: Tensor) -> Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[7] = value
    return tensor


def test_forms_that_are_no_dense_array(module: Tiny, tmp_path: Path, open_: Open) -> None:
    weight = state(module)["fc.weight"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of its prototypes
        forms = {
            "is sparse": [weight.to_sparse(), weight.to_sparse_csr(), weight.to_sparse_csc()],
            "has no values": [weight.to("meta")],
            "is quantized by torch": [torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)],
            "is nested": [torch.nested.nested_tensor([weight, weight])],
            "is of type float8_e8m0fnu": [torch.zeros(weight.shape, dtype=torch.uint8).view(torch.float8_e8m0fnu)],
        }
        for match, values in forms.items():
            for value in values:
                folder = pickled(tmp_path / "m", {**state(module), "fc.weight": value})
                refused(lambda: open_(folder, bits=4), rf"fc\.weight {match}")  # noqa: B023


@pytest.mark.parametrize("name", ["fc.weight", "bn.running_var"])
def test_numbers_of_another_kind(name: str, module: Tiny, tmp_path: Path, open_: Open) -> None:
    tensors = state(module)
    for kind in (torch.int32, torch.uint8, torch.bool, torch.complex64):
        cast = {**tensors, name: tensors[name].to(kind)}
        for folder in (put(tmp_path / "s", cast), pickled(tmp_path / "b", cast)):
            for bits in (None, 4):
                wanted = rf"{name} is of type {str(kind)[6:]} in the checkpoint, expected float32"
                refused(lambda: open_(folder, bits=bits), wanted)  # noqa: B023


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_no_numbers(kind: torch.dtype, value: float, module: Tiny, tmp_path: Path, open_: Open) -> None:
    tensors = state(module)
    for name in ("fc.weight", "conv.bias"):
        folder = put(tmp_path / "m", {**tensors, name: with_(value, tensors[name]).to(kind)})
        refused(lambda: open_(folder), rf"{name} holds NaN or Inf in 1 of its")  # noqa: B023


def test_a_mask_of_infinities_is_a_buffer(module: Tiny, tmp_path: Path, open_: Open) -> None:
    tensors = state(module)
    shift = with_(-float("inf"), tensors["shift"])
    assert torch.equal(open_(put(tmp_path / "m", {**tensors, "shift": shift})).module.shift, shift)
    folder = put(tmp_path / "m", {**tensors, "shift": with_(float("nan"), tensors["shift"])})
    refused(lambda: open_(folder), r"shift holds NaN")


def test_types_that_are_cast(module: Tiny, tmp_path: Path, open_: Open, caplog: pytest.LogCaptureFixture) -> None:
    tensors = state(module)
    double = {name: one.double() if one.is_floating_point() else one for name, one in tensors.items()}
    folder = put(tmp_path / "m", double)
    assert open_(folder).module.fc.weight.dtype == torch.float32
    (told,) = [one.message for one in caplog.records if one.name == "zoo"]
    assert "weights are float64, and are cast to float32" in told
    assert caplog.records[0].levelno == logging.WARNING
    caplog.clear()
    assert torch.equal(open_(folder, dtype="float64").module.fc.weight, double["fc.weight"])
    assert not caplog.records
    huge = put(tmp_path / "m", {**double, "fc.weight": with_(1e300, double["fc.weight"])})
    refused(lambda: open_(huge), r"fc\.weight has values up to 1e\+300, which torch\.float32 does not hold")
    large = put(tmp_path / "m", {**tensors, "fc.weight": with_(1e30, tensors["fc.weight"])})
    assert is_finite(open_(large).module.fc.weight)
    refused(lambda: open_(large, dtype="float16"), r"fc\.weight has values up to 1e\+30, which torch\.float16")
    for kind in (torch.float8_e4m3fn, torch.float8_e5m2):
        small = put(tmp_path / "m", {**tensors, "fc.weight": tensors["fc.weight"].to(kind)})
        expected = tensors["fc.weight"].to(kind).float()
        assert torch.equal(open_(small).module.fc.weight, expected)
        assert not torch.equal(open_(small, bits=4).module.fc.weight + 0, expected)


def test_scales_of_a_packed_folder(tmp_path: Path) -> None:
    zoo.load("vae", bits=4, device="cpu").save(tmp_path, packed=True)
    path = tmp_path / "packed.safetensors"
    weights = json.loads((tmp_path / "zoo_packed.json").read_text())["weights"]
    (name, told), *_ = weights.items()
    tensors = load_file(path)
    parts = [part for part in told["tensors"] if tensors[f"{name}.{part}"].is_floating_point()]
    assert parts
    for part in parts:
        save_file({**tensors, f"{name}.{part}": with_first(tensors[f"{name}.{part}"])}, path, {"format": "pt"})
        refused(lambda: zoo.load(str(tmp_path)), rf"{name} \({part}\) holds NaN or Inf in 1 of its")


def with_first(tensor: Tensor) -> Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[0] = float("nan")
    return tensor


def test_a_configuration_beside_listed_weights(module: Tiny, tmp_path: Path, open_: Open) -> None:
    from zoo.storage.model_folder import write_digests

    folder = put(tmp_path / "m", state(module))
    write_digests(folder)
    open_(folder)
    (folder / "config.json").write_text('{"width": 65}')
    refused(lambda: open_(folder), r"config\.json: damaged, its sha256 is not the one in SHA256SUMS; .* if you changed")


def test_finite_is_told_at_once_and_exactly() -> None:
    for kind in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        large = torch.full((3000,), torch.finfo(kind).max, dtype=kind)  # of which the sum is no number
        assert is_finite(large)
        assert not is_finite(with_(float("nan"), large))
        assert not is_finite(with_(-float("inf"), with_first(large)))
    assert is_finite(torch.empty(0))
    assert is_finite(torch.tensor(1.0))
    assert is_finite(torch.arange(3))
    assert not is_finite(torch.tensor([float("nan")]).to(torch.float8_e5m2))
