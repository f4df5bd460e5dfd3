"""Checks of an architecture's heads: what its hook `heads` says, `construct` builds."""

from __future__ import annotations

from dataclasses import replace

import torch

from zoo.catalog.entry import Entry
from zoo.catalog.head import TASKS, Head
from zoo.loading.empty import meta_parameters
from zoo.plugin import hooks
from zoo.testing.failures import NotCheckable, require
from zoo.testing.promise import promise
from zoo.testing.subject import PluginUnderTest


@promise(
    "heads",
    "tasks that zoo knows, for each of which construct builds a head over entry.head.count classes",
    "build the module by entry.head.task and entry.head.count where entry.head is there, or leave the task out",
)
def builds_what_it_says(subject: PluginUnderTest) -> None:
    entry = _entry(subject)
    for task in hooks.heads(entry).tasks:
        require(task in TASKS, f"the task {task!r}; there are {', '.join(TASKS)}")
        three, four = (_shapes(replace(entry, head=Head(task, count=count))) for count in (3, 4))
        require(three != four, f"for {task!r} no parameter of another shape with 4 classes than with 3")
        named = _shapes(replace(entry, head=Head(task, ("a", "b", "c"), 3)))
        require(named == three, f"for {task!r} other parameters where the classes have names")


@promise(
    "heads",
    "as own the head that the module has which construct builds without entry.head",
    "read its task, names and count from the configuration; own=None where there is none",
)
def knows_its_own(subject: PluginUnderTest) -> None:
    entry = _entry(subject)
    can = hooks.heads(entry)
    if can.own is None or can.own.task not in can.tasks:
        raise NotCheckable("its configuration has no head")
    count, names = can.own.count, can.own.names
    require(len(names) in (0, count), f"{len(names)} names for {count} classes")
    require(_shapes(replace(entry, head=can.own)) == _shapes(entry), f"{can.own}, and other shapes without entry.head")


def _entry(subject: PluginUnderTest) -> Entry:
    return subject.entry()


def _shapes(entry: Entry) -> dict[str, torch.Size]:
    with meta_parameters(), torch.random.fork_rng(devices=[]):
        return {name: parameter.shape for name, parameter in hooks.construct(entry).named_parameters()}


CHECKS = (builds_what_it_says, knows_its_own)
