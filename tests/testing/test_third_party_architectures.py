"""A broken plugin of each sort beside zoo's own: one clear error, and all seven work."""

from __future__ import annotations

import re

import pytest

import zoo
from zoo.catalog import registry
from zoo.cli import main, plugin_status
from zoo.errors import PluginError
from zoo.testing import check_plugin

SEVEN = ("bert", "ddpm", "gat", "gpt", "stylegan", "vae", "vit")
HOOK = "import zoo\n\n\n@zoo.hookimpl\ndef describe(entry):\n    return {}\n"
TABLE = '[own]\nplugin = "bad"\nsummary = "x"\nlicense = "MIT"\n'

# Kind → (files of the package pkg_bad, what the error says).
BROKEN = {
    "import error": ({"__init__.py": "import no_such_module"}, "No module named 'no_such_module'"),
    "syntax error": ({"__init__.py": "def broken(:\n"}, "SyntaxError"),
    "no source at all": ({"__init__.py": "\x00\xff"}, "SyntaxError"),
    "exits": ({"__init__.py": "raise SystemExit(3)"}, "SystemExit: 3"),
    "recursion": ({"__init__.py": "def again():\n    again()\nagain()"}, "RecursionError"),
    "misspelt hook": ({"__init__.py": HOOK.replace("describe", "discribe")}, "Did you mean 'describe'"),
    "extra argument": ({"__init__.py": HOOK.replace("(entry)", "(entry, more)")}, "'more'"),
    "attribute error": ({"__init__.py": HOOK + "zoo.no_such_name"}, "no attribute 'no_such_name'"),
    "no hooks": ({"__init__.py": "x = 1"}, "implements no hook"),
}


def install(site, files: dict[str, str], points: dict[str, str] | str | None = None) -> None:
    site.install("zoo-bad", points or {"bad": "pkg_bad"}, {f"pkg_bad/{name}": text for name, text in files.items()})


def all_seven_work(capsys) -> None:
    """Listed, described, loadable; one of them is loaded and computes."""
    capsys.readouterr()
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert all(re.search(rf"^{name} ", out, re.MULTILINE) for name in SEVEN)
    for name in SEVEN:
        assert main(["info", name]) == 0
    states = {row.name: row.state for row in plugin_status.plugins("quick")}
    assert all(states[name] == "ok" for name in SEVEN)
    model = zoo.load("gat", bits=4, device="cpu")
    assert len(model.sample(1, seed=0)) == 1
    capsys.readouterr()


@pytest.mark.parametrize("kind", BROKEN)
def test_code_that_does_not_load(site, capsys, kind):
    files, said = BROKEN[kind]
    install(site, files)
    all_seven_work(capsys)
    assert main(["plugins", "--quick"]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith("error: bad is broken: ")
    assert said in errors[0]
    with pytest.raises(PluginError, match="plugin 'bad'") as caught:
        check_plugin("bad", level="quick")
    assert said in str(caught.value)
    assert "Fix: " in str(caught.value)


def test_a_heavy_import(site, capsys):
    install(site, {"__init__.py": "import sqlite3, matplotlib\n" + HOOK})
    all_seven_work(capsys)  # it is slow, and not broken
    with pytest.raises(PluginError, match=r"plugin 'bad': .*found: .*matplotlib imported at its top level\. Fix: "):
        check_plugin("bad", level="quick")


def test_a_damaged_entry_point_file(site, capsys):
    install(site, {"__init__.py": HOOK}, "[zoo]\nbad pkg_bad\n")
    all_seven_work(capsys)
    assert main(["plugins", "--quick"]) == 1
    assert re.search(r"^error: zoo-bad 1\.0: entry_points\.txt cannot be read", capsys.readouterr().err, re.MULTILINE)


def test_an_entry_point_to_a_module_that_is_missing(site, capsys):
    site.install("zoo-bad", {"bad": "no_such_package"})
    all_seven_work(capsys)
    with pytest.raises(PluginError, match=r"plugin 'bad': .*No module named 'no_such_package'\. Fix: make `python -c"):
        check_plugin("bad", level="quick")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[own", "pkg_bad"),
        (TABLE + "weight = 3\n", "weight: unknown key. Did you mean 'weights'?"),
        (TABLE.replace("own", "gpt"), "[gpt] is defined in"),
    ],
    ids=["no TOML", "unknown key", "a name that is taken"],
)
def test_a_faulty_registry(site, capsys, text, said):
    install(site, {"__init__.py": HOOK, "registry.toml": text})
    all_seven_work(capsys)
    assert registry.find("gpt").plugin == "gpt"
    assert main(["plugins", "--quick"]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert said in line
    with pytest.raises(PluginError, match=r"plugin 'bad': expected a registry\.toml") as caught:
        check_plugin("bad", level="quick")
    assert said in str(caught.value)


def test_two_claims_to_one_name(site, capsys):
    install(site, {"__init__.py": HOOK})
    site.install("zoo-worse", {"bad": "pkg_worse"}, {"pkg_worse.py": HOOK})
    all_seven_work(capsys)
    assert main(["plugins"]) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "claimed by zoo-bad 1.0 (pkg_bad) and zoo-worse 1.0 (pkg_worse)" in line
    with pytest.raises(PluginError, match=r"Fix: leave one plugin of this name installed"):
        check_plugin("bad", level="quick")


def test_a_claim_to_a_name_of_the_seven_leaves_the_other_six(site, capsys):
    site.install("zoo-bad", {"vae": "pkg_bad"}, {"pkg_bad.py": HOOK})
    states = {row.name: row.state for row in plugin_status.plugins("quick")}
    assert {name for name in SEVEN if states[name] == "ok"} == set(SEVEN) - {"vae"}
    with pytest.raises(PluginError, match=r"claimed by adapter-zoo .* and zoo-bad"):
        zoo.load("vae", device="meta")
    assert len(zoo.load("gat", bits=4, device="cpu").sample(1, seed=0)) == 1
