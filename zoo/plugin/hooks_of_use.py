"""Calls of the hooks for a model in use; `hooks.py` has the others, and these too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from zoo.plugin.calling import broke, checked, first, required
from zoo.plugin.options import Option, check_options

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from zoo.catalog.entry import Entry
    from zoo.plugin.contract import LoadedModel
    from zoo.plugin.engines import Engine
    from zoo.plugin.forward_pass import ForwardPass
    from zoo.plugin.requests import SampleRequest
    from zoo.samples import SampleKind, Samples

_OPTIONS: WeakKeyDictionary[nn.Module, tuple[Option, ...] | None] = WeakKeyDictionary()


def forget() -> None:
    """Forget which options models have declared."""
    _OPTIONS.clear()


def sample_options(entry: Entry) -> tuple[Option, ...] | None:
    """Return the sampling options that an architecture declares; None if it does not."""
    found, _ = first("sample_options", (entry.plugin,), entry=entry)
    if found is None:
        return None
    right = isinstance(found, list | tuple) and all(isinstance(one, Option) for one in found)
    options = tuple(checked(found, right, entry, "sample_options", "a list of zoo.Option"))
    names = [option.name for option in options]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise broke(entry, "sample_options", "each option once", f"{twice!r} twice")
    return options


def sample_kinds(entry: Entry) -> tuple[SampleKind, ...] | None:
    """Return the kinds that an architecture's samples may be of; None if it does not say."""
    from zoo.samples import SampleKind
    from zoo.samples.samples import KINDS

    found, _ = first("sample_kinds", (entry.plugin,), entry=entry)
    if found is None:
        return None
    right = isinstance(found, list | tuple) and bool(found)
    wanted = f"a list of some of {', '.join(KINDS)}, or of zoo.SampleKind"
    known = [
        KINDS.get(one) if isinstance(one, str) else one for one in checked(found, right, entry, "sample_kinds", wanted)
    ]
    kinds = [one for one in known if isinstance(one, SampleKind)]
    checked(found, len(kinds) == len(known), entry, "sample_kinds", wanted)
    twice = next((one.name for one in kinds if KINDS.get(one.name, one) is not one), None)
    if twice is not None:
        raise broke(entry, "sample_kinds", "kinds with names of their own", f"{twice!r}, which zoo has")
    return tuple(kinds)


def options_of(model: LoadedModel) -> tuple[Option, ...] | None:
    """Return the declared options of a model, which are asked for once, as they may be in files; None without any."""
    if model.module not in _OPTIONS:
        _OPTIONS[model.module] = sample_options(model.entry)
    return _OPTIONS[model.module]


def declared(model: LoadedModel, request: SampleRequest) -> SampleRequest:
    """Return a request as plugins get it, its options checked against those that the architecture declares.

    Raises:
        UnknownNameError: an option is given that the architecture does not declare.
        ZooError: an option's value cannot be.
    """
    if (known := options_of(model)) is None:
        return request
    check_options(known, request.options)
    return request.declared(known)


def sample(model: LoadedModel, request: SampleRequest) -> Samples:
    """Return `request.n` samples of the model.

    Raises:
        UnknownNameError: an option is given that the architecture does not declare.
        ZooError: an option's value cannot be.
    """
    from zoo.samples import Samples

    request = declared(model, request)
    samples = required("sample", model.entry, model=model, request=request)
    return checked(samples, isinstance(samples, Samples), model.entry, "sample", "zoo.Samples")


def draw(model: LoadedModel, request: SampleRequest) -> Samples:
    """Return `request.n` samples, drawn without gradients in evaluation mode; the mode is as before afterwards."""
    import torch

    from zoo.torch_state.modes import evaluating

    with torch.no_grad(), evaluating(model.module):
        return sample(model, request)


def engine(model: LoadedModel, room: int) -> Engine | None:
    """Return what continues at most `room` texts of the model at once; None if its architecture has no such thing."""
    from zoo.plugin.engines import Engine

    found, _ = first("engine", (model.entry.plugin,), model=model, room=room)
    right = found is None or isinstance(found, Engine)
    return checked(found, right, model.entry, "engine", "an object with prepare, admit, step and drop")


def embed(model: LoadedModel, texts: Sequence[str]) -> Tensor:
    """Return a vector of each of n texts, float32 [n, d] on the CPU."""
    import torch

    from zoo.torch_state.modes import evaluating

    with torch.no_grad(), evaluating(model.module):
        found = required("embed", model.entry, model=model, texts=list(texts))
    right = isinstance(found, torch.Tensor) and found.ndim == 2 and len(found) == len(texts)
    return checked(found, right, model.entry, "embed", "a Tensor [n, d] of n texts").float().cpu()


def describe(entry: Entry) -> dict[str, str]:
    """Return facts about an entry, label → text; empty if the plugin has none."""
    facts, _ = first("describe", (entry.plugin,), entry=entry)
    right = facts is None or isinstance(facts, dict)
    return {str(label): str(text) for label, text in (checked(facts, right, entry, "describe", "a dict") or {}).items()}


def save(model: LoadedModel, folder: Path, state_dict: dict[str, Tensor]) -> bool:
    """Let the plugin write the model into `folder` in its library's format. Returns False if it did not."""
    written, _ = first("save", (model.entry.plugin,), model=model, folder=folder, state_dict=state_dict)
    return bool(checked(written, written is None or isinstance(written, bool), model.entry, "save", "True or None"))


def run_rows(model: LoadedModel, args: tuple[Any, ...], kwargs: dict[str, Any], rows: Tensor, count: int) -> Any:
    """Return the module's output for the samples `rows` of `count`; None if the plugin leaves it to the caller."""
    output, _ = first("run_rows", (model.entry.plugin,), model=model, args=args, kwargs=kwargs, rows=rows, count=count)
    return output


def forward_pass(model: LoadedModel, count: int, generator: torch.Generator) -> ForwardPass | None:
    """Return a call of the module with inputs for `count` items; None if the plugin leaves it to the caller."""
    from zoo.plugin.forward_pass import ForwardPass

    found, _ = first("forward_pass", (model.entry.plugin,), model=model, count=count, generator=generator)
    right = found is None or isinstance(found, ForwardPass)
    return checked(found, right, model.entry, "forward_pass", "a zoo.ForwardPass")
