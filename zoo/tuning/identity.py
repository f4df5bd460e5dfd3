"""What a run is of: compared when it is resumed, so that nothing else goes on from its checkpoints."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.storage.fingerprint import readable
from zoo.tuning.fingerprint import fingerprint
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.walk import TiedGroup, tied_groups, unwrapped

# Where the same base was found, which may be another place now; its fingerprint is compared.
_PLACES = ("base.name", "base.weights", "base.revision", "base.commit")
PARTS = ("model", "data", "content", "versions")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def identity(model: Any, data: Any, device: torch.device) -> dict[str, Any]:
    """Return what a run of `model` on `data` depends on beside its settings.

    "model" is what the model says of itself, "data" a digest, "content" digests of what does not train and of the
    module's layers, which are the same on one kind of device with the same libraries, and "versions" theirs.
    """
    told = getattr(model, "identity", None)
    if told is None:  # a model of somebody's own, who knows what it is
        return {"model": {}, "data": fingerprint(data), "content": {}, "versions": {}}
    found = plain(told())
    content = {"device": device.type, "frozen": frozen(model.module), "layers": layers(model.module)}
    return {"model": found["model"], "data": fingerprint(data), "content": content, "versions": found["versions"]}


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what of the model and the data is not what it was, in words, of two results of `identity`."""
    before, after = dict(_flat(then["model"])), dict(_flat(now["model"]))
    found = ["the content of the data is not what it was"] if then["data"] != now["data"] else []
    return found + [
        f"{name} was {before.get(name)!r} and is {after.get(name)!r}"
        for name in {**before, **after}
        if name not in _PLACES and before.get(name) != after.get(name)
    ]


def other_content(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return which content is not what it was, in words; "" if none is, or if it cannot be compared."""
    old, new = then["content"], now["content"]
    if old.get("device") != new.get("device") or then["versions"] != now["versions"]:
        return ""
    named = {"frozen": "the values of weights that do not train", "layers": "the module's layers or their settings"}
    both = {key: words for key, words in named.items() if None not in (old.get(key), new.get(key))}
    return " and ".join(words for key, words in both.items() if old[key] != new[key])


def other_versions(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return which libraries are of another version than they were, in words; "" if none is."""
    old, new = then["versions"], now["versions"]
    return ", ".join(
        f"{name} was {old.get(name, 'not there')} and is {new.get(name, 'not there')}"
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    )


def frozen(module: nn.Module) -> str | None:
    """Return a digest of all values that the module computes with and that do not train; None if some are elsewhere.

    Weights count as they are stored, quantized ones by codes and scales; of active adapters, what never trains counts.
    """
    hashed = hashlib.sha256()
    for group in tied_groups(module):
        for name, tensor in _fixed(group):
            if not readable(tensor):
                return None
            hashed.update(f"{group.name} {name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            try:
                hashed.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
            except (RuntimeError, TypeError):  # another library's tensor, whose bytes are not torch's
                return None
    return hashed.hexdigest()


def layers(module: nn.Module) -> str:
    """Return a digest of the classes of a module's layers and of what they say of themselves."""
    hashed, inside = hashlib.sha256(), ""
    for path, layer in unwrapped(module).named_modules():
        if isinstance(layer, ManagedWeight):
            inside = f"{path}."
        elif not inside or not path.startswith(inside):
            kind = type(layer)
            try:
                said = layer.extra_repr()
            except Exception:  # what a layer prints is not ours
                said = ""
            hashed.update(f"{path} {kind.__module__}.{kind.__qualname__} {_ADDRESS.sub('', said)}\n".encode())
    return hashed.hexdigest()


def plain(value: Any) -> Any:
    """Return a value as JSON gives it back; what JSON has no form for as text."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in (sorted(value, key=str) if isinstance(value, set | frozenset) else value)]
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return _ADDRESS.sub("", str(value)).encode(errors="replace").decode()


def _fixed(group: TiedGroup) -> Iterator[tuple[str, Tensor]]:
    """Yield name and tensor of what does not train of one weight; adapters that are not active do not count."""
    value = group.value
    if not isinstance(value, ManagedWeight):
        if not value.requires_grad:
            yield "", value
        return
    for name, parameter in value.named_parameters():
        within = name.split(".")
        if not parameter.requires_grad and (within[0] != "updates" or within[1] in value.active):
            yield name, parameter
    for name, buffer in value.named_buffers():
        within = name.split(".")
        if within[0] != "updates" or within[1] in value.active:
            yield name, buffer


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the entries of nested mappings under names with dots."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from _flat(one, f"{name}.{key}" if name else key)
    else:
        yield name, value
