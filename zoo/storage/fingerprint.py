"""Fingerprint of a base model: what its weights were in the checkpoint, told from a few values of each."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# One-byte types that can be cast to float32; others hold several numbers in a byte.
NUMBERS = (torch.bool, torch.int8, torch.uint8, torch.float8_e4m3fn, torch.float8_e5m2)
SAMPLES = 64  # values looked at per weight, spread evenly over it
KEPT = 8  # of those, how many an entry holds, to compare with a weight of another float type
BUDGET = 1 << 19  # about how many bytes all entries may take together: an adapter's JSON file has a limit
_ENTRY = re.compile(
    r"(?P<dtype>\w{1,24}) (?P<shape>[\dx]{0,120}) (?P<digest>[0-9a-f]{16}) (?P<kept>[\w+/]{0,64}={0,2})"
)


class Sample(NamedTuple):
    """A few values of one weight.

    Attributes:
        shape: The weight's shape.
        dtype: The type that it has in the checkpoint.
        values: Up to 64 values, float32.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    values: Tensor

    def without(self, rows: Sequence[int]) -> Tensor:
        """Return the values that lie in none of the weight's rows `rows`."""
        if not rows or not self.shape:
            return self.values
        width = max(1, torch.Size(self.shape[1:]).numel())
        row = _positions(torch.Size(self.shape).numel()) // width
        return self.values[~torch.isin(row, torch.tensor(sorted(rows)))]

    def entry(self, rows: Sequence[int] = ()) -> str:
        """Return the sample as a text: type, shape, a digest of the values, and a few of them."""
        values = self.without(rows)
        name, shape = str(self.dtype).removeprefix("torch."), "x".join(map(str, self.shape))
        kept = base64.b64encode(_kept(values).numpy().tobytes()).decode()
        return f"{name} {shape} {_digest(values)[:16]} {kept}"

    def equals(self, entry: str, rows: Sequence[int] = ()) -> bool:
        """Return whether an entry is of the same weight, perhaps in a float type of another precision.

        With one type the values must be equal; with two they may differ by what rounding to either makes.
        """
        match = _ENTRY.fullmatch(entry)
        dtype = getattr(torch, match["dtype"], None) if match else None
        if match is None or match["shape"] != "x".join(map(str, self.shape)):
            return False
        values = self.without(rows)
        if dtype == self.dtype:
            return match["digest"] == _digest(values)[:16]
        if not isinstance(dtype, torch.dtype) or not (dtype.is_floating_point and self.dtype.is_floating_point):
            return False
        return _close(_decoded(match["kept"]), _kept(values), dtype, self.dtype)

    def agrees(self, other: Sample) -> bool:
        """Return whether another sample is of the same weight, perhaps in another float type, or cast and back."""
        if self.shape != other.shape:
            return False
        if self.dtype == other.dtype:
            rounded = (self.values.to(dtype).float() for dtype in (self.dtype, torch.bfloat16, torch.float16))
            return any(_digest(values) == _digest(other.values) for values in rounded)
        floats = self.dtype.is_floating_point and other.dtype.is_floating_point
        return floats and _close(self.values, other.values, self.dtype, other.dtype)


class Fingerprint:
    """A few values of each weight, given in any order; the same weights have the same `hexdigest`, stored as they may.

    It costs nothing beside reading the checkpoint.
    """

    def __init__(self) -> None:
        self._samples: dict[str, Sample] = {}

    def add(self, name: str, tensor: Tensor) -> None:
        """Add one weight, before it is quantized."""
        self._samples[name] = sample(tensor)

    def agrees(self, name: str, tensor: Tensor) -> bool:
        """Return whether `tensor` has the same values as the one added under `name`."""
        return name in self._samples and _line(name, self._samples[name]) == _line(name, sample(tensor))

    def __contains__(self, name: str) -> bool:
        return name in self._samples

    def names(self) -> Iterable[str]:
        """Return the names of all weights."""
        return self._samples.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a weight that was added."""
        return self._samples[name].shape

    def held(self, weights: Mapping[str, Tensor]) -> set[str]:
        """Return the names of the tensors that are the weight of that name, perhaps in another float type."""
        looked_at = zip(weights, samples(weights.values()), strict=True)
        return {name for name, one in looked_at if name in self._samples and self._samples[name].agrees(one)}

    def renew(self, weights: Mapping[str, Tensor | None]) -> None:
        """Forget every weight but these, and look again at those that have changed.

        Args:
            weights: Name → tensor, or None for a weight that stays as it was noted.
        """
        self._samples = {name: self._samples[name] for name in weights if name in self._samples}
        present = {name: tensor for name, tensor in weights.items() if tensor is not None and readable(tensor)}
        for name, one in zip(present, samples(present.values()), strict=True):
            if name not in self._samples or not self._samples[name].agrees(one):
                self._samples[name] = one

    def hexdigest(self) -> str:
        """Return the fingerprint of all weights, 32 hexadecimal digits."""
        text = "\n".join(_line(name, self._samples[name]) for name in sorted(self._samples))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def entries(self, replaced: Mapping[str, Sequence[int] | None]) -> dict[str, str]:
        """Return name → entry of the weights; of a very large model only of some, spread evenly.

        Args:
            replaced: What to leave out: by name the rows, or None for the whole weight.
        """
        return {name: self._samples[name].entry(replaced.get(name) or ()) for name in self._chosen(replaced)}

    def _chosen(self, replaced: Mapping[str, Sequence[int] | None]) -> list[str]:
        names = [name for name in sorted(self._samples) if replaced.get(name, ()) is not None]
        size = sum(len(name) + 128 for name in names)
        return names[:: max(1, -(-size // BUDGET))]

    def difference(self, entries: Mapping[str, str], replaced: Mapping[str, Sequence[int] | None]) -> str | None:
        """Return the name of the first weight that is another one than its entry says; None if there is none.

        Args:
            entries: From `entries`, perhaps of another model.
            replaced: What they leave out.
        """
        for name in sorted({*entries, *self._chosen(replaced)}):
            mine, entry = self._samples.get(name), entries.get(name)
            if mine is None or entry is None or not mine.equals(entry, replaced.get(name) or ()):
                return name
        return None

    def misfit(self, name: str, entries: Mapping[str, str]) -> str:
        """Return how a weight's shape is another one than its entry says, with a leading space; "" if it is not."""
        match = _ENTRY.fullmatch(entries.get(name, ""))
        here = "x".join(map(str, self.shape(name))) if name in self else None
        there = here if match is None else match["shape"]
        return "" if here is None or here == there else f" of shape {here}, not {there}"

    def same_types(self, entries: Mapping[str, str]) -> bool:
        """Return whether all weights that the entries name have the types that they say."""
        return all(
            name in self._samples and entry.startswith(str(self._samples[name].dtype).removeprefix("torch.") + " ")
            for name, entry in entries.items()
        )


def readable(tensor: Tensor) -> bool:
    """Return whether a tensor's values are here: not on `meta`, and not spread over processes."""
    return not tensor.is_meta and not hasattr(tensor, "full_tensor")


def sample(tensor: Tensor) -> Sample:
    """Return a few values of a weight; of one whose type torch cannot read as numbers, its bytes."""
    return samples([tensor])[0]


def samples(tensors: Iterable[Tensor]) -> list[Sample]:
    """Return the sample of each tensor; those of a device are read together."""
    tensors = list(tensors)
    chosen = [_some(tensor) for tensor in tensors]
    values = [flat.to("cpu", torch.float32, copy=True) if flat.device.type == "cpu" else None for flat in chosen]
    for device in {flat.device for flat in chosen if flat.device.type != "cpu"}:
        places = [place for place, flat in enumerate(chosen) if flat.device == device]
        joined = torch.cat([chosen[place].float() for place in places]).cpu()
        for place, part in zip(places, joined.split([len(chosen[place]) for place in places]), strict=True):
            values[place] = part.clone()
    return [
        Sample(tuple(tensor.shape), flat.dtype, value)  # type: ignore[arg-type]
        for tensor, flat, value in zip(tensors, chosen, values, strict=True)
    ]


def _some(tensor: Tensor) -> Tensor:
    """Return up to `SAMPLES` values of a tensor, where it is."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.detach())
    flat = tensor.detach().reshape(-1)
    if tensor.dtype.itemsize == 1 and tensor.dtype not in NUMBERS:
        flat = flat.view(torch.uint8)
    if flat.numel() > SAMPLES:
        flat = flat[_positions(flat.numel()).to(flat.device, non_blocking=flat.device.type != "mps")]
    return flat


def _positions(count: int) -> Tensor:
    if count <= SAMPLES:
        return torch.arange(count)
    return torch.linspace(0, count - 1, SAMPLES, dtype=torch.float64).long()


def _kept(values: Tensor) -> Tensor:
    return values[:: max(1, -(-len(values) // KEPT))].contiguous()


def _decoded(kept: str) -> Tensor:
    try:
        data = bytearray(base64.b64decode(kept))
    except ValueError:
        return torch.empty(0)
    return torch.frombuffer(data, dtype=torch.float32) if data and len(data) % 4 == 0 else torch.empty(0)


def _digest(values: Tensor) -> str:
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()


def _line(name: str, one: Sample) -> str:
    return f"{name} {one.shape} {_digest(one.values)}"


def _close(first: Tensor, second: Tensor, one: torch.dtype, other: torch.dtype) -> bool:
    """Return whether two lists of numbers are roundings of the same ones to the types `one` and `other`."""
    if first.shape != second.shape:
        return False
    infos = (torch.finfo(one), torch.finfo(other))
    relative = sum(info.eps for info in infos) / 2
    absolute = sum(info.smallest_normal * info.eps for info in infos)
    largest = min(info.max for info in infos)
    first, second = first.double().clamp(-largest, largest), second.double().clamp(-largest, largest)
    close = torch.isclose(first, second, rtol=0, atol=0, equal_nan=True)
    close |= (first - second).abs() <= relative * torch.maximum(first.abs(), second.abs()) + absolute
    return bool(close.all())


def to_json(fingerprint: Fingerprint) -> dict[str, list[str]]:
    """Return name → (dtype, shape, values) of all weights, from which `from_json` makes the fingerprint again."""
    return {
        name: [
            str(one.dtype).removeprefix("torch."),
            "x".join(map(str, one.shape)),
            base64.b64encode(one.values.numpy().tobytes()).decode(),
        ]
        for name, one in sorted(fingerprint._samples.items())
    }


def from_json(content: object) -> Fingerprint | None:
    """Return the fingerprint that `to_json` wrote; None for anything else."""
    fingerprint = Fingerprint()
    if not isinstance(content, dict):
        return None
    for name, fields in content.items():
        if not (isinstance(fields, list) and len(fields) == 3 and all(isinstance(one, str) for one in fields)):
            return None
        dtype, shape, values = getattr(torch, fields[0], None), fields[1], _decoded(fields[2])
        if not isinstance(dtype, torch.dtype) or not re.fullmatch(r"(\d{1,18}(x\d{1,18})*)?", shape):
            return None
        sizes = tuple(map(int, shape.split("x"))) if shape else ()
        if values.numel() != min(SAMPLES, torch.Size(sizes).numel()):
            return None
        fingerprint._samples[name] = Sample(sizes, dtype, values)
    return fingerprint
