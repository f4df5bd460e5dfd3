"""``zoo.load`` and ``zoo.wrap``: construct, stream, quantize, adapt."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.weak import WeakIdKeyDictionary

from zoo import host, registry
from zoo.adapters.config import Adapter
from zoo.adapters.targets import Group, layout_of
from zoo.errors import AdapterError, CheckpointError, ZooError
from zoo.fingerprint import Fingerprint
from zoo.model import Model, Plan
from zoo.packing import pack_weight
from zoo.registry import Entry
from zoo.weights.manage import (
    find_parameter,
    grouped_sites,
    library_modules,
    manage,
    save_pretrained,
    set_parameter,
    stores,
    unmanage,
)
from zoo.weights.packed import Packed
from zoo.weights.scheme import Quantization, as_quantization

Lora = int | str | os.PathLike[str] | Adapter | Mapping[str, Any] | None
Bits = int | Quantization | None

DEFAULT = "default"  # what an adapter is called that the user gave no name
COMPUTE_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def load(
    name: str,
    *,
    weights: str | None = None,
    revision: str | None = None,
    bits: Bits = None,
    lora: Lora = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    seed: int | None = None,
) -> Model:
    """A model of any architecture, quantized and with adapters if asked.

    name: a registry name (``zoo list``), a Hub repository ``owner/name`` or ``owner/name@revision``, or a local folder.
        Where a saved adapter lies there, its base is loaded with it; the adapter is called "default".
    weights, revision: another Hub repository, folder or commit than the entry's own.
    bits: 4, 8, 16, 32 or a ``zoo.Quantization``; None keeps the checkpoint's values as they are.
    lora: a rank, a ``zoo.LoRA``, where a saved adapter lies (a folder, a Hub repository ``owner/name``,
        ``owner/name@revision``, ``owner/name/folder``), or a dict of several by name; all of them become active.
    device: where to; default CUDA, then MPS, then CPU. ``"meta"`` builds the structure alone, without weights.
    dtype: the type to compute in; default bfloat16 on a GPU that has it, else float32.
    seed: for the adapters' random start.

    Tensors are read one at a time and quantized before the next one, so the full-precision model never exists.
    Raises a ``zoo.ZooError`` that says what to do; nothing is half loaded.
    """
    scheme = as_quantization(bits)
    target = pick_device(device)
    compute = pick_dtype(dtype, target)
    entry = registry.resolve(name, weights=weights, revision=revision, download=target.type != "meta")
    named = _named(lora)
    if entry.adapter is not None:
        if DEFAULT in named:
            raise AdapterError(
                f'{name!r} is a saved adapter and called {DEFAULT!r}: give others other names, lora={{"second": 8}}'
            )
        entry, named = replace(entry, adapter=None), {DEFAULT: entry.adapter, **named}
    with meta_parameters(), torch.random.fork_rng(devices=[]):  # libraries draw starts that nobody will see
        module = host.construct(entry)
    if target.type == "meta":
        fingerprint = None
        fill_meta(module, entry, scheme, compute)
    else:
        fingerprint = stream(module, entry, scheme, target, compute)
    module.eval()
    model = Model(module, entry, target, compute, scheme, fingerprint)
    return _ready(model, [model.plan(name, one, seed=seed) for name, one in named.items()])


def wrap(module: nn.Module, *, bits: Bits = None, lora: Lora = None, seed: int | None = None) -> Model:
    """The same for any ``nn.Module``, with no plugin: its weights are quantized and adapted in place.

    module: any module on any device; what it is and how it uses its weights does not matter. bits, lora, seed: as in
    ``zoo.load``. Verbs that need a plugin (sample, tune on its own data, …) say so; ``loss`` and ``tune`` want one too.
    Raises a ``zoo.ZooError``; the module is then as it was.
    """
    if not isinstance(module, nn.Module):
        raise ZooError(f"zoo.wrap: expected a torch.nn.Module, got {type(module).__name__}")
    scheme = as_quantization(bits)
    entry = Entry(name=type(module).__name__, plugin=None, source="module")
    groups = [(held, sites) for held, sites in grouped_sites(module) if isinstance(held, nn.Parameter)]
    if stores(module):
        raise ZooError("zoo.wrap: the module is managed already; wrap it once, then model.add_adapter, or model.unload")
    fingerprint = Fingerprint()
    stored: list[tuple[Group, Packed]] = []
    for held, sites in groups:
        if held.device.type != "meta":
            fingerprint.add(sites[0].name, held)
        packed = None if scheme is None else pack_weight(entry, (held, sites), held.detach(), scheme, held.dtype)
        if isinstance(packed, Packed):
            stored.append(((held, sites), packed))
    first = next(module.parameters(), torch.empty(0))
    dtype = first.dtype if first.dtype.is_floating_point else torch.float32
    model = Model(module, entry, first.device, dtype, scheme, fingerprint.hexdigest())
    try:  # planning may refuse, and sees the weights as they will be stored
        for (_, sites), packed in stored:
            manage(sites, packed, layout_of(sites, packed.shape))
        plans = [model.plan(name, one, seed=seed) for name, one in _named(lora).items()]
    except BaseException:
        for (parameter, sites), _ in stored:
            if isinstance(parameter, nn.Parameter):
                unmanage(sites, parameter)
        raise
    return _ready(model, plans)


def _named(lora: Lora) -> dict[str, Any]:
    if isinstance(lora, Mapping):
        return dict(lora)
    return {} if lora is None else {DEFAULT: lora}


def _ready(model: Model, plans: list[Plan]) -> Model:
    if stores(model.module):  # what is packed cannot train, and training the rest alone is nobody's wish
        model.freeze(quantized=True)
    model.module.get_parameter = functools.partial(find_parameter, model.module)  # type: ignore[method-assign]
    if callable(getattr(type(model.module), "save_pretrained", None)):
        model.module.__dict__["save_pretrained"] = functools.partial(save_pretrained, model.module)
    for plan in plans:
        model.attach(plan)
    return model


@contextmanager
def meta_parameters() -> Iterator[None]:
    """Parameters made inside lie on ``meta``; buffers are real, because nothing would ever fill them again.

    accelerate's ``init_empty_weights`` makes a new parameter at every assignment, and so unties those that are shared.
    """
    register = nn.Module.register_parameter
    empty = WeakIdKeyDictionary()  # parameter → its stand-in on meta

    def register_on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not is_lazy(parameter) and not parameter.is_meta:
            if parameter not in empty:
                made = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=parameter.requires_grad)
                made.__dict__.update(parameter.__dict__)
                empty[parameter] = made
            parameter = empty[parameter]
        register(module, name, parameter)

    nn.Module.register_parameter = register_on_meta  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def pick_device(device: str | torch.device | None) -> torch.device:
    """The device asked for; by default CUDA, then MPS, then CPU. Raises ``ZooError`` for one that is not there."""
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ZooError(f"device {device!r}: expected 'cpu', 'cuda', 'cuda:1', 'mps' or 'meta'") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ZooError(f"device {device!r}: torch sees {torch.cuda.device_count()} CUDA devices; use device='cpu'")
    try:
        torch.empty(0, device=chosen)
    except Exception as error:  # each backend that is not there says so in its own way
        raise ZooError(f"device {device!r} is not there; use device='cpu'") from error
    return torch.device("cuda", chosen.index or 0) if chosen.type == "cuda" else chosen


def pick_dtype(dtype: torch.dtype | str | None, device: torch.device) -> torch.dtype:
    """The compute type asked for; by default bfloat16 on a GPU that has it, else float32."""
    if dtype is None:
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if has_bf16 else torch.float32
    chosen = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if chosen not in COMPUTE_TYPES:
        known = ", ".join(str(each).removeprefix("torch.") for each in COMPUTE_TYPES)
        raise ZooError(f"dtype {dtype!r}: expected one of {known}")
    return chosen


def fill_meta(module: nn.Module, entry: Entry, scheme: Quantization | None, dtype: torch.dtype) -> None:
    """Give every parameter its type and storage on ``meta``, without weights."""
    for held, sites in grouped_sites(module):
        if isinstance(held, nn.Parameter):
            place(entry, (held, sites), held.detach(), scheme, dtype)


def stream(
    module: nn.Module, entry: Entry, scheme: Quantization | None, device: torch.device, dtype: torch.dtype
) -> str:
    """Fill the module from its checkpoint, one tensor at a time; returns the fingerprint of what was read.

    Raises ``CheckpointError`` that names tensors that are missing, unexpected or of another shape.
    """
    groups = {site.name: group for group in grouped_sites(module) for site in group[1]}
    buffers = {
        f"{path}.{name}" if path else name: (layer, name)
        for path, layer in library_modules(module, remove_duplicate=False)
        for name, buffer in layer._buffers.items()
        if buffer is not None and name not in layer._non_persistent_buffers_set
    }
    missing = {sites[0].name for _, sites in groups.values()} | set(buffers)
    fingerprint = Fingerprint()
    unexpected = []
    for name, tensor in host.checkpoint(entry, module):
        if name in buffers:
            layer, attribute = buffers[name]
            _check_shape(entry, name, layer._buffers[attribute].shape, tensor.shape)  # type: ignore[union-attr]
            # As module.to(dtype) would have it: running means in the type of what they normalise.
            own = dtype if tensor.is_floating_point() else tensor.dtype
            layer._buffers[attribute] = tensor.to(device, own, copy=True)
            missing -= {other for other, where in buffers.items() if where == buffers[name]}
        elif name in groups:
            group = groups[name]
            first = group[1][0].name
            _check_shape(entry, name, group[0].shape, tensor.shape)
            if first not in missing:
                if not fingerprint.agrees(first, tensor):
                    raise CheckpointError(
                        f"{entry.name!r}: {name} and {first} are one weight of the module, and the checkpoint holds "
                        "two that differ; its configuration is not the one that it was made with"
                    )
                continue
            fingerprint.add(first, tensor)
            place(entry, group, tensor.to(device), scheme, dtype)
            missing.discard(first)
        else:
            unexpected.append(name)
        del tensor
    if unexpected or missing:
        raise _misfit(entry, sorted(missing), unexpected)
    left = [name for name, tensor in (*module.named_parameters(), *module.named_buffers()) if tensor.is_meta]
    if left:
        raise CheckpointError(f"{entry.name!r}: {left[0]} was never filled; its plugin must make it real in construct")
    for _, layer in library_modules(module):
        for attribute, buffer in layer._buffers.items():
            if buffer is not None:
                layer._buffers[attribute] = buffer.to(device)
    return fingerprint.hexdigest()


def place(entry: Entry, group: Group, weight: Tensor, scheme: Quantization | None, dtype: torch.dtype) -> None:
    """Put one weight where it belongs: packed in a store, or as a plain parameter of type ``dtype``."""
    packed = None if scheme is None else pack_weight(entry, group, weight, scheme, dtype)
    if packed is not None:
        manage(group[1], packed, layout_of(group[1], packed.shape))
        return
    if weight.is_floating_point() and weight.dtype != dtype:
        weight = weight.to(dtype)
    elif weight.device.type == "cpu":
        weight = weight.clone()  # not a view of the file, which may change or go
    set_parameter(group[1], weight)


def _check_shape(entry: Entry, name: str, expected: torch.Size, got: torch.Size) -> None:
    if tuple(expected) != tuple(got):
        raise CheckpointError(
            f"{entry.name!r}: {name} has shape {tuple(got)} in the checkpoint, expected {tuple(expected)}; "
            "configuration and weights are not of the same model"
        )


def _misfit(entry: Entry, missing: list[str], unexpected: list[str]) -> CheckpointError:
    def some(names: list[str]) -> str:
        return f"{len(names)} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"

    parts = [f"lacks {some(missing)}"] if missing else []
    parts += [f"has unexpected {some(unexpected)}"] if unexpected else []
    return CheckpointError(
        f"{entry.name!r}: the checkpoint {' and '.join(parts)} of the module's weights; "
        "it is incomplete, or of another architecture or configuration"
    )
