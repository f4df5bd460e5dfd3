"""Checks of an observer: it sees every call and changes none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pluggy
import torch
from torch import nn

from zoo.catalog.entry import Entry
from zoo.catalog.head import Heads
from zoo.errors import DataError
from zoo.model import Model
from zoo.plugin import hookspecs
from zoo.plugin.forward_pass import ForwardPass
from zoo.plugin.manager import HOOKS
from zoo.plugin.options import Option
from zoo.plugin.requests import BatchRequest, EvaluationRequest, SampleRequest
from zoo.samples import Samples
from zoo.testing.compare import random_state_untouched
from zoo.testing.failures import CheckFailed, require
from zoo.testing.promise import promise
from zoo.testing.subject import PluginUnderTest
from zoo.weights.scheme import Quantization

PASS = "in each wrapper `result = yield`, and `return result`; let exceptions through"


@promise("import", "results passed on unchanged, and None if no plugin answers", PASS)
def passes_results_on(subject: PluginUnderTest) -> None:
    for hook in observed(subject):
        arguments, answers = situation()
        given = answers[hook]
        got = _called(subject, hook, given, arguments)
        if hook in ("checkpoint", "batches"):  # an observer may count the items, and return another iterator
            got, given = list(got or ()), _ITEMS
            kept = len(got) == len(given) and all(one is two for one, two in zip(got, given, strict=True))
            require(kept, f"{len(got)} items, where others or {len(given)} were answered", hook=hook)
            continue
        what = type(given).__qualname__
        require(got is given, f"{type(got).__qualname__}, and not the {what} that was answered", hook=hook)
    for hook in observed(subject):
        arguments, _ = situation()
        nothing = _called(subject, hook, None, arguments)
        require(nothing is None, f"{type(nothing).__qualname__}, where nobody answered", hook=hook)


@promise("import", "exceptions let through as they are", PASS)
def lets_exceptions_through(subject: PluginUnderTest) -> None:
    for hook in observed(subject):
        raised = DataError("of the plugin that is asked")
        try:
            _called(subject, hook, raised, situation()[0])
        except DataError as error:
            require(error is raised, "another error", hook=hook)
            continue
        except Exception as error:
            raise CheckFailed(f"{type(error).__name__} instead of the error that was raised", hook=hook) from error
        raise CheckFailed("the error was swallowed", hook=hook)


@promise("import", "the global random state left as it was", "draw nothing from the global generator")
def leaves_the_random_state(subject: PluginUnderTest) -> None:
    for hook in observed(subject):
        arguments, answers = situation()
        with random_state_untouched("draw nothing from the global generator"):
            _called(subject, hook, answers[hook], arguments)


_ITEMS = [("weight", torch.ones(2, 2)), ("bias", torch.ones(2))]


def observed(subject: PluginUnderTest) -> tuple[str, ...]:
    """Return the hooks that it wraps, in the contract's order."""
    own = {one.hook for one in subject.implementations()}
    return tuple(hook for hook in HOOKS if hook in own)


def situation() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return every argument that hooks have, by name, and a result for each hook."""
    entry, module = Entry("toy", "toy", config={"size": 2}), nn.Linear(2, 2)
    model = Model(module, entry, torch.device("cpu"), torch.float32)
    arguments = {
        "entry": entry,
        "module": module,
        "model": model,
        "teacher": model,
        "share": 0.5,
        "config": {"size": 2},
        "raw": {"peft_type": "TOY"},
        "name": "weight",
        "weight": module.weight,
        "scheme": Quantization(4),
        "layer": module,
        "dtype": torch.float32,
        "batch": _ITEMS[0],
        "data": None,
        "folder": Path("folder"),
        "args": (torch.ones(2, 2),),
        "kwargs": {},
        "rows": torch.tensor([0]),
        "count": 2,
        "texts": ["one"],
        "room": 2,
        "state_dict": {"weight": module.weight},
        "generator": torch.Generator(),
    }
    answers = {
        "recognises": True,
        "construct": module,
        "checkpoint": iter(_ITEMS),
        "heads": Heads(("classify",)),
        "quantize": module.weight,
        "foreign_weight": object(),
        "inject_adapter": nn.Linear(2, 2),
        "adapter_config": object(),
        "sample_kinds": ["text"],
        "sample_options": [Option("size", 2, "of a sample")],
        "sample": Samples(["one"], "text"),
        "embed": torch.ones(1, 2),
        "engine": object(),
        "loss": torch.tensor(1.0),
        "distill": torch.tensor(1.0),
        "count": 2.0,
        "batches": iter(_ITEMS),
        "evaluate": {"error": 1.0},
        "tuning": {"lr": 1e-3},
        "describe": {"size": "2"},
        "save": True,
        "run_rows": torch.ones(1, 2),
        "forward_pass": ForwardPass({"input": torch.ones(2, 2)}),
    }
    return arguments, answers


def _called(subject: PluginUnderTest, hook: str, answer: Any, arguments: dict[str, Any]) -> Any:
    """Call a hook of a plugin that returns or raises `answer`, in a manager where only the observer sees it."""
    requests = {"sample": SampleRequest(), "batches": BatchRequest(2), "evaluate": EvaluationRequest()}
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(_Answering(hook, answer))
    manager.register(subject.plugin())
    call = getattr(manager.hook, hook)
    needed = call.spec.argnames
    given = {**arguments, "request": requests.get(hook)}
    return call(**{name: given[name] for name in needed})


class _Answering:
    """A plugin with one hook, which returns the answer or raises it."""

    def __init__(self, hook: str, answer: Any) -> None:
        def reply() -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

        setattr(self, hook, hookspecs.hookimpl(reply))


CHECKS = (passes_results_on, lets_exceptions_through, leaves_the_random_state)
