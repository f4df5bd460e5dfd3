"""What the hooks are, who is asked, what comes back, and who is blamed."""

from __future__ import annotations

import inspect
import sys

import pytest
import torch
from torch import nn

import zoo
from zoo.errors import DataError, PluginError
from zoo.plugin import hooks, hookspecs

from .helpers import Bare, entry, good, plugin_module


def test_implemented_hooks_come_in_the_order_of_the_contract(site):
    good(site)
    assert hooks.implemented("good") == ("recognises", "construct", "loss", "describe")


def test_every_hook_of_the_contract_has_one_typed_function_and_a_documented_example():
    for name in hooks.HOOKS:
        function = getattr(hooks, "recognise" if name == "recognises" else name)
        assert inspect.signature(function).return_annotation is not inspect.Signature.empty
        text = inspect.getdoc(getattr(hookspecs, name)) or ""
        assert "Gets " in text, name
        assert "Returns " in text, name
        assert "Called " in text, name
        assert "::" in text, name


# Who is asked


def test_only_the_entrys_own_plugin_is_asked_whatever_was_loaded_last(site):
    for name in ("one", "two", "three"):
        plugin_module(name, describe=lambda entry, name=name: {"who": name}, construct=lambda: nn.Linear(1, 1))
    for name in ("two", "one", "three"):
        assert hooks.describe(entry(name)) == {"who": name}
    plugin_module("four", describe=lambda: {"who": "four"})
    assert hooks.describe(entry("one")) == {"who": "one"}


class Scheme:
    bits = 3

    def __init__(self, scheme: str, builtin: bool = False) -> None:
        self.scheme, self.builtin = scheme, builtin


def test_a_weight_is_asked_of_the_architecture_then_of_the_schemes_plugin_then_of_zoo(site):
    asked = []

    def policy(name):
        asked.append(("policy", name))
        return torch.full((2, 2), 7.0) if name == "kept" else None

    def mechanism(name, weight, scheme):
        asked.append(("mechanism", name))
        return weight * 2 if name != "unknown" else None

    plugin_module("mechanism", quantize=mechanism)
    plugin_module("policy", quantize=policy)  # registered last: pluggy alone would ask it first, but not by our order
    plugin_module("bystander", quantize=lambda: torch.zeros(2, 2))
    weight = torch.randn(2, 2)
    assert torch.equal(hooks.quantize(entry("policy"), "kept", weight, Scheme("mechanism")), torch.full((2, 2), 7.0))
    assert asked == [("policy", "kept")]
    assert torch.equal(hooks.quantize(entry("policy"), "other", weight, Scheme("mechanism")), weight * 2)
    assert asked[1:] == [("policy", "other"), ("mechanism", "other")]
    assert hooks.quantize(entry("policy"), "unknown", weight, Scheme("mechanism")) is None  # zoo passes too
    assert torch.equal(hooks.quantize(entry(None), "other", weight, Scheme("mechanism")), weight * 2)


def test_zoos_own_mechanism_is_asked_last(site):
    from zoo.weights.quantized_tensor import QuantizedTensor

    plugin_module("silent", quantize=lambda name: None)
    packed = hooks.quantize(entry("silent"), "w.weight", torch.randn(64, 64), zoo.Quantization(bits=4))
    assert isinstance(packed, QuantizedTensor)


def test_a_schemes_plugin_is_loaded_only_when_the_scheme_names_it(site):
    code = "import zoo\n@zoo.hookimpl\ndef quantize(weight):\n    return weight + 1\n"
    site.install("dist-q", {"third": "pkg_third"}, {"pkg_third.py": code})
    weight = torch.randn(64, 64)
    hooks.quantize(entry(None), "w", weight, zoo.Quantization(bits=4))
    assert "pkg_third" not in sys.modules
    assert torch.equal(hooks.quantize(entry(None), "w", weight, Scheme("third")), weight + 1)


def test_an_observer_sees_every_plugins_hooks(site):
    seen = []

    class Observer:
        @pluggy_wrapper
        def describe(self, entry):
            seen.append(entry.plugin)
            return (yield)

    plugin_module("one", describe=lambda: {"who": "one"})
    hooks.register(Observer(), "observer")
    plugin_module("two", describe=lambda: {"who": "two"})
    assert hooks.describe(entry("one")) == {"who": "one"}
    assert hooks.describe(entry("two")) == {"who": "two"}
    assert seen == ["one", "two"]


def pluggy_wrapper(function):
    return zoo.hookimpl(wrapper=True)(function)


# What comes back


def fails(*args):
    raise ValueError("the first line\nand the second")


def test_a_plugins_exception_becomes_an_error_that_names_plugin_and_hook(site):
    plugin_module("bad", construct=fails)
    with pytest.raises(PluginError, match="'bad' failed in its hook 'construct': ValueError: the first line and") as e:
        hooks.construct(entry("bad"))
    assert isinstance(e.value.__cause__, ValueError)


def test_a_users_mistake_raised_by_a_plugin_stays_what_it_is(site):
    def batches(model, data, request):
        raise DataError("expected a folder")

    plugin_module("fine", batches=batches)
    with pytest.raises(DataError, match=r"^expected a folder$"):
        hooks.batches(Bare(entry("fine")), None, zoo.BatchRequest(2))


def test_strict_lets_hooks_raise_bare(site, monkeypatch):
    plugin_module("bad", construct=fails)
    monkeypatch.setenv("ZOO_STRICT", "1")
    with pytest.raises(ValueError, match="the first line"):
        hooks.construct(entry("bad"))


WRONG = {
    "construct": (lambda: "a string", lambda: hooks.construct(entry("bad")), "expected a torch.nn.Module, got"),
    "checkpoint": (
        lambda: 3,
        lambda: hooks.checkpoint(entry("bad"), nn.Linear(1, 1)),
        r"expected an iterator of \(name, tensor\), got builtins.int",
    ),
    "quantize": (
        lambda: "nf4",
        lambda: hooks.quantize(entry("bad"), "w", torch.ones(2, 2), Scheme("x")),
        "expected zoo.QuantizedTensor or a Tensor",
    ),
    "inject_adapter": (
        lambda: 1.0,
        lambda: hooks.inject_adapter(entry("bad"), "w", torch.ones(2, 2), Scheme("x")),
        "expected an Update",
    ),
    "sample": (
        lambda: torch.ones(2),
        lambda: hooks.sample(Bare(entry("bad")), zoo.SampleRequest()),
        "expected zoo.Samples",
    ),
    "loss": (lambda: torch.ones(2), lambda: hooks.loss(Bare(entry("bad")), None), r"a tensor of shape \(2,\)"),
    "batches": (
        lambda: 4,
        lambda: hooks.batches(Bare(entry("bad")), None, zoo.BatchRequest(1)),
        "expected an iterable",
    ),
    "evaluate": (lambda: {"a": "b"}, lambda: hooks.evaluate(Bare(entry("bad")), None), "expected a dict of floats"),
    "tuning": (lambda: {"momentum": 0.5}, lambda: hooks.tuning(entry("bad")), "expected a dict of batch_size"),
    "describe": (lambda: ["a"], lambda: hooks.describe(entry("bad")), "expected a dict"),
}


@pytest.mark.parametrize("hook", WRONG)
def test_a_wrong_answer_is_an_error_that_says_what_was_expected(site, hook):
    answer, call, message = WRONG[hook]
    plugin_module("bad", **{hook: answer})
    with pytest.raises(PluginError, match=message) as caught:
        call()
    assert f"'bad' broke the contract of its hook '{hook}'" in str(caught.value)


def test_a_missing_hook_and_a_none_answer_are_told_apart(site):
    plugin_module("half", construct=lambda: None)
    with pytest.raises(PluginError, match="'half' returned None from its hook 'construct'"):
        hooks.construct(entry("half"))
    with pytest.raises(PluginError, match="'half' does not implement the hook 'loss'"):
        hooks.loss(Bare(entry("half")), None)
    with pytest.raises(PluginError, match="has no plugin, and 'loss' needs one"):
        hooks.loss(Bare(entry(None)), None)


def test_what_a_plugins_generator_raises_later_is_reported_too(site):
    def batches(data):
        yield {"x": 1}
        raise KeyError("lost")

    def checkpoint():
        yield "a", torch.ones(1)
        yield "b", "no tensor"

    plugin_module("late", batches=batches, checkpoint=checkpoint)
    stream = hooks.batches(Bare(entry("late")), None, zoo.BatchRequest(1))
    assert next(stream) == {"x": 1}
    with pytest.raises(PluginError, match="'late' failed in its hook 'batches': KeyError"):
        next(stream)
    pairs = hooks.checkpoint(entry("late"), nn.Linear(1, 1))
    assert next(pairs)[0] == "a"
    with pytest.raises(PluginError, match=r"expected pairs \(parameter name, tensor\)"):
        next(pairs)


def test_a_plugins_checkpoint_may_be_a_dict(site):
    plugin_module("whole", checkpoint=lambda: {"a": torch.ones(1)})
    assert [name for name, _ in hooks.checkpoint(entry("whole"), nn.Linear(1, 1))] == ["a"]
