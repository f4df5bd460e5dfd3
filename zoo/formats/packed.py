"""Models on disk as they are in memory: quantized weights with their codes and scales, nothing dequantized.

A folder has what the library needs beside the weights, `packed.safetensors`, and `zoo_packed.json`, which says for each
quantized weight by which `zoo.Quantization` it was made. That is how its codec is found again: the hook `quantize` is
asked for a weight without values, and what it returns has to have just the tensors that the file has.

Where bitsandbytes can say the same (transformers' models of which only linear layers are quantized, in nf4 or fp4), the
weights are in `model.safetensors` as transformers writes them, so that `from_pretrained` loads the folder too.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.catalog.entry import Entry
from zoo.errors import AdapterError, CheckpointError, OutputError, QuantizationError, ZooError
from zoo.formats import bitsandbytes_folder
from zoo.plugin import hooks
from zoo.plugin.quantize import Plan, quantizer_shape
from zoo.storage import atomic, fingerprint, untrusted, untrusted_json
from zoo.storage.fingerprint import Fingerprint
from zoo.storage.sums import verify
from zoo.storage.to_host import to_host
from zoo.weights.carrier import carry
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.quantized_tensor import QuantizedTensor
from zoo.weights.scheme import Quantization
from zoo.weights.walk import TiedGroup, plain_names, tied_groups

if TYPE_CHECKING:
    from zoo.adapters.adapter_set import AdapterSet
    from zoo.plugin.contract import LoadedModel

WEIGHTS = "packed.safetensors"
DESCRIPTION = "zoo_packed.json"
FORMAT = 1
DTYPES = {str(one).removeprefix("torch."): one for one in (torch.float32, torch.bfloat16, torch.float16, torch.float64)}
LIMIT = 256 << 20  # bytes of the description: about 600 for each weight


@dataclass(frozen=True)
class PackedFolder:
    """What a folder's description says.

    Attributes:
        folder: The folder.
        dtype: The compute dtype of the model that was saved; None where the folder does not say.
        scheme: Its quantization; None if its weights came quantized.
        base: The fingerprint of the weights before they were quantized; None if it is not known.
        weights: By name of a quantized weight its quantization, shape and the names of its tensors; None where the
            weights are as bitsandbytes writes them.
    """

    folder: Path
    dtype: torch.dtype | None
    scheme: Quantization | None
    base: Fingerprint | None
    weights: dict[str, Any] | None

    def check_scheme(self, asked: Quantization | None) -> Quantization | None:
        """Return the folder's quantization.

        Raises:
            CheckpointError: another one is asked for.
        """
        if asked is not None and asked != self.scheme:
            raise CheckpointError(
                f"{self.folder}: expected weights in full precision to quantize ({asked}), got quantized ones "
                f"({self.scheme}): leave bits out, or load the model that it was made from"
            )
        return self.scheme

    def plan(self) -> Plan | None:
        """Return how each weight is quantized; None where the folder does not say it of each.

        Raises:
            CheckpointError: the description is damaged.
        """
        if self.weights is None:
            return None
        found = {name: told.get("quantization") for name, told in self.weights.items() if isinstance(told, dict)}
        return {name: _quantization(self.folder / DESCRIPTION, content) for name, content in found.items()}


# Writing


def write(model: LoadedModel, adapters: AdapterSet, staged: Path) -> None:
    """Write the model as it is in memory into an empty folder.

    Raises:
        OutputError: an adapter is active, a weight's codec cannot be found again, or nothing could load the folder.
    """
    if adapters.active:
        raise OutputError(
            f"adapters are active ({', '.join(adapters.active)}), expected the base alone: model.save_adapter(folder) "
            "writes them; then model.deactivate(), or model.merge() to make them part of the base"
        )
    groups = tied_groups(model.module)
    values = {group.name: _stored(group) for group in groups}
    packed = {name: value for name, value in values.items() if isinstance(value, QuantizedTensor)}
    plain = {name: value.detach() for name, value in values.items() if isinstance(value, Tensor)}
    state = model.module.state_dict()
    short = plain_names(model.module)
    buffers = [name for name, _ in model.module.named_buffers(remove_duplicate=False) if name in state]
    plain |= {short(name): state[name] for name in buffers}
    _companions(model, staged)
    description: dict[str, Any] = {
        "format": FORMAT,
        "dtype": str(model.dtype).removeprefix("torch."),
        "scheme": None if adapters.scheme is None else asdict(adapters.scheme),
        "base": None if (base := _base(adapters, groups)) is None else fingerprint.to_json(base),
        "weights": None,
    }
    if bitsandbytes_folder.can_say(model.module, groups, packed):
        bitsandbytes_folder.write(model.module, staged, groups, packed, plain)
    else:
        description["weights"] = {
            group.name: _described(model.entry, group, packed[group.name], adapters.scheme)
            for group in groups
            if group.name in packed
        }
        tensors = {
            f"{name}.{part}": tensor
            for name, one in packed.items()
            for part, tensor in zip(one.names, one.tensors(), strict=True)
        }
        atomic.save_tensors(staged / WEIGHTS, to_host(plain | tensors))
    atomic.write_json(staged / DESCRIPTION, description)


def _stored(group: TiedGroup) -> Tensor | QuantizedTensor:
    """Return a weight's current base, merged adapters included."""
    value = group.value
    if not isinstance(value, ManagedWeight):
        return value
    dense = value.dense_base()
    return value.quantized_base() if dense is None else dense


def _base(adapters: AdapterSet, groups: list[TiedGroup]) -> Fingerprint | None:
    """Return the base's fingerprint, of weights with merged adapters as they are now."""
    if adapters.base is None:
        return None
    base = copy.deepcopy(adapters.base)
    for group in groups:
        if isinstance(group.value, ManagedWeight) and group.value.merged_names:
            base.add(group.name, group.value.base_tensor())
    return base


def _described(entry: Entry, group: TiedGroup, packed: QuantizedTensor, scheme: Quantization | None) -> dict[str, Any]:
    """Return what the description says of one weight.

    Args:
        entry: The model's entry.
        group: The weight's places.
        packed: The weight.
        scheme: The model's quantization, for a codec that does not say its own.

    Raises:
        OutputError: what it says would not lead back to the weight's codec.
    """
    codec, why, name, seen = packed.codec, "", group.name, quantizer_shape(group)
    form = {"shape": list(packed.shape), "tensors": list(packed.names)}
    if seen != packed.shape:
        form["quantized_shape"] = list(seen)
    known = {one.name: getattr(codec, one.name) for one in fields(Quantization) if hasattr(codec, one.name)}
    for choice in (known, {} if scheme is None else asdict(scheme)):
        try:
            made = Quantization(**choice)
            expected = _expected(entry, name, made, seen)
        except (ZooError, TypeError) as error:
            why = why or f" ({error})"
            continue
        if expected.codec == codec and _forms(expected) == _forms(packed):
            return {"quantization": asdict(made), **form, "error": packed.error}
    raise OutputError(
        f"{name}: stored as {codec.scheme}, which no quantizer of zoo or a plugin makes from its bits, block_size and "
        f"double alone{why}: write it with the library that made it, after model.unload(), or dense"
    )


def _expected(entry: Entry, name: str, scheme: Quantization, shape: torch.Size) -> QuantizedTensor:
    """Return a quantized weight without values, as the hook `quantize` makes it.

    Raises:
        QuantizationError: no plugin makes one.
    """
    made = hooks.quantize(entry, name, torch.empty(shape, device="meta"), scheme)
    if not isinstance(made, QuantizedTensor):
        raise QuantizationError(f"no quantizer stores {name} by scheme {scheme.scheme!r}: install its plugin")
    return made


def _forms(packed: QuantizedTensor) -> dict[str, Any]:
    return {
        name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in packed._parameters.items() if tensor is not None
    }


def _companions(model: LoadedModel, staged: Path) -> None:
    """Write what the library needs beside the weights: configuration, tokenizer and the like."""
    if model.entry.plugin is not None and hooks.save(model, staged, {}):
        for path in staged.iterdir():
            if path.name.endswith((".safetensors", ".bin", ".pth", ".index.json")):
                path.unlink()
    elif model.entry.config:
        atomic.write_json(staged / "config.json", model.entry.config)
    elif not bitsandbytes_folder.write_config(model.module, staged):
        raise OutputError(
            "a wrapped module has no configuration that zoo.load could make it from: load the model with zoo.load, or "
            "save it dense with model.save(folder)"
        )


# Reading


def read(entry: Entry) -> PackedFolder | None:
    """Return what the entry's folder says of quantized weights in it; None for a folder of ordinary weights.

    Raises:
        CheckpointError: the description is damaged or of a newer format.
    """
    if entry.folder is None:
        return None
    path = entry.folder / DESCRIPTION
    if not path.is_file():
        return _by_library(entry)
    verify(entry.folder, [path])
    try:
        content = untrusted_json.read_json(path, LIMIT, strict=True)
    except AdapterError as error:
        raise CheckpointError(str(error)) from error
    dtype = DTYPES.get(str(content.get("dtype")))
    weights, base = content.get("weights"), content.get("base")
    known = content.get("format") == FORMAT and dtype is not None
    if not known or not (weights is None or isinstance(weights, dict)):
        raise CheckpointError(
            f"{path}: expected format {FORMAT} with dtype and weights; a newer zoo may have written it"
        )
    fingerprint_of = None if base is None else fingerprint.from_json(base)
    if base is not None and fingerprint_of is None:
        raise CheckpointError(f"{path}: damaged, its base is no fingerprint; get the folder again")
    scheme = None if content.get("scheme") is None else _quantization(path, content["scheme"])
    return PackedFolder(entry.folder, dtype, scheme, fingerprint_of, weights)


def _by_library(entry: Entry) -> PackedFolder | None:
    """Return the description of a folder that transformers wrote with bitsandbytes' weights; None for any other."""
    scheme = bitsandbytes_folder.scheme_of(entry.config)
    if scheme is None or entry.folder is None:
        return None
    return PackedFolder(entry.folder, None, scheme, None, None)


def _quantization(path: Path, content: Any) -> Quantization:
    try:
        return Quantization(**content)
    except (TypeError, QuantizationError) as error:
        raise CheckpointError(f"{path}: damaged, expected a quantization, got {content!r} ({error})") from error


def tensors(entry: Entry, packed: PackedFolder) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor) of every weight, under the module's own names; a quantized one is carried by its tensor.

    Raises:
        CheckpointError: the file is damaged, or is not what the description says.
    """
    path = packed.folder / WEIGHTS
    verify(packed.folder, [path])
    try:
        found = untrusted.read_tensors(path).tensors
    except AdapterError as error:
        raise CheckpointError(str(error)) from error
    for name, told in (packed.weights or {}).items():
        yield name, carry(_weight(entry, packed, name, told, found))
    yield from found.items()


def _weight(entry: Entry, packed: PackedFolder, name: str, told: Any, found: dict[str, Tensor]) -> QuantizedTensor:
    """Return one quantized weight; its tensors leave `found`."""
    where = packed.folder / DESCRIPTION
    if not isinstance(told, dict) or not _sizes(told.get("shape")) or not isinstance(told.get("tensors"), list):
        raise CheckpointError(f"{where}: damaged, expected shape and tensors of {name}; get the folder again")
    shape, seen = torch.Size(told["shape"]), told.get("quantized_shape", told["shape"])
    if not isinstance(seen, list) or not _sizes(seen) or torch.Size(seen).numel() != shape.numel():
        raise CheckpointError(f"{where}: damaged, {name} has another number of values quantized; get the folder again")
    scheme = _quantization(where, told.get("quantization"))
    expected = _expected(entry, name, scheme, torch.Size(seen))
    stored = {part: found.pop(f"{name}.{part}", None) for part in expected.names}
    if told["tensors"] != list(expected.names) or any(tensor is None for tensor in stored.values()):
        raise CheckpointError(
            f"{packed.folder / WEIGHTS}: expected {', '.join(expected.names)} of {name} for scheme {scheme.scheme!r}, "
            f"got {told['tensors']}; get the folder again"
        )
    copies = {part: tensor.clone() for part, tensor in stored.items() if tensor is not None}
    made = QuantizedTensor(expected.codec, shape, packed.dtype or expected.dtype, copies)
    error = told.get("error")
    made.error = error if isinstance(error, float) and math.isfinite(error) and error >= 0 else None
    if _forms(made) != _forms(expected):
        raise CheckpointError(
            f"{packed.folder / WEIGHTS}: {name} has tensors {_forms(made)}, expected {_forms(expected)} for scheme "
            f"{scheme.scheme!r}; get the folder again"
        )
    return made


def _sizes(shape: Any) -> bool:
    """Return whether a value from a file is a shape."""
    return (
        isinstance(shape, list) and len(shape) <= 8 and all(type(size) is int and 0 <= size < 1 << 40 for size in shape)
    )
