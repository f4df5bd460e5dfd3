"""`zoo plugins`: what a light import shows, what a full one does, and the suite in processes of its own."""

from __future__ import annotations

import json
import re
import sys

import pytest

from zoo.cli import main, plugin_status
from zoo.plugin import child
from zoo.testing import Result, isolated


def rows(capsys) -> dict[str, dict]:
    return {row["name"]: row for row in json.loads(capsys.readouterr().out)["plugins"]}


def test_the_list_shows_kinds_and_hooks_and_imports_nothing(install, capsys):
    for name in ("toy", "round", "gain", "watch"):
        install(name)
    assert main(["plugins", "--json", "toy", "round", "gain", "watch"]) == 0
    shown = rows(capsys)
    kinds = {name: row["kind"] for name, row in shown.items()}
    assert kinds == {"toy": "architecture", "round": "quantizer", "gain": "adapter kind", "watch": "observer"}
    assert shown["watch"]["hooks"] == ["loss", "batches", "describe"]
    assert {row["state"] for row in shown.values()} == {"not checked"}
    assert not {"zoo_toy", "zoo_round", "zoo_gain", "zoo_watch"} & set(sys.modules)
    assert main(["plugins", "--quick", "--json", "toy", "round", "gain", "watch"]) == 0
    loaded = rows(capsys)
    assert {name: (row["kind"], row["hooks"]) for name, row in loaded.items()} == {
        name: (row["kind"], row["hooks"]) for name, row in shown.items()
    }
    assert {row["state"] for row in loaded.values()} == {"ok"}


def test_what_a_light_import_shows_is_what_a_full_one_does():
    listed, loaded = plugin_status.plugins(), plugin_status.plugins("quick")
    assert [(row.name, row.kind, row.hooks) for row in listed] == [(row.name, row.kind, row.hooks) for row in loaded]


# The code of a plugin, and what a listing shows of it: its hooks and kind.
LISTED = {
    "functions": ("import zoo\n@zoo.hookimpl\ndef loss(model): ...", ["loss"], "architecture"),
    "a table": (
        "import zoo\nzoo.hooks(quantize='no_such_module', describe='torch')",
        ["quantize", "describe"],
        "quantizer",
    ),
    "wrappers": ("import zoo\n@zoo.hookimpl(wrapper=True)\ndef loss(model):\n    return (yield)", ["loss"], "observer"),
    "functions from elsewhere": ("from pkg_read.more import *", ["sample"], "architecture"),
    "what needs something heavy": ("import torch, zoo\n@zoo.hookimpl\ndef loss(model): ...", [], ""),
    "nothing": ("x = 1", [], ""),
    "no Python": ("def broken(:\n", [], ""),
    "what exits": ("raise SystemExit(3)", [], ""),
    "what ends its process": ("import os\nos._exit(0)", [], ""),
    "what prints": (
        "print('[[\"loss\"], true]')\nimport zoo\n@zoo.hookimpl\ndef loss(model): ...",
        ["loss"],
        "architecture",
    ),
}
MORE = "import zoo\n@zoo.hookimpl\ndef sample(model, request): ...\n"


@pytest.mark.parametrize("kind", LISTED)
def test_what_is_light_is_imported_in_another_process(site, capsys, kind):
    text, hooks, is_a = LISTED[kind]
    site.install("dist-read", {"read": "pkg_read.deep"}, {"pkg_read/__init__.py": "", "pkg_read/more.py": MORE})
    (site.folder / "pkg_read" / "deep.py").write_text(text)
    site.install("dist-zero", {"zero": "pkg_zero"}, {"pkg_zero.py": LISTED["functions"][0]})
    assert main(["plugins", "--json"]) == 0
    shown = rows(capsys)
    assert (shown["read"]["hooks"], shown["read"]["kind"], shown["read"]["state"]) == (hooks, is_a, "not checked")
    assert shown["read"]["distribution"] == "dist-read"
    for name, hook in (("zero", "loss"), ("vit", "construct"), ("ia3", "inject_adapter")):  # none breaks another
        assert hook in shown[name]["hooks"]
    assert not {"pkg_read", "pkg_zero"} & set(sys.modules)


@pytest.mark.slow
def test_an_import_that_does_not_end_is_given_up(site, monkeypatch, capsys):
    monkeypatch.setattr(child, "LIGHT", 2.0)
    slow = "import time\nwhile True:\n    time.sleep(1)\n"
    site.install("dist-slow", {"slow": "pkg_slow", "zero": "pkg_zero"}, {"pkg_slow.py": slow, "pkg_zero.py": MORE})
    assert main(["plugins", "--json", "slow", "zero"]) == 0
    assert {name: row["hooks"] for name, row in rows(capsys).items()} == {"slow": [], "zero": ["sample"]}


def test_a_module_that_is_not_there_says_nothing(site, capsys):
    site.install("dist-gone", {"gone": "no_such_package.inner", "odd": "not a module!"})
    assert main(["plugins", "--json", "gone", "odd"]) == 0
    assert [row["hooks"] for row in rows(capsys).values()] == [[], []]


def test_check_runs_the_suite_elsewhere_and_names_hook_and_fix_of_each_broken_promise(install, capsys):
    install("watch", {"zoo_watch.py": [("    return result", "    return None"), ("return (yield)", "yield")]})
    install("round")
    assert main(["plugins", "--check", "--json", "watch", "round"]) == 1
    out, err = capsys.readouterr()
    shown = {row["name"]: row for row in json.loads(out)["plugins"]}
    assert (shown["round"]["state"], shown["round"]["kind"]) == ("ok", "quantizer")
    assert all(check["ok"] for check in shown["round"]["checks"])
    (broken,) = [check for check in shown["watch"]["checks"] if check["ok"] is False]
    assert (broken["check"], broken["hook"]) == ("passes-results-on", "loss")
    assert (shown["watch"]["state"], shown["watch"]["kind"]) == ("broken", "observer")
    assert shown["watch"]["reasons"] == [broken["reason"]]
    *progress, line = err.splitlines()
    assert progress == ["checking round …", "checking watch …"]
    assert line.startswith("error: watch is broken: plugin 'watch', hook 'loss': expected results passed on unchanged")
    assert "Fix: in each wrapper" in line
    assert not {"zoo_watch", "zoo_round"} & set(sys.modules)


def test_check_shows_how_many_promises_hold(install, monkeypatch, capsys):
    install("gain")
    results = (
        Result("one", "import", True, "x"),
        Result("two", "inject_adapter", None, "y", "nothing to check"),
        Result("three", "inject_adapter", False, "z", "plugin 'gain', hook 'inject_adapter': expected z"),
    )
    found = isolated.Examined(("inject_adapter", "adapter_config"), False, results)
    monkeypatch.setattr(isolated, "examine", lambda name, told, device: found)
    assert main(["plugins", "--check", "gain"]) == 1
    out, err = capsys.readouterr()
    pattern = r"^gain +1\.0 +zoo-gain +adapter kind +broken +1 of 2 +inject_adapter, adapter_config$"
    assert re.search(pattern, out, re.MULTILINE)
    assert err == "error: gain is broken: plugin 'gain', hook 'inject_adapter': expected z\n"


DEATHS = {
    "ends its process": ("import zoo\n", "import zoo, os\nos._exit(0)\n", "import", "status 0 (it said nothing)"),
    "kills its process": (
        "import zoo\n",
        "import zoo, os, sys\nprint('last words', file=sys.stderr, flush=True)\nos.kill(os.getpid(), 9)\n",
        "import",
        "status -9 (last words)",
    ),
    "prints and ends it in a hook": (
        "from .codec import pack",
        "print('not JSON')\n    import os\n    os._exit(3)",
        "quantize",
        "status 3",
    ),
}


@pytest.mark.parametrize("kind", DEATHS)
def test_whatever_a_plugin_does_to_its_process_is_its_own_failure(install, kind):
    old, new, hook, said = DEATHS[kind]
    install("round", {"zoo_round/__init__.py": [(old, new)]})
    last = isolated.examine("round").results[-1]
    assert (last.ok, last.hook) == (False, hook)
    assert last.reason.startswith("plugin 'round'")
    assert said in last.reason
    assert "Fix: " in last.reason


def test_strict_shows_the_traceback(install, monkeypatch, capfd):
    install("round", {"zoo_round/__init__.py": [("import zoo\n", "import zoo\n1 / 0\n")]})
    monkeypatch.setenv("ZOO_STRICT", "1")
    found = isolated.examine("round")
    assert found.hooks is None
    assert "ended with status 1" in found.results[-1].reason
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_zoo_plugins_restricts_what_is_listed_and_checked(install, monkeypatch, capsys):
    install("gain")
    monkeypatch.setenv("ZOO_PLUGINS", "watch, absent")
    install("watch")
    assert main(["plugins", "--json"]) == 0
    assert set(rows(capsys)) == {"watch", "absent"}
    assert main(["plugins", "--check", "gain"]) == 1
    assert "ZOO_PLUGINS=watch, absent leaves it out: add it there" in capsys.readouterr().err
    assert main(["plugins", "--quick", "--json"]) == 1
    found = rows(capsys)
    assert found["absent"]["reasons"] == ["ZOO_PLUGINS names 'absent', which is not installed"]
    assert found["watch"]["state"] == "ok"


def test_an_unknown_name_is_refused_with_the_nearest(capsys):
    assert main(["plugins", "--check", "dpm"]) == 1
    assert "Did you mean 'ddpm'?" in capsys.readouterr().err
