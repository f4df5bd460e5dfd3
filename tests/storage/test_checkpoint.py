"""Choice of a folder's weight files, and reading them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import zoo
from zoo.errors import CheckpointError, OutputError
from zoo.storage import checkpoint


def touch(folder: Path, *names: str) -> None:
    for name in names:
        if name.endswith(".index.json"):
            shards = [f"{name.partition('.')[0]}-{n}-of-2.{name.split('.')[-3]}" for n in (1, 2)]
            (folder / name).write_text(json.dumps({"weight_map": dict(zip("ab", shards, strict=True))}))
            touch(folder, *shards)
        else:
            (folder / name).touch()


@pytest.mark.parametrize(
    ("present", "found"),
    [
        (["model.safetensors"], ["model.safetensors"]),
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (["pytorch_model.bin"], ["pytorch_model.bin"]),
        (["model.pth"], ["model.pth"]),
        (["pytorch_model.bin", "model.pth"], ["pytorch_model.bin"]),
        (["diffusion_pytorch_model.bin", "training_args.bin"], ["diffusion_pytorch_model.bin"]),
        (["diffusion_pytorch_model.safetensors", "adapter_model.safetensors"], ["diffusion_pytorch_model.safetensors"]),
        (["model.safetensors", "model.fp16.safetensors"], ["model.safetensors"]),
        (["model.safetensors.index.json"], ["model-1-of-2.safetensors", "model-2-of-2.safetensors"]),
        (["pytorch_model.bin.index.json"], ["pytorch_model-1-of-2.bin", "pytorch_model-2-of-2.bin"]),
        (["model.safetensors", "model.safetensors.index.json"], ["model.safetensors"]),  # as transformers chooses
        (["a.b.bin.index.json", "model.bin.index.json"], ["model-1-of-2.bin", "model-2-of-2.bin"]),
        (["my-weights.safetensors"], ["my-weights.safetensors"]),
        (["my-weights.bin", "config.json"], ["my-weights.bin"]),
    ],
)  # fmt: skip
def test_the_files_that_hold_the_weights(present: list[str], found: list[str], tmp_path: Path) -> None:
    touch(tmp_path, *present)
    assert [path.name for path in checkpoint.weight_files(tmp_path)] == found


@pytest.mark.parametrize(
    ("present", "match"),
    [
        ([], "no weights, expected model.safetensors"),
        (["adapter_model.safetensors"], "no weights"),
        (["training_args.bin"], "no weights"),
        (["a.safetensors", "b.safetensors"], "expected one safetensors file .*, found a.safetensors, b.safetensors"),
    ],
)
def test_folders_without_weights_or_with_too_many(present: list[str], match: str, tmp_path: Path) -> None:
    touch(tmp_path, *present)
    with pytest.raises(CheckpointError, match=match):
        checkpoint.weight_files(tmp_path)


def test_an_entry_without_a_folder() -> None:
    with pytest.raises(CheckpointError, match="has no folder to read weights from"):
        list(checkpoint.tensors(zoo.Entry("x", "y")))


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_bin_files_and_what_is_usually_wrapped_around_them(wrapper: str | None, tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 2), "b": torch.arange(3)}
    content = {**tensors, "epoch": 3} if wrapper is None else {wrapper: tensors, "epoch": 3}
    torch.save(content, tmp_path / "pytorch_model.bin")
    read = dict(checkpoint.tensors(zoo.Entry("x", "y", folder=tmp_path)))
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)


def test_safetensors_cost_memory_only_while_they_are_used(tmp_path: Path) -> None:
    """One tensor at a time, mapped: reading 16 tensors of 4 MB one by one never has more than a few in memory."""
    import psutil

    save_file({f"t{n}": torch.full((1 << 20,), float(n)) for n in range(16)}, tmp_path / "model.safetensors")

    def anonymous() -> int:
        text = Path(f"/proc/{psutil.Process().pid}/status").read_text()
        return int(text.split("RssAnon:")[1].split()[0]) * 1024

    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc")
    before, most, total = anonymous(), 0, 0.0
    for _, tensor in checkpoint.tensors(zoo.Entry("x", "y", folder=tmp_path)):
        total += float(tensor.sum())
        most = max(most, anonymous() - before)
        del tensor
    assert total == sum(range(16)) * (1 << 20)
    assert most < 20 << 20


def test_other_weights_in_a_folder_are_not_mixed_up(tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    new.mkdir()
    old.mkdir()
    touch(new, "model.safetensors", "config.json")
    checkpoint.check_alone(tmp_path / "nothing", new)
    touch(old, "model.safetensors", "config.json", "thesis.txt", "adapter_model.safetensors", "training_args.bin")
    checkpoint.check_alone(old, new)
    for other in ("model-1-of-2.safetensors", "pytorch_model.bin", "model.safetensors.index.json"):
        (old / other).write_text("{}")
        with pytest.raises(OutputError, match=f"holds other weights, {other}"):
            checkpoint.check_alone(old, new)
        (old / other).unlink()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("files")
    tensors = {"a": torch.randn(3, 2), "b": torch.arange(3)}
    save_file(tensors, folder / "model.safetensors")
    torch.save(tensors, folder / "zip.bin")
    torch.save(tensors, folder / "legacy.bin", _use_new_zipfile_serialization=False)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(data=st.data(), name=st.sampled_from(["model.safetensors", "zip.bin", "legacy.bin"]))
def test_damaged_files_are_one_error_or_still_tensors(
    data: st.DataObject, name: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    for path in tmp_path.iterdir():
        path.unlink()
    content = bytearray(files[name])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / name).write_bytes(content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))])
    try:
        for _, tensor in checkpoint.tensors(zoo.Entry("x", "y", folder=tmp_path)):
            assert tensor.numel() <= 64
    except CheckpointError as error:
        assert "\n" not in str(error)  # noqa: PT017 - any other example may load


def test_a_zip_that_is_no_checkpoint(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w") as archive:
        archive.writestr("x", "y")
    with pytest.raises(CheckpointError, match="damaged or no PyTorch file") as caught:
        list(checkpoint.tensors(zoo.Entry("x", "y", folder=tmp_path)))
    assert "\n" not in str(caught.value)
