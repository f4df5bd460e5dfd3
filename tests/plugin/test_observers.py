"""Observers: switched on by name, seeing every hook, changing nothing, and answering for their own faults."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

import zoo
from zoo.cli import plugin_status
from zoo.errors import PluginError
from zoo.plugin import hooks, hookspecs

WATCHER = """
    import zoo

    seen = []

    @zoo.hookimpl(wrapper=True)
    def recognises(config):
        seen.append("recognises")
        return (yield)

    @zoo.hookimpl(wrapper=True)
    def construct(entry):
        seen.append("construct " + entry.plugin)
        return (yield)

    @zoo.hookimpl(wrapper=True)
    def quantize(entry, name, weight, scheme):
        seen.append("quantize " + name)
        return (yield)
"""
ANSWERER = """
    import zoo

    @zoo.hookimpl
    def recognises(config):
        return config.get("kind") == "answerer"

    @zoo.hookimpl
    def construct(entry):
        from torch import nn

        return nn.Linear(2, 3)
"""


def entry(plugin: str | None) -> zoo.Entry:
    return zoo.Entry("some-model", plugin)


@pytest.fixture
def two(site, monkeypatch):
    """An observer and an architecture, installed."""
    monkeypatch.delenv("ZOO_OBSERVE", raising=False)
    site.install("dist-watcher", {"watcher": "pkg_watcher"}, {"pkg_watcher.py": WATCHER})
    site.install("dist-answerer", {"answerer": "pkg_answerer"}, {"pkg_answerer.py": ANSWERER})
    return site


def seen() -> list[str]:
    return sys.modules["pkg_watcher"].seen


def test_an_installed_observer_is_not_even_imported_until_it_is_asked_for(two):
    assert isinstance(hooks.construct(entry("answerer")), nn.Linear)
    assert "pkg_watcher" not in sys.modules


def test_loading_an_observer_for_another_reason_does_not_switch_it_on(two):
    assert plugin_status.plugins("quick")
    assert hooks.recognise({"kind": "answerer"}) == ("answerer",)
    hooks.construct(entry("answerer"))
    assert seen() == []


def test_the_environment_switches_it_on(two, monkeypatch):
    monkeypatch.setenv("ZOO_OBSERVE", " watcher ,")
    hooks.construct(entry("answerer"))
    weight = torch.randn(64, 64)
    assert isinstance(hooks.quantize(entry("answerer"), "w", weight, zoo.Quantization(4)), zoo.QuantizedTensor)
    # The architecture passes the weight on, zoo packs it: two were asked, the observer saw both.
    assert seen() == ["construct answerer", "quantize w", "quantize w"]
    assert hooks.recognise({"kind": "answerer"}) == ("answerer",)
    assert seen()[3:] == ["recognises"] * seen()[3:].count("recognises")


def test_a_call_switches_it_on_for_what_was_asked_before_too(two):
    hooks.load("watcher")
    hooks.construct(entry("answerer"))
    hooks.observe("watcher")
    hooks.observe("watcher")
    hooks.construct(entry("answerer"))
    assert seen() == ["construct answerer"]


def test_what_zoo_observe_names_must_be_an_observer_that_is_there(two, monkeypatch):
    monkeypatch.setenv("ZOO_OBSERVE", "wacher")
    for _ in range(2):
        with pytest.raises(PluginError, match=r"^ZOO_OBSERVE=wacher: no plugin 'wacher' .* Did you mean 'watcher'"):
            hooks.construct(entry("answerer"))
    monkeypatch.setenv("ZOO_OBSERVE", "watcher,answerer")
    with pytest.raises(PluginError, match="ZOO_OBSERVE=watcher,answerer: plugin 'answerer' is no observer"):
        hooks.construct(entry("answerer"))


def test_its_kind_is_shown(two):
    kinds = {row.name: row.kind for row in plugin_status.plugins("quick")}
    assert kinds["watcher"] == "observer"
    assert kinds["answerer"] == kinds["gpt"] == "architecture"


class Faulty:
    """Fails before the plugin is asked, or after it has answered."""

    def __init__(self, when: str) -> None:
        self.when = when

    @zoo.hookimpl(wrapper=True)
    def construct(self, entry):
        if self.when == "before":
            raise KeyError("the observer's own")
        result = yield
        if self.when == "after":
            raise KeyError("the observer's own")
        return result

    @zoo.hookimpl(wrapper=True)
    def quantize(self):
        raise KeyError("the observer's own")
        yield


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_observers_failure_is_its_own_and_not_the_plugins(two, when):
    hooks.register(Faulty(when), "faulty")
    with pytest.raises(PluginError, match="plugin 'faulty' failed in its hook 'construct': KeyError"):
        hooks.construct(entry("answerer"))
    with pytest.raises(PluginError, match="plugin 'faulty' failed in its hook 'quantize': KeyError"):
        hooks.quantize(entry(None), "w", torch.randn(64, 64), zoo.Quantization(4))  # zoo's own is asked


def test_a_plugins_failure_stays_the_plugins_under_an_observer(two):
    class Failing:
        @zoo.hookimpl
        def construct(self, entry):
            raise ValueError("lost")

    hooks.register(Failing(), "failing")
    hooks.register(Faulty("never"), "passing")
    with pytest.raises(PluginError, match="plugin 'failing' failed in its hook 'construct': ValueError: lost"):
        hooks.construct(entry("failing"))


def test_commands_that_ask_no_hook_do_not_load_it(two):
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); from zoo.cli import main; done = main(sys.argv[1:])\n"
        "assert not done and 'torch' not in sys.modules and 'pkg_watcher' not in sys.modules"
    )
    for command in (["list"], ["--help"]):
        done = subprocess.run(
            [sys.executable, "-c", code, str(two.folder), *command],
            capture_output=True,
            text=True,
            env={**os.environ, "ZOO_OBSERVE": "watcher"},
        )
        assert done.returncode == 0, done.stderr


def test_the_conformance_suite_has_an_answer_and_arguments_for_every_hook():
    from zoo.testing.observing import situation

    arguments, answers = situation()
    assert set(answers) == set(hooks.HOOKS)
    for hook in hooks.HOOKS:
        needed = set(inspect.signature(getattr(hookspecs, hook)).parameters) - {"request"}
        assert needed <= set(arguments), hook
