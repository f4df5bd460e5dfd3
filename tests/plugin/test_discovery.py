"""Which plugins there are: found, imported in isolation, and named with the reason where they are broken."""

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
from zoo.errors import PluginError, UnknownNameError
from zoo.plugin import hooks

from .helpers import GOOD, Bare, entry, good


def test_a_plugin_is_imported_when_it_is_first_asked_and_no_other_is(site):
    good(site, "one")
    good(site, "two")
    assert {"one", "two"} <= set(discovery.claims())
    assert "pkg_one" not in sys.modules
    assert isinstance(hooks.construct(entry("one")), nn.Linear)
    assert "pkg_one" in sys.modules
    assert "pkg_two" not in sys.modules
    assert hooks.describe(entry("two")) == {"who": "two"}


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


def test_recognise_asks_every_plugin_that_loads(site):
    good(site, "one")
    good(site, "two")
    site.install("dist-bad", {"bad": "pkg_bad"}, {"pkg_bad.py": "1 / 0"})
    with pytest.warns(UserWarning, match=r"passed over: plugin 'bad' \(dist-bad 1\.0\) cannot be used: ZeroDiv"):
        assert hooks.recognise({"model_type": "two"}) == ("two",)
    with pytest.warns(UserWarning, match="plugin 'bad'"):
        assert hooks.recognise({"nobody's": "type"}) == ()


def test_a_fallback_counts_where_no_plugin_is_sure(site):
    good(site, "one")
    for name in ("dist-last", "dist-other"):
        package = name.replace("-", "_")
        site.install(
            name,
            {package: package},
            {f"{package}.py": f"import zoo\n@zoo.hookimpl\ndef recognises(config):\n    return config.get({name!r})\n"},
        )
    sure, last = {"model_type": "one"}, {"dist-last": "fallback"}
    assert hooks.recognise(last) == ("dist_last",)
    assert hooks.recognise({**sure, **last}) == ("one",)
    assert hooks.recognise({**last, "dist-other": "fallback"}) == ("dist_last", "dist_other")
    assert hooks.recognise({**last, "dist-other": True}) == ("dist_other",)


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
