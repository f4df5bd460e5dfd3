"""The host: discovery, loading in isolation, who is asked, and what comes back."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest
import torch
from torch import nn

import zoo
from zoo.catalog import discovery
from zoo.cli import plugin_status
from zoo.errors import DataError, PluginError, UnknownNameError
from zoo.plugin import hooks, hookspecs

GOOD = """
    import zoo

    @zoo.hookimpl
    def recognises(config):
        return config.get("model_type") == "{name}"

    @zoo.hookimpl
    def construct(entry):
        from torch import nn

        return nn.Linear(2, 3)

    @zoo.hookimpl
    def loss(batch):
        return batch.sum()

    @zoo.hookimpl
    def describe(entry):
        return {{"who": "{name}"}}
"""


class Bare:
    """What the host's functions look at of a model."""

    def __init__(self, entry: zoo.Entry) -> None:
        self.entry = entry


def entry(plugin: str | None, **more) -> zoo.Entry:
    return zoo.Entry("some-model", plugin, **more)


def good(site, name: str = "good") -> None:
    site.install(f"dist-{name}", {name: f"pkg_{name}"}, {f"pkg_{name}/__init__.py": GOOD.format(name=name)})


def plugin_module(name: str, **functions) -> None:
    """Register an in-process plugin with these hook functions."""
    module = type(sys)(name)
    for hook, function in functions.items():
        setattr(module, hook, zoo.hookimpl(function))
    hooks.register(module, name)


def test_a_plugin_is_imported_when_it_is_first_asked_and_no_other_is(site):
    good(site, "one")
    good(site, "two")
    assert {"one", "two"} <= set(discovery.claims())
    assert "pkg_one" not in sys.modules
    assert isinstance(hooks.construct(entry("one")), nn.Linear)
    assert "pkg_one" in sys.modules
    assert "pkg_two" not in sys.modules
    assert hooks.describe(entry("two")) == {"who": "two"}


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


BROKEN = {
    "broken import": ("import no_such_module_anywhere", "ModuleNotFoundError: No module named"),
    "syntax error": ("def broken(:\n", "SyntaxError"),
    "exits": ("raise SystemExit(3)", "SystemExit: 3"),
    "misspelt hook": (
        "import zoo\n@zoo.hookimpl\ndef smaple(model, request): ...\n@zoo.hookimpl\ndef loss(batch): ...",
        "there is no hook 'smaple'. Did you mean 'sample'?",
    ),
    "unknown argument": ("import zoo\n@zoo.hookimpl\ndef loss(model, batsch): ...", "batsch"),
    "no hooks": ("x = 1", "implements no hook: expected functions decorated"),
    "forgotten decorator": (
        "def construct(entry): ...\ndef loss(batch): ...",
        "its construct, loss lacks the decorator @zoo.hookimpl",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plugin_is_named_with_its_reason_and_breaks_no_other(site, kind):
    code, reason = BROKEN[kind]
    site.install("dist-bad", {"bad": "pkg_bad"}, version="2.3")
    (site.folder / "pkg_bad.py").write_text(code)
    good(site)
    with pytest.raises(PluginError, match=r"plugin 'bad' \(dist-bad 2\.3\) cannot be used") as caught:
        hooks.load("bad")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(PluginError) as again:  # remembered, not tried again
        hooks.load("bad")
    assert again.value is caught.value
    assert isinstance(hooks.construct(entry("good")), nn.Linear)
    assert torch.equal(hooks.loss(Bare(entry("good")), torch.ones(3)), torch.tensor(3.0))
    states = {row.name: row for row in plugin_status.plugins("quick")}
    assert states["bad"].state == "broken"
    assert reason in states["bad"].reasons[0]
    assert states["good"].state == "ok"
    assert states["good"].kind == "architecture"


def test_an_entry_point_to_nothing_is_a_broken_plugin(site):
    site.install("dist-bad", {"gone": "no_such_package", "attr": "json:no_such", "odd": "not a module!"})
    good(site)
    for name in ("gone", "attr", "odd"):
        with pytest.raises(PluginError, match=f"plugin '{name}'"):
            hooks.load(name)
    assert hooks.describe(entry("good")) == {"who": "good"}


def test_a_damaged_metadata_file_hides_only_its_own_distribution(site):
    site.install("dist-damaged", "[zoo]\nthis line has no equals sign\n")
    good(site)
    assert "good" in discovery.claims()
    assert hooks.describe(entry("good")) == {"who": "good"}
    assert any("dist-damaged" in fault for fault in plugin_status.faults())


def test_a_name_claimed_by_two_distributions_is_an_error_that_names_both(site):
    site.install("dist-a", {"same": "pkg_a"}, {"pkg_a.py": GOOD.format(name="a")})
    site.install("dist-b", {"same": "pkg_b"}, {"pkg_b.py": GOOD.format(name="b")}, version="7")
    good(site)
    with pytest.raises(PluginError, match=r"claimed by dist-a 1\.0 \(pkg_a\) and dist-b 7 \(pkg_b\)"):
        hooks.construct(entry("same"))
    assert "pkg_a" not in sys.modules
    row = next(row for row in plugin_status.plugins() if row.name == "same")
    assert row.state == "broken"
    assert isinstance(hooks.construct(entry("good")), nn.Linear)


def test_a_bundle_and_a_stand_alone_copy_are_told_apart_from_two_strangers(site):
    site.install("bundle", {"same": "pkg_same"}, {"pkg_same.py": GOOD.format(name="same")})
    site.install("alone", {"same": "pkg_same"})
    with pytest.raises(PluginError, match="uninstall the stand-alone one, then reinstall the bundle"):
        hooks.load("same")


def test_a_plugin_may_not_take_the_name_of_a_scheme_of_zoos_own(site):
    from zoo.weights.scheme import BUILTIN_SCHEMES

    assert set(BUILTIN_SCHEMES) <= discovery.RESERVED
    site.install("dist-nf4", {"nf4": "pkg_nf4"}, {"pkg_nf4.py": GOOD.format(name="nf4")})
    with pytest.raises(PluginError, match="is one of zoo's own"):
        hooks.load("nf4")


def test_an_unknown_plugin_is_an_error_with_the_nearest_name(site):
    good(site, "stylish")
    with pytest.raises(UnknownNameError, match="Did you mean 'stylish'"):
        hooks.construct(entry("stylsh"))


def test_zoo_plugins_restricts_what_is_seen(site, monkeypatch):
    good(site, "one")
    good(site, "two")
    monkeypatch.setenv("ZOO_PLUGINS", "two, absent")
    assert set(discovery.claims()) == {"two"}
    with pytest.raises(UnknownNameError, match="ZOO_PLUGINS=two, absent leaves it out"):
        hooks.load("one")
    states = {row.name: row for row in plugin_status.plugins()}
    assert states["absent"].state == "broken"
    assert states["two"].state == "not checked"


def test_zoo_strict_raises_the_plugins_own_exception(site, monkeypatch):
    site.install("dist-bad", {"bad": "pkg_bad"}, {"pkg_bad.py": "1 / 0"})
    monkeypatch.setenv("ZOO_STRICT", "1")
    with pytest.raises(ZeroDivisionError):
        hooks.load("bad")


def test_two_names_may_point_at_one_module(site):
    site.install("dist-two", {"first": "pkg_two", "second": "pkg_two"}, {"pkg_two.py": GOOD.format(name="two")})
    assert hooks.load("first") is hooks.load("second")
    assert isinstance(hooks.construct(entry("second")), nn.Linear)
    assert isinstance(hooks.construct(entry("first")), nn.Linear)


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


def test_recognise_asks_every_plugin_that_loads(site):
    good(site, "one")
    good(site, "two")
    site.install("dist-bad", {"bad": "pkg_bad"}, {"pkg_bad.py": "1 / 0"})
    assert hooks.recognise({"model_type": "two"}) == ("two",)
    assert hooks.recognise({"model_type": "nobody's"}) == ()


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


# The lazy surface


def test_the_public_names_are_lazy_and_load_stays_a_function():
    code = """
        import sys, zoo
        assert "torch" not in sys.modules and "pluggy" not in sys.modules
        missing = [name for name in zoo.__all__ if name not in dir(zoo)]
        assert not missing, missing
        import zoo.loading.load
        assert callable(zoo.load) and zoo.load is sys.modules['zoo.loading.load'].load, zoo.load
        from zoo import errors
        from zoo.catalog import entry
        assert zoo.Entry is entry.Entry and zoo.ZooError is errors.ZooError
        try:
            zoo.nothing
        except AttributeError as error:
            assert "public names" in str(error)
        else:
            raise SystemExit("no AttributeError")
    """
    done = subprocess.run([sys.executable, "-c", inspect.cleandoc(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_module_is_called_like_a_public_function():
    from pathlib import Path

    modules = {path.stem for path in Path(zoo.__file__).parent.iterdir()}
    assert not modules & set(zoo._HOME)
