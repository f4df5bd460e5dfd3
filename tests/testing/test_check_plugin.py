"""The conformance suite as it is called: what it returns, raises, and reports."""

from __future__ import annotations

import pytest

from zoo.errors import PluginError
from zoo.testing import Result, check_plugin, examine
from zoo.testing.failures import CheckFailed, NotCheckable
from zoo.testing.promise import Check
from zoo.testing.subject import PluginUnderTest


def test_quick_looks_at_loading_and_hooks_alone():
    results = check_plugin("ddpm", level="quick")
    assert [result.hook for result in results] == ["import"] * 8 + ["registry", "construct"]
    assert all(isinstance(result, Result) and result.ok for result in results)


def test_an_unknown_plugin_is_named_with_the_nearest():
    with pytest.raises(PluginError, match=r"plugin 'ddmp': expected one .* Did you mean 'ddpm'.* Fix: install"):
        check_plugin("ddmp")
    (only,) = examine("ddmp")
    assert (only.check, only.hook, only.ok) == ("found", "import", False)


def test_a_broken_check_says_plugin_hook_expected_found_and_fix():
    def run(subject):
        raise CheckFailed("three", hook="sample")

    check = Check("a-name", "loss", "two", "draw two", run)
    with pytest.raises(PluginError) as caught:
        check.verify(PluginUnderTest("mine"))
    assert str(caught.value) == "plugin 'mine', hook 'sample': expected two; found: three. Fix: draw two"


def test_nothing_to_check_is_not_broken():
    def run(subject):
        raise NotCheckable("it has none")

    with pytest.raises(NotCheckable):
        Check("a-name", "loss", "two", "draw two", run).verify(PluginUnderTest("mine"))


def test_strict_lets_a_plugins_own_exception_through(monkeypatch):
    def run(subject):
        raise KeyError("lost")

    check = Check("a-name", "loss", "two", "draw two", run)
    with pytest.raises(PluginError, match=r"found: KeyError: 'lost'\. Fix: draw two"):
        check.verify(PluginUnderTest("mine"))
    monkeypatch.setenv("ZOO_STRICT", "1")
    with pytest.raises(KeyError):
        check.verify(PluginUnderTest("mine"))
