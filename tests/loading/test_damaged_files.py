"""`zoo.load` of folders that are incomplete or damaged: one error that names the file or tensor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import zoo
from zoo.errors import QuantizationError
from zoo.storage.atomic import digest

from .tiny import Tiny, put, refused, state

pytestmark = pytest.mark.usefixtures("tiny_plugin")


def test_a_missing_shard_is_named(module: Tiny, tmp_path: Path, open_: Callable[..., zoo.Model]) -> None:
    folder = put(tmp_path / "m", state(module), 3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    refused(lambda: open_(folder), r"3 shards, of which 1 are missing: model-00002-of-00003\.safetensors")


def test_a_tensor_that_the_index_promises_and_no_shard_holds(
    module: Tiny, tmp_path: Path, open_: Callable[..., zoo.Model]
) -> None:
    tensors = state(module)
    folder = put(tmp_path / "m", tensors, 2)
    shard = next(path for path in sorted(folder.glob("*.safetensors")) if "fc.weight" in load_file(path))
    save_file({name: tensor for name, tensor in load_file(shard).items() if name != "fc.weight"}, shard)
    refused(lambda: open_(folder), r"the checkpoint lacks 1 \(fc\.weight\)")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": {"a": "../b"}}']
)
def test_an_index_that_is_none(text: str, module: Tiny, tmp_path: Path, open_: Callable[..., zoo.Model]) -> None:
    folder = put(tmp_path / "m", state(module), 2)
    (folder / "model.safetensors.index.json").write_text(text)
    refused(lambda: open_(folder), r"model\.safetensors\.index\.json")


@pytest.mark.parametrize("size", [0, 7, 100, -1, -1000])
def test_a_truncated_file(size: int, module: Tiny, tmp_path: Path, open_: Callable[..., zoo.Model]) -> None:
    path = put(tmp_path / "m", state(module)) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    refused(lambda: open_(path.parent), r"model\.safetensors: damaged or no safetensors file")


def test_a_flipped_bit_in_the_header(module: Tiny, tmp_path: Path, open_: Callable[..., zoo.Model]) -> None:
    path = put(tmp_path / "m", state(module)) / "model.safetensors"
    good = path.read_bytes()
    for place in (0, 7, 8, good.index(b"F32"), good.index(b"embed.weight"), good.index(b"data_offsets") + 16):
        data = bytearray(good)
        data[place] ^= 2
        path.write_bytes(data)
        refused(lambda: open_(path.parent), r"damaged|lacks|unexpected|shape")


def test_a_flipped_bit_in_the_body_is_seen_where_there_are_digests(
    module: Tiny, tmp_path: Path, open_: Callable[..., zoo.Model]
) -> None:
    folder = put(tmp_path / "m", state(module), 2)
    shards = sorted(folder.glob("*.safetensors"))
    (folder / "SHA256SUMS").write_text("".join(f"{digest(path)}  {path.name}\n" for path in shards))
    open_(folder)
    data = bytearray(shards[1].read_bytes())
    data[-3] ^= 1
    shards[1].write_bytes(data)
    refused(lambda: open_(folder), rf"{shards[1].name}: damaged, its sha256 is not the one in SHA256SUMS")
    (folder / "SHA256SUMS").write_text(f"{digest(shards[0])}  {shards[0].name}\n")
    refused(lambda: open_(folder), rf"does not list {shards[1].name}")
    (folder / "SHA256SUMS").write_bytes(b"\xff\xfe what\n")
    refused(lambda: open_(folder), "expected lines as sha256sum writes them")


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_refused_quantized_or_not(
    bits: int, value: float, module: Tiny, tmp_path: Path, open_: Callable[..., zoo.Model]
) -> None:
    tensors = state(module)
    tensors["fc.weight"][3, 4] = value
    folder = put(tmp_path / "m", tensors)
    refused(lambda: open_(folder, bits=bits), r"fc\.weight: .*NaN or Inf", QuantizationError)
    refused(lambda: open_(folder), r"fc\.weight holds NaN or Inf in 1 of its 4,096 values")


def test_a_wrong_shape_is_named(module: Tiny, tmp_path: Path, open_: Callable[..., zoo.Model]) -> None:
    for name, shape in (("fc.weight", (64, 63)), ("shift", (3,)), ("bn.running_mean", (1,))):
        folder = put(tmp_path / "m", {**state(module), name: torch.zeros(shape)})
        refused(lambda: open_(folder), rf"{name} has shape \({str(shape)[1:-1]}\) in the checkpoint, expected \(64")  # noqa: B023


def test_missing_and_unexpected_tensors_are_named(
    module: Tiny, tmp_path: Path, open_: Callable[..., zoo.Model]
) -> None:
    tensors = state(module)
    del tensors["conv.bias"], tensors["bn.running_var"]
    refused(lambda: open_(put(tmp_path / "m", tensors)), r"lacks 2 \(bn\.running_var, conv\.bias\)")
    tensors = {**state(module), "extra.weight": torch.zeros(3)}
    refused(lambda: open_(put(tmp_path / "m", tensors)), r"has unexpected 1 \(extra\.weight\)")
    many = {f"layers.{n}.weight": torch.zeros(1) for n in range(9)}
    refused(lambda: open_(put(tmp_path / "m", many)), r"lacks \d+ \(\S+, \S+, \S+, …\) and has unexpected 9 \(")


def test_a_folder_without_weights_or_with_too_many(
    module: Tiny, tmp_path: Path, open_: Callable[..., zoo.Model]
) -> None:
    folder = put(tmp_path / "m", state(module))
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    assert open_(folder).fingerprint
    save_file(state(module), folder / "b.safetensors")
    refused(lambda: open_(folder), r"expected one safetensors file .* found a\.safetensors, b\.safetensors")
    for path in folder.glob("*.safetensors"):
        path.unlink()
    refused(lambda: open_(folder), "no weights, expected model.safetensors")
