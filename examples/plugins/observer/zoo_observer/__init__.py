"""Times and logs every hook of every plugin: `ZOO_OBSERVE=observer zoo sample ddpm`.

It has wrappers only, which pass on what the plugins return, so it is an observer to zoo: it sees the hooks of all
plugins and implements none. A hook that returns an iterator (`checkpoint`, `batches`) is timed until it returns it.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import zoo
from zoo_observer.timing import reset, seconds, summary, timed

__all__ = ["reset", "seconds", "summary"]

Wrapper = Generator[None, Any, Any]


@zoo.hookimpl(wrapper=True)
def recognises(config: dict[str, Any]) -> Wrapper:
    return (yield from timed("recognises", str(config.get("model_type") or config.get("_class_name") or "?")))


@zoo.hookimpl(wrapper=True)
def heads(entry: zoo.Entry) -> Wrapper:
    return (yield from timed("heads", entry.name))


@zoo.hookimpl(wrapper=True)
def construct(entry: zoo.Entry) -> Wrapper:
    return (yield from timed("construct", entry.name))


@zoo.hookimpl(wrapper=True)
def checkpoint(entry: zoo.Entry) -> Wrapper:
    return (yield from timed("checkpoint", entry.name))


@zoo.hookimpl(wrapper=True)
def quantize(name: str) -> Wrapper:
    return (yield from timed("quantize", name))


@zoo.hookimpl(wrapper=True)
def foreign_weight(layer: Any) -> Wrapper:
    return (yield from timed("foreign_weight", type(layer).__name__))


@zoo.hookimpl(wrapper=True)
def inject_adapter(name: str) -> Wrapper:
    return (yield from timed("inject_adapter", name))


@zoo.hookimpl(wrapper=True)
def adapter_config(raw: dict[str, Any]) -> Wrapper:
    return (yield from timed("adapter_config", str(raw.get("peft_type", "?"))))


@zoo.hookimpl(wrapper=True)
def sample_kinds(entry: zoo.Entry) -> Wrapper:
    return (yield from timed("sample_kinds", entry.name))


@zoo.hookimpl(wrapper=True)
def sample_options(entry: zoo.Entry) -> Wrapper:
    return (yield from timed("sample_options", entry.name))


@zoo.hookimpl(wrapper=True)
def sample(model: zoo.Model) -> Wrapper:
    return (yield from timed("sample", model.entry.name))


@zoo.hookimpl(wrapper=True)
def embed(model: zoo.Model) -> Wrapper:
    return (yield from timed("embed", model.entry.name))


@zoo.hookimpl(wrapper=True)
def engine(model: zoo.Model) -> Wrapper:
    return (yield from timed("engine", model.entry.name))


@zoo.hookimpl(wrapper=True)
def loss(model: zoo.Model) -> Wrapper:
    return (yield from timed("loss", model.entry.name))


@zoo.hookimpl(wrapper=True)
def distill(model: zoo.Model) -> Wrapper:
    return (yield from timed("distill", model.entry.name))


@zoo.hookimpl(wrapper=True)
def count(model: zoo.Model) -> Wrapper:
    return (yield from timed("count", model.entry.name))


@zoo.hookimpl(wrapper=True)
def batches(model: zoo.Model) -> Wrapper:
    return (yield from timed("batches", model.entry.name))


@zoo.hookimpl(wrapper=True)
def evaluate(model: zoo.Model) -> Wrapper:
    return (yield from timed("evaluate", model.entry.name))


@zoo.hookimpl(wrapper=True)
def tuning(entry: zoo.Entry) -> Wrapper:
    return (yield from timed("tuning", entry.name))


@zoo.hookimpl(wrapper=True)
def describe(entry: zoo.Entry) -> Wrapper:
    return (yield from timed("describe", entry.name))


@zoo.hookimpl(wrapper=True)
def save(model: zoo.Model) -> Wrapper:
    return (yield from timed("save", model.entry.name))


@zoo.hookimpl(wrapper=True)
def run_rows(model: zoo.Model) -> Wrapper:
    return (yield from timed("run_rows", model.entry.name))


@zoo.hookimpl(wrapper=True)
def forward_pass(model: zoo.Model) -> Wrapper:
    return (yield from timed("forward_pass", model.entry.name))
