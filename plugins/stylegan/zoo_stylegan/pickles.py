"""Read NVlabs's `.pkl` files without executing anything in them.

Such a file is a pickle of whole objects: each network is its class's source text with its state. This reader rebuilds
tensors, plain containers and numbers, keeps every object's state as a dictionary, and never looks at the source. What
a pickle may name is listed here, and everything listed is this module's own; any other name is an error.
"""

from __future__ import annotations

import collections
import io
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo import CheckpointError

_NUMBERS = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.int32, torch.bool)
}


class Held:
    """An object of the pickle, as its state.

    Attributes:
        kind: the class's name.
        state: its attributes.
    """

    def __init__(self, *_: Any, **__: Any) -> None:
        self.kind = type(self).__name__
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        parts = state if isinstance(state, tuple) else (state,)
        self.state = {key: value for part in parts if isinstance(part, dict) for key, value in part.items()}

    def __setitem__(self, key: Any, value: Any) -> None:  # of a dictionary's class
        self.state[key] = value

    def tensors(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Yield (name, tensor) of all parameters and buffers, as the module's own `state_dict` would name them."""
        for kind in ("_parameters", "_buffers"):
            for name, value in (self.state.get(kind) or {}).items():
                if isinstance(value, Tensor):
                    yield prefix + name, value.detach()
        for name, child in (self.state.get("_modules") or {}).items():
            if isinstance(child, Held):
                yield from child.tensors(f"{prefix}{name}.")

    def child(self, path: str) -> Held | None:
        """Return the submodule under a dotted path; None if there is none."""
        found: Any = self
        for name in path.split("."):
            found = (found.state.get("_modules") or {}).get(name) if isinstance(found, Held) else None
        return found if isinstance(found, Held) else None


class _Number:
    """NumPy's dtype, of plain numbers only."""

    def __init__(self, kind: Any, *_: Any) -> None:
        self.kind, self.order = str(kind).lstrip("<>|="), "<"

    def __setstate__(self, state: Any) -> None:
        self.order = ">" if isinstance(state, tuple) and len(state) > 1 and state[1] == ">" else "<"


def read(path: Path) -> dict[str, Held]:
    """Return the networks in a file, by the names they have there: `G`, `D`, `G_ema`.

    Raises:
        CheckpointError: the file asks for anything to be run, is damaged, or holds no network.
    """
    try:
        with path.open("rb") as file:
            content = _Reader(file, path).load()
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle can make its reader fail in any way
        raise CheckpointError(f"{path}: damaged or no pickle ({type(error).__name__}): get it again") from error
    held = content.state if isinstance(content, Held) else content
    found = {key: value for key, value in held.items() if isinstance(value, Held)} if isinstance(held, dict) else {}
    networks = {key: value for key, value in found.items() if key in ("G", "D", "G_ema") and "_modules" in value.state}
    if not networks:
        raise CheckpointError(
            f"{path}: expected networks G, D and G_ema, as NVlabs's repositories pickle them, got none"
        )
    return networks


class _Reader(pickle.Unpickler):
    def __init__(self, file: Any, path: Path) -> None:
        super().__init__(file)
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        own = _NAMES.get((module, name))
        if own is not None:
            return own
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if module.startswith("torch.nn.modules."):  # containers; their state is all that counts
            return type(name, (Held,), {})
        if module.startswith("dnnlib.tflib"):
            raise CheckpointError(
                f"{self.path}: a TensorFlow network, which has no tensors that torch could read: convert it with "
                "legacy.py of NVlabs's stylegan2-ada-pytorch, or take the .pkl that is published there"
            )
        raise CheckpointError(f"{self.path}: asks to run {module}.{name}, and zoo executes nothing in a checkpoint")

    def persistent_load(self, pid: Any) -> Any:
        raise CheckpointError(f"{self.path}: refers to data outside the file: expected one whole pickle")


def _persistent(meta: Any) -> Held:
    """Return an object that came with its class's source: the state alone."""
    fields = meta.state if isinstance(meta, Held) else meta
    if not isinstance(fields, dict):
        raise pickle.UnpicklingError("an object without state")
    held = Held()
    held.kind = str(fields.get("class_name", ""))
    held.__setstate__(fields.get("state"))
    return held


def _storage(data: Any) -> Tensor:
    """Return the values of a storage, all of them, as a flat tensor."""
    if not isinstance(data, bytes):
        raise pickle.UnpicklingError("a storage that is not bytes")
    held = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    with warnings.catch_warnings():  # typed storages are deprecated, and these files hold them
        warnings.simplefilter("ignore", UserWarning)
        return torch.empty(0, dtype=held.dtype).set_(held)


def _tensor(flat: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise pickle.UnpicklingError("a tensor of impossible shape")
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if 0 not in size and last >= len(flat):
        raise pickle.UnpicklingError("a tensor that is larger than its data")
    return flat.as_strided(size, stride, offset)


def _parameter(data: Tensor, *_: Any) -> Tensor:
    return data


def _scalar(kind: Any, data: Any = b"") -> Any:
    import numpy as np

    if not isinstance(kind, _Number) or kind.kind not in _NUMBERS or not isinstance(data, bytes):
        raise pickle.UnpicklingError("a scalar that is no number")
    return np.frombuffer(data, np.dtype(kind.order + kind.kind))[0].item()


def _device(*_: Any) -> str:
    return "cpu"


_NAMES: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("builtins", "set"): set,
    ("builtins", "slice"): slice,
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent,
    ("dnnlib.util", "EasyDict"): Held,
    ("dnnlib", "EasyDict"): Held,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("torch", "device"): _device,
    ("torch", "Size"): tuple,
    ("numpy", "dtype"): _Number,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
}
