"""`zoo.load` and `zoo.wrap`: construct, stream, quantize, adapt."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from zoo.adapters.prepared import PreparedAdapter
from zoo.catalog.entry import RANDOM, Entry
from zoo.catalog.head import as_head
from zoo.errors import AdapterError, ZooError
from zoo.formats import packed
from zoo.formats.trainer import save_pretrained
from zoo.hub.adapters import resolve_path
from zoo.loading.buffers import construct, make_real
from zoo.loading.calibrated import (
    calibrate_loaded,
    calibrate_wrapped,
    check_calibration,
    kept,
    stand_ins,
    unchanged_after_error,
)
from zoo.loading.device import pick_device, pick_dtype
from zoo.loading.heads import NewHead, with_head
from zoo.loading.losses import warn_of_losses
from zoo.loading.random_weights import initial_tensors
from zoo.loading.resolve import resolve
from zoo.loading.sensitivity import costs_by_data, costs_of_outputs
from zoo.loading.stream import fill_meta, stream
from zoo.methods.config import Adapter
from zoo.model import Model
from zoo.plugin import hooks
from zoo.plugin.foreign import foreign_weights
from zoo.plugin.plan import plan
from zoo.plugin.quantize import pack_weight
from zoo.plugin.requests import check_seed
from zoo.runs.completed import Loaded, data_table
from zoo.storage.fingerprint import Fingerprint
from zoo.tuning.sharding import mesh_to_load_on
from zoo.weights.foreign.adopt import adopt_all, give_all_back
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.offload import offload_hook
from zoo.weights.parameters import find_parameter, replace_parameter
from zoo.weights.quantized_tensor import QuantizedTensor
from zoo.weights.readings import reading_together
from zoo.weights.scheme import Quantization, as_quantization
from zoo.weights.state_dicts import check_loading
from zoo.weights.walk import TiedGroup, index_module, managed_weights, unwrapped

Lora = int | str | os.PathLike[str] | Adapter | Mapping[str, Any] | None
Bits = int | str | Quantization | Mapping[str, int | Quantization] | None

DEFAULT = "default"  # name of an adapter that the user has not named


def load(
    name: str,
    *,
    weights: str | None = None,
    revision: str | None = None,
    bits: Bits = None,
    keep: Sequence[str] = (),
    lora: Lora = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    seed: int | None = None,
    calibrate: Any = None,
    classes: Sequence[str] | int | None = None,
    task: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
) -> Model:
    """Load a model of any architecture, quantized and with adapters if requested.

    Tensors are read one at a time and quantized before the next one, so the full-precision model never exists.

    Args:
        name: a registry name (`zoo list`), a Hub repository `owner/name` or `owner/name@revision`, or a local folder.
            If it is that of a saved adapter, its base is loaded with it, and the adapter is called "default".
        weights: another Hub repository or local folder than the entry's; "embedded" for those that the plugin carries;
            "random" for weights as the library initialises them, to train from (see `Model.tune`).
        revision: another branch, tag or commit than the entry's.
        bits: 4, 8, 16, 32 or a `zoo.Quantization`; None keeps the checkpoint's values as they are. A dict says it by
            suffixes of weights, `{"lm_head": 8, "all": 4}`. In 4 bit the smallest weights are in 8 bit, unless
            `zoo.Quantization(mixed=False)`. `"auto:4.5"` stores each weight in 4, 8 or 16 bit, so that all that is
            stored is at most 4.5 bits per value. A model that was saved with `packed=True`, or by transformers with
            bitsandbytes, is loaded without quantizing it again.
        keep: suffixes of weights that stay in full precision.
        lora: a rank, a `zoo.LoRA`, the place of a saved adapter (a folder, a Hub repository `owner/name`,
            `owner/name@revision`, `owner/name/folder`), or a dict of several by name; all of them become active.
        device: default CUDA, then MPS, then CPU. `"meta"` builds the structure alone, without weights.
        dtype: the compute dtype; default that of a packed model, else bfloat16 on a GPU that has it, else float32.
            Random weights, all of which are to be trained, are float32 by default on any device.
        seed: for random weights, for the adapters' random initialisation, and for calibrating.
        calibrate: data by which weights are rounded instead of each value by itself, at the same bits, see
            `model.calibration`: what `model.batches` takes (True for the plugin's own, a name, a folder, a file, a
            Dataset), of which 128 items are used; or an iterable of what the module is called with, a tensor, a tuple
            of positional arguments or a dict of keywords for each call. Until a weight's turn comes, it is in 8 bit.
        classes: names of classes, or how many, for a new head in the place of the checkpoint's, if that has others.
            It stays in full precision, trains with every adapter, and is saved with it; classes that the checkpoint
            knows by name begin with its rows.
        task: what the head is for: "classify" (the default with classes), "multilabel", "regress" or "tokens".
        image_size: pixels of an edge, or (height, width), of the images that the model is to take: positions are
            resized.
        channels: how many these images have: the first layer's kernels are summed or repeated.

    Raises:
        ZooError: one of its subclasses, with what to do; nothing is half loaded.
    """
    given: dict[str, Any] = dict(locals())
    check_seed(seed)
    scheme, asked = as_quantization(bits, keep), as_head(classes, task, image_size, channels)
    target = pick_device(device)
    compute = pick_dtype(torch.float32 if dtype is None and weights == RANDOM else dtype, target)
    entry = resolve(name, weights=weights, revision=revision, download=target.type != "meta")
    stored = None if entry.weights == RANDOM else packed.read(entry)
    if stored is not None:
        scheme = stored.check_scheme(scheme)
        compute = stored.dtype if dtype is None and stored.dtype is not None else compute
    check_calibration(calibrate, scheme, entry, stored is not None, target.type == "meta")
    named = _named(lora)
    if calibrate is not None:
        given["calibrate"] = data_table(calibrate)
    if entry.adapter is not None:
        given["adapter"] = str(entry.adapter)
        if DEFAULT in named:
            raise AdapterError(
                f'{name!r} is a saved adapter and called {DEFAULT!r}: give others other names, lora={{"second": 8}}'
            )
        entry, named = replace(entry, adapter=None), {DEFAULT: entry.adapter, **named}
    # Once for all that follows, so that the Hub is asked once and all of it is of one commit.
    named = {key: resolve_path(one) if isinstance(one, str | os.PathLike) else one for key, one in named.items()}
    entry = with_head(entry, asked, named)
    module = construct(entry)
    index = index_module(module)  # the only walk over the module: its result is passed on
    new = None if entry.head is None else NewHead(entry, module, index)
    make_real(entry, index)
    written = None if stored is None else stored.plan()
    if written is None:
        calibrate = kept(calibrate)
        costs = costs_by_data(entry, scheme, calibrate, target, compute, seed)
        chosen = plan(entry, index.groups, scheme, compute, costs)
    else:
        chosen = written
    if target.type == "meta":
        fingerprint = None
        if new is not None:
            new.planned(chosen)
        fill_meta(index, entry, chosen, compute)
    else:
        if entry.weights == RANDOM:
            tensors = initial_tensors(entry, seed)
        elif stored is not None and stored.weights is not None:
            tensors = packed.tensors(entry, stored)
        else:
            tensors = hooks.checkpoint(entry, module)
        base = None if stored is None else stored.base
        placed = chosen if calibrate is None else stand_ins(chosen)
        mesh = mesh_to_load_on(target, calibrate is not None)
        if new is not None:
            tensors = new.filled(tensors, placed, seed)
        fingerprint = stream(tensors, index, entry, {} if stored else placed, target, compute, base, mesh)
    module.eval()
    if new is not None:
        entry = new.finished()
        chosen = {name: how for name, how in chosen.items() if name not in new.new}
    model = Model(module, entry, target, compute, scheme, fingerprint, index.groups)
    if calibrate is not None:
        model.calibration = calibrate_loaded(model, index.groups, chosen, calibrate, seed)
    prepared = [model.prepare_adapter(key, one, seed=seed, groups=index.groups) for key, one in named.items()]
    model = _ready(model, prepared, index.groups)
    model.loaded = Loaded(given, dict(model.adapter_set.configs), dict(model.adapter_set.weights))
    return model


def wrap(
    module: nn.Module,
    *,
    bits: Bits = None,
    keep: Sequence[str] = (),
    lora: Lora = None,
    seed: int | None = None,
    calibrate: Any = None,
) -> Model:
    """Quantize and adapt the weights of any `nn.Module` in place, without a plugin.

    Methods that need a plugin (`sample`, `batches`, `loss`, `tune`, …) raise an error.

    Args:
        module: any module on any device, however it uses its weights.
        bits: as in `zoo.load`.
        keep: as in `zoo.load`.
        lora: as in `zoo.load`.
        seed: as in `zoo.load`.
        calibrate: an iterable of what the module is called with, by which weights are rounded, as in `zoo.load`. The
            running statistics of batch norms follow.

    Raises:
        ZooError: one of its subclasses; the module is then unchanged.
    """
    check_seed(seed)
    if not isinstance(module, nn.Module):
        raise ZooError(f"zoo.wrap: expected a torch.nn.Module, got {type(module).__name__}")
    _check_distribution(module)
    scheme = as_quantization(bits, keep)
    if managed_weights(module):
        raise ZooError("zoo.wrap: the module is managed already; wrap it once, then model.add_adapter, or model.unload")
    foreign = foreign_weights(module, scheme)
    try:
        adopt_all(module, foreign)
        return _wrapped(module, scheme, lora, seed, calibrate)
    except BaseException:
        give_all_back(module)
        raise


def _wrapped(module: nn.Module, scheme: Quantization | None, lora: Lora, seed: int | None, calibrate: Any) -> Model:
    """Return the model of a module in which other libraries' weights are managed already."""
    entry = Entry(name=type(unwrapped(module)).__name__, plugin=None, source="module")
    groups = index_module(module).groups
    # Only the structure is there.
    on_meta = all(group.value.device.type == "meta" for group in groups)
    on_meta = on_meta and not any(map(offload_hook, module.modules()))
    check_calibration(calibrate, scheme, entry, False, on_meta)
    calibrate = kept(calibrate)
    chosen = plan(entry, groups, scheme, costs=costs_of_outputs(entry, module, groups, scheme, calibrate, seed))
    fingerprint = Fingerprint()
    quantized: list[tuple[TiedGroup, nn.Parameter, QuantizedTensor]] = []
    first = groups[0].tensor() if groups else torch.empty(0)
    with reading_together(first.device):
        for group in groups:
            parameter = group.value
            if isinstance(parameter, ManagedWeight):
                if parameter.device.type != "meta":
                    fingerprint.add(group.name, parameter.base_tensor())
                continue
            tensor = group.tensor()
            if not tensor.is_meta:
                fingerprint.add(group.name, tensor)
            elif not on_meta:
                raise ZooError(
                    f"zoo.wrap: {group.name} has no values, it is on 'meta', and no hook of its layer's keeps them: "
                    "load the weights first, and offload the module afterwards"
                )
            packed = pack_weight(entry, group, tensor.detach(), chosen, parameter.dtype)
            if packed is not None:
                quantized.append((group, parameter, packed))
    dtype = first.dtype if first.dtype.is_floating_point else torch.float32
    model = Model(module, entry, first.device, dtype, scheme, fingerprint, groups)
    # Preparing an adapter may refuse, and sees the weights as they will be stored.
    with unchanged_after_error(module, quantized):
        if calibrate is None:
            for group, _, packed in quantized:
                replace_parameter(group, packed)
        else:
            model.calibration = calibrate_wrapped(module, quantized, calibrate, seed)
        prepared = [model.prepare_adapter(name, one, seed=seed, groups=groups) for name, one in _named(lora).items()]
    return _ready(model, prepared, groups)


def _check_distribution(module: nn.Module) -> None:
    """Refuse a module whose weights torch shards in place; warn of one whose new parameters it will not average."""
    for layer in module.modules():
        kinds = {kind.__name__ for kind in type(layer).__mro__}
        if "FullyShardedDataParallel" in kinds:
            raise ZooError(
                "zoo.wrap: the module is in FullyShardedDataParallel already, which writes to its weights in place: "
                "wrap it before, and shard model.module afterwards with torch.distributed.fsdp.fully_shard"
            )
        if "DistributedDataParallel" in kinds and layer.process_group.size() > 1:  # type: ignore[operator]
            logging.getLogger("zoo").warning(
                "zoo.wrap: the module is in DistributedDataParallel already, which will not average the gradients of "
                "adapters that are made now: to train them, wrap it before"
            )


def _named(lora: Lora) -> dict[str, Any]:
    if isinstance(lora, Mapping):
        return dict(lora)
    return {} if lora is None else {DEFAULT: lora}


def _ready(model: Model, prepared: list[PreparedAdapter], groups: list[TiedGroup]) -> Model:
    if any(isinstance(group.value, ManagedWeight) for group in groups):
        # Quantized weights cannot train, so freeze the whole base.
        model.adapter_set.base_training.freeze(groups, permanently=True)
    inner = unwrapped(model.module)
    inner.get_parameter = functools.partial(find_parameter, inner)  # type: ignore[method-assign]
    if callable(getattr(type(inner), "save_pretrained", None)):
        inner.__dict__["save_pretrained"] = functools.partial(save_pretrained, model.adapter_set)
    for root in {model.module, inner}:
        check_loading(root, root=True)
    for one in prepared:
        model.adapter_set.attach(one)
    warn_of_losses(model.entry.name, groups, model.calibration)
    return model
