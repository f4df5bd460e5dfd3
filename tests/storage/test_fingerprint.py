"""A base is told by a few values of each weight: in another float type too, and without what an adapter replaces."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from zoo.storage.fingerprint import BUDGET, Fingerprint
from zoo.storage.untrusted_json import JSON_LIMIT

FLOATS = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def weights() -> dict[str, Tensor]:
    values = {"a.weight": torch.randn(40, 30), "b.bias": torch.randn(5), "empty": torch.zeros(0, 3)}
    return {**values, "scalar": torch.randn(()), "count": torch.arange(9), "tiny": torch.randn(7, 7) * 1e-7}


def printed(tensors: dict[str, Tensor]) -> Fingerprint:
    made = Fingerprint()
    for name, tensor in tensors.items():
        made.add(name, tensor)
    return made


def cast(tensors: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("there", FLOATS)
@pytest.mark.parametrize("here", FLOATS)
def test_the_same_values_in_another_float_type(there: torch.dtype, here: torch.dtype) -> None:
    tensors = weights()
    entries = printed(cast(tensors, there)).entries({})
    assert printed(cast(tensors, here)).difference(entries, {}) is None
    for name in ("a.weight", "b.bias", "tiny", "scalar", "count"):
        other = {**tensors, name: tensors[name] * 2 + 1}
        assert printed(cast(other, here)).difference(entries, {}) == name


@pytest.mark.parametrize("dtype", FLOATS)
def test_in_one_type_the_values_must_be_equal(dtype: torch.dtype) -> None:
    tensors = cast({"a": torch.rand(500, 3) + 1, "b": torch.rand(4) + 1}, dtype)
    entries = printed(tensors).entries({})
    moved = {**tensors, "b": tensors["b"] * (1 + 2 * torch.finfo(torch.promote_types(dtype, torch.float16)).eps)}
    if dtype in (torch.float32, torch.float16):
        assert printed(moved).difference(entries, {}) == "b"
    assert printed({**tensors, "b": tensors["b"] * 1.01}).difference(entries, {}) == "b"


def test_what_an_adapter_replaces_does_not_count() -> None:
    tensors = weights()
    replaced = {"b.bias": None, "a.weight": [38, 39, 0]}
    entries = printed(tensors).entries(replaced)
    assert "b.bias" not in entries
    other = {**tensors, "b.bias": torch.randn(6), "a.weight": tensors["a.weight"].clone()}
    other["a.weight"][[0, 38, 39]] = torch.randn(3, 30)
    assert printed(other).difference(entries, replaced) is None
    other["a.weight"] = tensors["a.weight"] + 1e-3
    assert printed(other).difference(entries, replaced) == "a.weight"


def test_a_weight_more_a_weight_less_another_shape() -> None:
    tensors = weights()
    entries = printed(tensors).entries({})
    assert printed({**tensors, "c": torch.ones(2)}).difference(entries, {}) == "c"
    assert printed({name: one for name, one in tensors.items() if name != "count"}).difference(entries, {}) == "count"
    assert printed({**tensors, "b.bias": tensors["b.bias"][None]}).difference(entries, {}) == "b.bias"
    assert printed({**tensors, "count": tensors["count"].int()}).difference(entries, {}) == "count"


@pytest.mark.parametrize(
    "entry", ["", "float32", f"float32 5 {0:016} A", f"float9 5 {0:016} AAAA", f"float16 5 {0:016} "]
)
def test_a_damaged_entry_is_no_weights(entry: str) -> None:
    tensors = {"b": torch.randn(5)}
    assert printed(tensors).difference({"b": entry}, {}) == "b"


def test_thousands_of_weights_stay_within_the_limit_of_a_json_file() -> None:
    value = torch.randn(3)
    big = {f"model.layers.{n}.mlp.experts.{n % 64}.gate_up_proj.weight": value + n for n in range(20_000)}
    made = printed(big)
    entries = made.entries({})
    assert 1000 < len(entries) < len(big)
    assert len(json.dumps(entries, indent=2)) < 2 * BUDGET <= JSON_LIMIT
    assert made.difference(entries, {}) is None
    assert printed({name: one + 1e-3 for name, one in big.items()}).difference(entries, {}) == min(entries)
