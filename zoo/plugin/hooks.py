"""Calls of the hooks: one typed function for each; pluggy's `hook.x(...)` is called nowhere else.

A hook is called on the plugin that the entry names and, if that returns None, on zoo's own implementation; no other
plugin is called. Observers that are switched on see every call. An exception that a plugin raises, and a result that
breaks the hook's contract, become a `PluginError` that names plugin and hook; with `ZOO_STRICT=1` the plugin's own
exception is raised instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from numbers import Real
from typing import TYPE_CHECKING, Any

from zoo.catalog.discovery import strict
from zoo.compat import warn
from zoo.errors import PluginError
from zoo.plugin import manager, recognition
from zoo.plugin.building import building
from zoo.plugin.calling import AnswerError, broke, call_one, checked, each_pair, first, not_builtin, required
from zoo.plugin.guarded import Guarded
from zoo.plugin.hooks_of_use import (
    declared,
    describe,
    draw,
    embed,
    engine,
    forget,
    forward_pass,
    options_of,
    run_rows,
    sample,
    sample_kinds,
    sample_options,
    save,
)
from zoo.plugin.manager import (
    BUILTIN,
    HOOKS,
    all_names,
    implemented,
    load,
    observe,
    observes,
    register,
)
from zoo.plugin.recognition import passed_over, recognise, usable
from zoo.plugin.requests import EvaluationRequest, unknown_metric

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from zoo.catalog.entry import Entry
    from zoo.catalog.head import Heads
    from zoo.methods.config import Adapter
    from zoo.metrics.figures import Figures
    from zoo.plugin.contract import LoadedModel
    from zoo.plugin.requests import BatchRequest
    from zoo.weights.foreign.weight import ForeignWeight
    from zoo.weights.lazy_weight import LazyWeight
    from zoo.weights.quantized_tensor import QuantizedTensor
    from zoo.weights.scheme import Quantization
    from zoo.weights.update import Update

__all__ = [
    "HOOKS",
    "AnswerError",
    "adapter_config",
    "batches",
    "checkpoint",
    "construct",
    "count",
    "declared",
    "describe",
    "distill",
    "draw",
    "embed",
    "engine",
    "evaluate",
    "foreign_weight",
    "forward_pass",
    "implemented",
    "inject_adapter",
    "load",
    "loss",
    "observe",
    "observes",
    "options_of",
    "quantize",
    "recognise",
    "register",
    "reset",
    "run_rows",
    "sample",
    "sample_kinds",
    "sample_options",
    "save",
    "strict",
    "tuning",
]


def reset() -> None:
    """Forget every loaded plugin and every failure, and read the installed metadata again."""
    manager.reset()
    recognition.forget()
    forget()


def construct(entry: Entry) -> nn.Module:
    """Return the module of an entry, without weights. The caller sets up the meta context (parameters only)."""
    from torch import nn

    with building(entry):
        module = required("construct", entry, entry=entry)
    return checked(module, isinstance(module, nn.Module), entry, "construct", "a torch.nn.Module")


def checkpoint(entry: Entry, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield (parameter name, tensor) of the entry's weights: as its plugin reads them, else from its safetensors."""
    pairs, plugin = first("checkpoint", (entry.plugin, BUILTIN), entry=entry, module=module)
    if pairs is None:
        raise PluginError(f"no checkpoint for {entry.name!r}: neither its plugin nor zoo found weights to read")
    if isinstance(pairs, dict):
        pairs = pairs.items()
    checked(pairs, isinstance(pairs, Iterable), entry, "checkpoint", "an iterator of (name, tensor)")
    return each_pair(pairs, plugin)


def quantize(entry: Entry, name: str, weight: Tensor, scheme: Quantization) -> QuantizedTensor | Tensor | None:
    """Return one weight as it is to be stored: quantized, or as it is to keep it in full precision.

    Calls the architecture's plugin, then the scheme's, then zoo's own implementation, until one does not return None.
    Returns None if all of them do.
    """
    from torch import Tensor

    from zoo.weights.quantized_tensor import QuantizedTensor

    plugins = (entry.plugin, not_builtin(scheme.scheme), BUILTIN)
    stored, plugin = first("quantize", plugins, entry=entry, name=name, weight=weight, scheme=scheme)
    right = stored is None or isinstance(stored, QuantizedTensor | Tensor)
    return checked(stored, right, plugin, "quantize", "zoo.QuantizedTensor or a Tensor")


def adapter_config(kind: str, raw: dict[str, Any]) -> Adapter | None:
    """Return the configuration of a saved adapter, from its kind's plugin or from zoo; None for an unknown kind."""
    from zoo.methods.config import Adapter

    config, plugin = first("adapter_config", (not_builtin(kind), BUILTIN), raw=raw)
    return checked(config, config is None or isinstance(config, Adapter), plugin, "adapter_config", "a zoo.Adapter")


def inject_adapter(entry: Entry, name: str, weight: LazyWeight, config: Adapter) -> Update | None:
    """Return what an adapter does to one weight.

    Calls the architecture's plugin, then the adapter kind's, then zoo's own implementation, until one does not return
    None. Returns None if all of them do.
    """
    from zoo.weights.update import Update

    plugins = (entry.plugin, not_builtin(getattr(config, "kind", None)), BUILTIN)
    update, plugin = first("inject_adapter", plugins, entry=entry, name=name, weight=weight, config=config)
    return checked(update, update is None or isinstance(update, Update), plugin, "inject_adapter", "an Update")


def foreign_weight(layer: nn.Module, dtype: torch.dtype) -> ForeignWeight | None:
    """Return how an installed plugin reads a layer that another library quantized; None if none of them does.

    Plugins that cannot be loaded or that fail are passed over and named.
    """
    from zoo.weights.foreign.weight import ForeignWeight

    for name in usable(all_names()):
        try:
            able = not observes(name) and "foreign_weight" in implemented(name)
            weight = call_one("foreign_weight", name, layer=layer, dtype=dtype) if able else None
        except PluginError as error:
            passed_over(name, str(error))
            continue
        if weight is not None:
            return checked(weight, isinstance(weight, ForeignWeight), name, "foreign_weight", "a zoo.ForeignWeight")
    return None


def loss(model: LoadedModel, batch: Any) -> Tensor:
    """Return the loss of one batch: a scalar tensor."""
    from torch import Tensor

    value = required("loss", model.entry, model=model, batch=batch)
    if isinstance(value, Tensor) and value.dim() != 0:
        raise broke(model.entry, "loss", "a scalar tensor", f"a tensor of shape {tuple(value.shape)}")
    return checked(value, isinstance(value, Tensor), model.entry, "loss", "a scalar tensor")


def distill(model: LoadedModel, teacher: LoadedModel, batch: Any, share: float) -> Tensor:
    """Return the loss of one batch for a model that learns from a teacher: a scalar tensor."""
    from zoo.plugin.distilling import distilled

    value, _ = first("distill", (model.entry.plugin,), model=model, teacher=teacher, batch=batch, share=share)
    value = distilled(model, teacher, batch, share, loss) if value is None else value
    return checked(value, getattr(value, "shape", None) == (), model.entry, "distill", "a scalar tensor")


def count(model: LoadedModel, batch: Any) -> float:
    """Return what the loss of one batch is the mean of; 1, so that all batches count alike, if the plugin says none."""
    number, _ = first("count", (model.entry.plugin,), model=model, batch=batch)
    right = number is None or (isinstance(number, int | float) and 0 <= number < float("inf"))
    return 1.0 if number is None else float(checked(number, right, model.entry, "count", "a number of at least 0"))


def batches(model: LoadedModel, data: Any, request: BatchRequest) -> Iterator[Any]:
    """Yield batches of the user's data, as the plugin's own `loss` takes them."""
    made = required("batches", model.entry, model=model, data=data, request=request)
    checked(made, isinstance(made, Iterable), model.entry, "batches", "an iterable of batches")
    return Guarded(made, str(model.entry.plugin), "batches")


def evaluate(model: LoadedModel, data: Any, request: EvaluationRequest | None = None) -> Figures:
    """Return the metrics on held-out data; the first is the main one.

    Raises:
        UnknownNameError: a metric is wanted that the plugin does not give.
    """
    from zoo.metrics.figures import Figures

    request = request or EvaluationRequest()
    found = required("evaluate", model.entry, model=model, data=data, request=request)
    right = (
        isinstance(found, dict)
        and bool(found)
        and all(isinstance(name, str) and isinstance(value, Real) for name, value in found.items())
    )
    checked(found, right, model.entry, "evaluate", "a dict of floats")
    figures = found if isinstance(found, Figures) else Figures({name: float(value) for name, value in found.items()})
    for name in request.metrics:
        if name not in figures and name not in figures.missing:
            raise unknown_metric(name, figures)
    return figures


def tuning(entry: Entry) -> dict[str, Any]:
    """Return the plugin's own defaults of `tune`'s settings; empty if it has none."""
    settings, _ = first("tuning", (entry.plugin,), entry=entry)
    if isinstance(settings, dict) and "average" in settings:
        warn(f"plugin {entry.plugin!r}: the setting average of its hook 'tuning' is now ema_decay")
        settings = {"ema_decay" if name == "average" else name: value for name, value in settings.items()}
    known = {"batch_size", "lr", "betas", "grad_clip", "warmup", "ema_decay", "weight_decay", "schedule"}
    right = settings is None or (isinstance(settings, dict) and set(settings) <= known)
    return dict(checked(settings, right, entry, "tuning", f"a dict of {', '.join(sorted(known))}") or {})


def heads(entry: Entry) -> Heads:
    """Return for which tasks an architecture makes a new head; for none if its plugin does not say."""
    from zoo.catalog.head import Heads

    found, _ = first("heads", (entry.plugin,), entry=entry)
    return checked(found, found is None or isinstance(found, Heads), entry, "heads", "a zoo.Heads") or Heads()
