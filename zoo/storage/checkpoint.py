"""Read a model's checkpoint one tensor at a time, from safetensors, or from a pickle without running its code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo.bounded.json_text import read_object
from zoo.errors import CheckpointError, OutputError
from zoo.storage import bitsandbytes_file
from zoo.storage.config_json import in_four_bit
from zoo.storage.file_names import MODEL_WEIGHTS
from zoo.storage.sums import verify

if TYPE_CHECKING:
    from zoo.catalog.entry import Entry

_DTYPES = {
    getattr(torch, name)
    for name in (
        *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
        *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
        *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"),
    )
}
INDEX = 64 << 20  # bytes of an index of shards


def tensors(entry: Entry) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor) of every weight in the entry's folder, under the checkpoint's names, on the CPU.

    Safetensors files, sharded or not, are memory-mapped, so that a tensor costs memory only while it is used. A
    `.bin` or `.pth` is read with `torch.load(weights_only=True)`, which executes nothing. Weights that bitsandbytes has
    quantized to 4 bit are each one tensor without values, which `zoo.load` knows.

    Raises:
        CheckpointError: a file is missing, truncated or damaged, or a pickle holds code.
    """
    if entry.folder is None:
        raise CheckpointError(
            f"{entry.name!r} has no folder to read weights from: give weights= one, or a Hub repository"
        )
    files = weight_files(entry.folder)
    verify(entry.folder, files)
    if not in_four_bit(entry.config):
        return _each(files)
    return bitsandbytes_file.assembled(_each(files), [name for path in files for name in _names(path)])


def weight_files(folder: Path) -> list[Path]:
    """Return the files of a folder's weights, chosen in the libraries' order.

    Safetensors come before `.bin`, and `.bin` before `.pth`; of each, one file of a customary name, else the shards of
    an index, else the only file there is.

    Raises:
        CheckpointError: there is none, a shard is missing, or the choice is ambiguous.
    """
    for suffix in ("safetensors", "bin", "pth"):
        found = [path for path in sorted(folder.glob(f"*.{suffix}")) if _holds_weights(path)]
        for name in MODEL_WEIGHTS:
            if (path := folder / f"{name}.{suffix}") in found:
                return [path]
        indices = sorted(folder.glob(f"*.{suffix}.index.json"))
        if indices:
            usual = [index for index in indices if index.name.partition(".")[0] + f".{suffix}.index.json" == index.name]
            return _shards((usual or indices)[0])
        if len(found) == 1:
            return found
        if found:
            listed = ", ".join(path.name for path in found)
            raise CheckpointError(f"{folder}: expected one {suffix} file or an index of shards, found {listed}")
    raise CheckpointError(f"{folder}: no weights, expected model.safetensors, an index of shards, or pytorch_model.bin")


def check_alone(folder: Path, new: Path) -> None:
    """Raise `OutputError` where `folder` holds weights that would be mixed up with those in `new`."""
    names = {path.name for path in new.iterdir()}
    for path in sorted(folder.glob("*")) if folder.is_dir() else ():
        weights = path.name.endswith((".safetensors", ".bin", ".pth", ".index.json")) and _holds_weights(path)
        if weights and path.name not in names:
            raise OutputError(f"{folder} holds other weights, {path.name}: expected an empty folder, or this model's")


def _holds_weights(path: Path) -> bool:
    return not path.name.startswith(("adapter_", "training_"))


def _shards(index: Path) -> list[Path]:
    try:
        shards = read_object(index, limit=INDEX)["weight_map"].values()
    except (FileNotFoundError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: expected JSON with a weight_map, {type(error).__name__}: {error}") from error
    if not all(isinstance(shard, str) for shard in shards):
        raise CheckpointError(f"{index}: expected names of files in its weight_map")
    names = sorted(set(shards))
    for name in names:
        if Path(name).name != name or name in ("", ".", "..") or "\0" in name:
            raise CheckpointError(f"{index}: shard {name!r} lies outside the folder")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing or not names:
        raise CheckpointError(
            f"{index.name} lists {len(names)} shards, of which {len(missing)} are missing: {', '.join(missing[:3])}; "
            "download the checkpoint again"
        )
    return [index.parent / name for name in names]


def _each(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    for path in files:
        yield from _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)


def _safetensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                tensor = file.get_tensor(name)
                _check_plain(path, name, tensor)
                yield name, tensor
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path}: damaged or no safetensors file ({error}); get the file again") from error


def _names(path: Path) -> list[str]:
    """Return the names of the tensors in a file of safetensors; none of any other file."""
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        return []
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return list(file.keys())
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged or no safetensors file ({error}); get the file again") from error


def _pickled(path: Path) -> Iterator[tuple[str, Tensor]]:
    content = load_pickled(path)
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise CheckpointError(f"{path}: expected a dict of tensors, got {type(content).__name__}")
    for name in list(content):
        value = content.pop(name)
        if isinstance(value, Tensor):
            _check_plain(path, name, value)
            yield name, value.detach()


def _check_plain(path: Path, name: str, tensor: Tensor) -> None:
    """Raise `CheckpointError` for a tensor that is not simply an array of numbers."""
    what, instead = None, "save it as a plain tensor"
    if tensor.is_nested:
        what = "is nested"
    elif tensor.layout is not torch.strided:
        what, instead = "is sparse", "save it with to_dense()"
    elif tensor.is_quantized:
        what, instead = "is quantized by torch", "save it with dequantize()"
    elif tensor.is_meta:
        what, instead = "has no values, it is on 'meta'", "save it from a device"
    elif type(tensor) not in (Tensor, nn.Parameter, nn.Buffer):
        what = f"is a {type(tensor).__name__}"
    elif tensor.dtype not in _DTYPES:
        what = f"is of type {str(tensor.dtype).removeprefix('torch.')}"
    if what is not None:
        raise CheckpointError(f"{path}: {name} {what}, expected a dense tensor: {instead}, or get another file")


def load_pickled(path: Path) -> Any:
    """Return the content of a `.bin` or `.pt` file, tensors and plain containers only; nothing in it is executed.

    Raises:
        CheckpointError: the file is damaged or holds anything else.
    """
    import pickle
    import zipfile

    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged pickle can make its reader fail in any way
        blocked = re.search(r"GLOBAL:? (?:GLOBAL )?([\w.]+)", str(error), re.IGNORECASE)
        if blocked and isinstance(error, pickle.UnpicklingError):
            raise CheckpointError(f"{path}: asks to run {blocked[1]}, and zoo executes nothing in it") from error
        # torch's own message advises to run it.
        raise CheckpointError(f"{path}: damaged or no PyTorch file ({type(error).__name__}); get it again") from error
