"""Asking plugins: one typed function per hook; `hook.x(...)` is called nowhere else.

An architecture's hooks are asked of the plugin that the entry names and then, where it passes, of zoo's own
implementation; nobody else is asked. Observers that are switched on see every call. What a plugin raises or returns
against its contract becomes a `PluginError` that names plugin and hook, unless `ZOO_STRICT=1` asks for the bare
exception.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.catalog import discovery
from zoo.catalog.discovery import strict
from zoo.errors import PluginError, ZooError
from zoo.plugin.manager import (
    BUILTIN,
    HOOKS,
    at_fault,
    caller,
    implemented,
    installed,
    load,
    observe,
    observes,
    one_line,
    register,
    reset,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zoo.catalog.entry import Entry
    from zoo.methods.config import Adapter
    from zoo.plugin.contract import LoadedModel
    from zoo.plugin.requests import BatchRequest, SampleRequest
    from zoo.samples import Samples
    from zoo.weights.lazy_weight import LazyWeight
    from zoo.weights.quantized_tensor import QuantizedTensor
    from zoo.weights.scheme import Quantization
    from zoo.weights.update import Update

__all__ = [
    "HOOKS",
    "adapter_config",
    "batches",
    "checkpoint",
    "construct",
    "describe",
    "draw",
    "evaluate",
    "implemented",
    "inject_adapter",
    "load",
    "loss",
    "observe",
    "observes",
    "quantize",
    "recognise",
    "register",
    "reset",
    "run_rows",
    "sample",
    "save",
    "strict",
    "tuning",
]


def recognise(config: dict[str, Any]) -> tuple[str, ...]:
    """The names of the installed plugins that recognise a configuration; plugins that do not load are passed over."""
    found = []
    for name in discovery.claims():
        try:
            if observes(name):
                continue
        except ZooError:
            continue
        if _ask("recognises", name, config=config):
            found.append(name)
    return tuple(found)


def construct(entry: Entry) -> nn.Module:
    """The module of an entry, without weights. The caller sets up the meta context (parameters only)."""
    from torch import nn

    module = _required("construct", entry, entry=entry)
    return _checked(module, isinstance(module, nn.Module), entry, "construct", "a torch.nn.Module")


def checkpoint(entry: Entry, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(parameter name, tensor) of the entry's weights, one at a time: the plugin's, else the entry's safetensors."""
    pairs, plugin = _first("checkpoint", (entry.plugin, BUILTIN), entry=entry, module=module)
    if pairs is None:
        raise PluginError(f"no checkpoint for {entry.name!r}: neither its plugin nor zoo found weights to read")
    if isinstance(pairs, dict):
        pairs = pairs.items()
    _checked(pairs, isinstance(pairs, Iterable), entry, "checkpoint", "an iterator of (name, tensor)")
    return _each_pair(pairs, plugin)


def quantize(entry: Entry, name: str, weight: Tensor, scheme: Quantization) -> QuantizedTensor | Tensor | None:
    """How one weight is stored: the architecture's word, else the scheme's plugin's, else zoo's; None: nobody's."""
    from torch import Tensor

    from zoo.weights.quantized_tensor import QuantizedTensor

    asked = (entry.plugin, installed(scheme.scheme), BUILTIN)
    stored, plugin = _first("quantize", asked, entry=entry, name=name, weight=weight, scheme=scheme)
    return _checked(
        stored, stored is None or isinstance(stored, QuantizedTensor | Tensor), plugin, "quantize", "Packed or a Tensor"
    )


def adapter_config(kind: str, raw: dict[str, Any]) -> Adapter | None:
    """The configuration of a saved adapter: the kind's plugin's word, else zoo's; None: nobody knows the kind."""
    from zoo.methods.config import Adapter

    config, plugin = _first("adapter_config", (installed(kind), BUILTIN), raw=raw)
    return _checked(config, config is None or isinstance(config, Adapter), plugin, "adapter_config", "a zoo.Adapter")


def inject_adapter(entry: Entry, name: str, weight: LazyWeight, config: Adapter) -> Update | None:
    """One weight's update: the architecture's word, else the adapter kind's plugin's, else zoo's; None: nobody's."""
    from zoo.weights.update import Update

    asked = (entry.plugin, installed(getattr(config, "kind", None)), BUILTIN)
    update, plugin = _first("inject_adapter", asked, entry=entry, name=name, weight=weight, config=config)
    return _checked(update, update is None or isinstance(update, Update), plugin, "inject_adapter", "an Update")


def sample(model: LoadedModel, request: SampleRequest) -> Samples:
    """`request.n` samples of the model."""
    from zoo.samples import Samples

    samples = _required("sample", model.entry, model=model, request=request)
    return _checked(samples, isinstance(samples, Samples), model.entry, "sample", "zoo.Samples")


def draw(model: LoadedModel, request: SampleRequest) -> Samples:
    """Return `request.n` samples, drawn without gradients in evaluation mode; the mode is as before afterwards."""
    import torch

    from zoo.torch_state.modes import evaluating

    with torch.no_grad(), evaluating(model.module):
        return sample(model, request)


def loss(model: LoadedModel, batch: Any) -> Tensor:
    """The loss of one batch: a scalar tensor."""
    from torch import Tensor

    value = _required("loss", model.entry, model=model, batch=batch)
    if isinstance(value, Tensor) and value.dim() != 0:
        raise _broke(model.entry, "loss", "a scalar tensor", f"a tensor of shape {tuple(value.shape)}")
    return _checked(value, isinstance(value, Tensor), model.entry, "loss", "a scalar tensor")


def batches(model: LoadedModel, data: Any, request: BatchRequest) -> Iterator[Any]:
    """Batches of the user's data, as the plugin's own `loss` takes them."""
    made = _required("batches", model.entry, model=model, data=data, request=request)
    _checked(made, isinstance(made, Iterable), model.entry, "batches", "an iterable of batches")
    return _guarded(made, str(model.entry.plugin), "batches")


def evaluate(model: LoadedModel, data: Any) -> dict[str, float]:
    """Named figures on held-out data; the first is the main one."""
    figures = _required("evaluate", model.entry, model=model, data=data)
    right = (
        isinstance(figures, dict)
        and bool(figures)
        and all(isinstance(name, str) and isinstance(value, Real) for name, value in figures.items())
    )
    return {name: float(v) for name, v in _checked(figures, right, model.entry, "evaluate", "a dict of floats").items()}


def tuning(entry: Entry) -> dict[str, Any]:
    """Settings of `tune` that the plugin would have by default; none where it says nothing."""
    settings, _ = _first("tuning", (entry.plugin,), entry=entry)
    known = {"batch_size", "lr", "betas", "grad_clip", "warmup", "average"}
    right = settings is None or (isinstance(settings, dict) and set(settings) <= known)
    return dict(_checked(settings, right, entry, "tuning", f"a dict of {', '.join(sorted(known))}") or {})


def describe(entry: Entry) -> dict[str, str]:
    """Facts about an entry, label → text; none where the plugin tells none."""
    facts, _ = _first("describe", (entry.plugin,), entry=entry)
    right = facts is None or isinstance(facts, dict)
    return {
        str(label): str(text) for label, text in (_checked(facts, right, entry, "describe", "a dict") or {}).items()
    }


def save(model: LoadedModel, folder: Path, state_dict: dict[str, Tensor]) -> bool:
    """Whether the plugin wrote the model into `folder` in its library's format; False leaves it to the caller."""
    written, _ = _first("save", (model.entry.plugin,), model=model, folder=folder, state_dict=state_dict)
    return bool(_checked(written, written is None or isinstance(written, bool), model.entry, "save", "True or None"))


def run_rows(model: LoadedModel, args: tuple[Any, ...], kwargs: dict[str, Any], rows: Tensor, count: int) -> Any:
    """The module's output for the samples `rows` of `count`; None where the plugin leaves it to the caller."""
    output, _ = _first("run_rows", (model.entry.plugin,), model=model, args=args, kwargs=kwargs, rows=rows, count=count)
    return output


def _required(hook: str, entry: Entry, /, **arguments: Any) -> Any:
    result, plugin = _first(hook, (entry.plugin,), **arguments)
    if result is None:
        if not plugin:
            raise PluginError(f"{entry.name!r} has no plugin, and {hook!r} needs one: call the module itself")
        has = hook in implemented(plugin)
        said = "returned None from its hook" if has else "does not implement the hook"
        raise PluginError(f"plugin {plugin!r} {said} {hook!r}, which an architecture needs for this")
    return result


def _first(hook: str, plugins: Iterable[str | None], /, **arguments: Any) -> tuple[Any, str]:
    """The first answer that is not None, and who gave it; else None and the last who was asked."""
    asked = ""
    for name in plugins:
        if not name:
            continue
        asked = name
        answer = _ask(hook, name, **arguments)
        if answer is not None:
            return answer, name
    return None, asked


def _ask(hook: str, plugin: str, /, **arguments: Any) -> Any:
    call = caller(hook, plugin)
    try:
        return call(**arguments)
    except Exception as error:
        culprit = at_fault(error, plugin)
        if isinstance(error, ZooError) or culprit == BUILTIN or strict():
            raise
        raise PluginError(f"plugin {culprit!r} failed in its hook {hook!r}: {one_line(error)}") from error


# Checking what comes back


def _checked(value: Any, right: bool, who: Entry | str, hook: str, expected: str) -> Any:
    if not right:
        raise _broke(who, hook, expected, f"{type(value).__module__}.{type(value).__qualname__}")
    return value


def _broke(who: Entry | str, hook: str, expected: str, got: str) -> PluginError:
    plugin = who if isinstance(who, str) else who.plugin
    return PluginError(f"plugin {plugin!r} broke the contract of its hook {hook!r}: expected {expected}, got {got}")


def _guarded(items: Iterable[Any], plugin: str, hook: str) -> Iterator[Any]:
    """The items, with what a plugin's generator raises between them reported as its failure."""
    try:
        yield from items
    except Exception as error:
        if isinstance(error, ZooError) or plugin == BUILTIN or strict():
            raise
        raise PluginError(f"plugin {plugin!r} failed in its hook {hook!r}: {one_line(error)}") from error


def _each_pair(pairs: Iterable[Any], plugin: str) -> Iterator[tuple[str, Tensor]]:
    from torch import Tensor

    for pair in _guarded(pairs, plugin, "checkpoint"):
        if not (
            isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) and isinstance(pair[1], Tensor)
        ):
            raise _broke(plugin, "checkpoint", "pairs (parameter name, tensor)", f"{type(pair).__qualname__}")
        yield pair
