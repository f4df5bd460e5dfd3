"""Checks of an architecture without weights: its module, `recognises` and `describe`."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from zoo.catalog import registry
from zoo.catalog.entry import Entry
from zoo.loading.empty import meta_parameters
from zoo.methods.targets import adaptable, matches, path_of
from zoo.model import Model
from zoo.plugin import hooks
from zoo.plugin.manager import caller, load
from zoo.plugin.table import forgotten
from zoo.testing.failures import CheckFailed, NotCheckable, require
from zoo.testing.promise import promise
from zoo.testing.subject import PluginUnderTest, config_file
from zoo.weights.footprint import quantized
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.walk import tied_groups

QUANTIZED = 0.985  # the share of a real model's parameters that go to 4 bit
REAL = 10_000_000  # parameters: from this size on a model counts as real
QUANTIZED_SMALL = 0.9  # of a small model's values in weights that could be: its first and last layers are a larger part

NONSENSE: tuple[dict[str, Any], ...] = (
    {},
    {"model_type": "no-such-model", "architectures": ["NoSuchModel"], "_class_name": "NoSuchModel"},
    {"model_type": None, "architectures": None, "_class_name": None},
    {"architectures": [], "_class_name": 3, "model_type": ["x"]},
)


@promise(
    "construct",
    "parameters on meta and buffers real, without NaN, in every model whose configuration is known",
    "build the module as its library does, without a device of your own",
    basic=True,
)
def constructs_on_meta(subject: PluginUnderTest) -> None:
    for name, module in _modules(subject):
        real = [path for path, parameter in module.named_parameters() if not parameter.is_meta]
        fix = "make parameters inside the call, as nn.Parameter: one that lies there already is never filled lazily"
        require(not real, f"{name}'s parameter {real[:1]} is real", fix)
        fix = "make it with register_buffer outside of torch.device('meta'): zoo itself sees to the parameters"
        for path, buffer in module.named_buffers():
            require(not buffer.is_meta, f"{name}'s buffer {path!r} is left on meta, where nothing will fill it", fix)
            odd = buffer.is_floating_point() and bool(buffer.isnan().any())
            require(not odd, f"{name}'s buffer {path!r} holds NaN", "fill it when it is made")


@promise(
    "construct",
    "the same module each time: names, shapes, and buffers that no checkpoint fills",
    "derive everything from entry.config, and nothing from chance or from what was built before",
)
def constructs_the_same_again(subject: PluginUnderTest) -> None:
    entry = subject.entry()
    first, again = (_built(entry, seed)[0] for seed in (1, 2))
    shapes = [{name: tuple(t.shape) for name, t in m.state_dict(keep_vars=True).items()} for m in (first, again)]
    changed = sorted(set(shapes[0].items()) ^ set(shapes[1].items()))
    require(not changed, f"{changed[0][0] if changed else ''} is not in both, or of another shape")
    held = set(first.state_dict())
    for (name, one), (_, two) in zip(first.named_buffers(), again.named_buffers(), strict=True):
        require(name in held or torch.equal(one, two), f"buffer {name!r} has other values")


@promise(
    "construct",
    "the global random state not seeded",
    "remove torch.manual_seed: everybody who loads a model would draw the same numbers afterwards",
)
def constructs_without_seeding(subject: PluginUnderTest) -> None:
    states = [_built(subject.entry(), seed)[1] for seed in (1, 2)]
    require(not torch.equal(*states), "torch's global generator was seeded")


@promise(
    "construct",
    "no network: configuration and files are there already",
    "build from entry.config and read from entry.folder; download nothing in a hook",
)
def constructs_without_network(subject: PluginUnderTest) -> None:
    with offline() as asked:
        for _ in _modules(subject):
            pass
    require(not asked, f"it asked for {asked[:1]}")


@promise(
    "construct",
    "each function that is a hook's, by its name and arguments, in force",
    "name it in zoo.hooks, or call it otherwise: nobody calls it",
)
def forgets_no_hook(subject: PluginUnderTest) -> None:
    missed = forgotten(load(subject.name))
    require(not missed, f"{', '.join(missed)} is in no row of zoo.hooks")


@promise(
    "quantize",
    f"at least {QUANTIZED:.1%} of a real model's parameters in 4 bit (of a small one's values in weights that could "
    f"be: {QUANTIZED_SMALL:.0%})",
    "keep fewer weights in full precision, in the hook quantize and under keep in registry.toml",
)
def goes_to_four_bit(subject: PluginUnderTest) -> None:
    for name, model in subject.on_meta.items():
        total = model.footprint().parameters
        share = model.footprint().quantized_share if total >= REAL else _share_of_able(model)
        least = QUANTIZED if total >= REAL else QUANTIZED_SMALL
        require(share >= least, f"{share:.2%} of {name}, which has {total:,} parameters")


def _share_of_able(model: Model) -> float:
    """Return the quantized share of the values in weights that could be: two dimensions over 1, not in `keep`."""
    able = packed = 0
    for group in tied_groups(model.module):
        held = group.value
        wide = sum(size > 1 for size in held.shape) > 1 and held.dtype.is_floating_point
        if wide and not any(matches(path_of(site), model.entry.keep) for site in group.refs):
            able += held.shape.numel()
            packed += held.shape.numel() if quantized(held) else 0
    return packed / able if able else 1.0


@promise(
    "inject_adapter",
    'an adapter on every weight of two or more dimensions for targets="all", and on some by default',
    "return an Update or None from the hook inject_adapter; name paths that exist as targets in registry.toml",
)
def takes_adapters_everywhere(subject: PluginUnderTest) -> None:
    for name, model in subject.on_meta.items():
        for group in tied_groups(model.module):
            held = group.value
            has = isinstance(held, ManagedWeight) and "all" in held.updates
            require(has or not adaptable(held), f"{name}'s {group.name}, shape {tuple(held.shape)}, has none")
        model.add_adapter("default", 1)


@promise(
    "recognises",
    "True for the configuration of its own models, and neither True nor an exception for any other",
    "compare with config.get(...), and expect any type in it",
)
def recognises_its_own(subject: PluginUnderTest) -> None:
    if "recognises" not in subject.hooks:
        raise NotCheckable("it does not implement recognises")
    ask = caller("recognises", subject.name)
    config = json.loads(config_file(subject.entry().folder).read_text(encoding="utf-8"))
    require(ask(config=config), f"{subject.entry().name}'s own configuration is not recognised")
    others = [entry.config for entry in registry.entries() if entry.plugin != subject.name and entry.config]
    for other in (*NONSENSE, *others):
        shown = json.dumps(other)[:80]
        try:
            answer = ask(config=other)
        except Exception as error:
            raise CheckFailed(f"{type(error).__name__} ({error}) for {shown}") from error
        require(not answer, f"{answer!r} for {shown}")


@promise("describe", "a dict of str → str", "return {label: text}; call str on numbers")
def describes_in_words(subject: PluginUnderTest) -> None:
    if "describe" not in subject.hooks:
        raise NotCheckable("it does not implement describe")
    for entry in (*subject.entries(), subject.entry()):
        facts = caller("describe", subject.name)(entry=entry)
        right = facts is None or (
            isinstance(facts, dict) and all(isinstance(text, str) for pair in facts.items() for text in pair)
        )
        require(right, f"{facts!r} for {entry.name}")


@promise(
    "describe",
    "facts that import nothing heavy, so that `zoo info` is quick",
    "read them from entry.config and entry.folder",
)
def facts_import_nothing_heavy(subject: PluginUnderTest) -> None:
    more = [name for name in subject.seen.with_facts if name not in subject.seen.imported]
    require(not more, f"{', '.join(more)} imported")


@contextmanager
def offline() -> Iterator[list[str]]:
    """Cut this process off the network; yield the list of addresses that it asks for."""
    asked: list[str] = []
    kept = {name: getattr(socket.socket, name) for name in ("connect", "connect_ex")}
    lookup = socket.getaddrinfo

    def refuse(_: Any, address: Any, *more: Any) -> None:
        asked.append(str(address))
        raise OSError("the network is cut off while a plugin is checked")

    def refuse_lookup(host: Any, *more: Any, **named: Any) -> None:
        asked.append(str(host))
        raise socket.gaierror("the network is cut off while a plugin is checked")

    for name in kept:
        setattr(socket.socket, name, refuse)
    socket.getaddrinfo = refuse_lookup  # type: ignore[assignment]
    try:
        yield asked
    finally:
        for name, function in kept.items():
            setattr(socket.socket, name, function)
        socket.getaddrinfo = lookup


def _modules(subject: PluginUnderTest) -> Iterator[tuple[str, nn.Module]]:
    entries = {entry.name: entry for entry in (*subject.entries(), subject.entry())}
    for name, entry in entries.items():
        yield name, _built(entry, 0)[0]


def _built(entry: Entry, seed: int) -> tuple[nn.Module, torch.Tensor]:
    """Return the module that `construct` makes after `seed`, and torch's random state afterwards."""
    with torch.random.fork_rng(devices=[]), meta_parameters():
        torch.manual_seed(seed)
        module = hooks.construct(entry)
        return module, torch.get_rng_state()


CHECKS = (
    constructs_on_meta,
    constructs_the_same_again,
    constructs_without_seeding,
    constructs_without_network,
    forgets_no_hook,
    goes_to_four_bit,
    takes_adapters_everywhere,
    recognises_its_own,
    describes_in_words,
    facts_import_nothing_heavy,
)
