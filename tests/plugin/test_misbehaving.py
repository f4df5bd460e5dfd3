"""Plugins that misbehave stop no other: not a load, not a list, not a look at the plugins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch

from zoo.cli import plugin_status
from zoo.errors import PluginError
from zoo.loading.resolve import resolve
from zoo.plugin import child, hooks, recognition, stamps

from .helpers import good

ASKED = "import zoo\n@zoo.hookimpl\ndef recognises(config):\n"
# What a plugin does when it is asked, and what is said of it.
BAD = {
    "raises": (ASKED + "    raise ValueError('no')", "raised ValueError: no"),
    "interrupts": (ASKED + "    raise KeyboardInterrupt", "raised KeyboardInterrupt"),
    "stops": (ASKED + "    raise GeneratorExit", "raised GeneratorExit"),
    "has_no_text": ("class E(Exception):\n    __str__ = None\n" + ASKED + "    raise E", "raised E"),
    "leaves": (ASKED + "    import os; os._exit(3)", "ended the process, with status 3"),
    "crashes": (ASKED + "    import ctypes; ctypes.string_at(0)", "ended the process, with signal 11"),
    "says_yes": (ASKED + "    return True", "it says True to every configuration"),
    "takes_all": (ASKED + "    return 'fallback'", "it says 'fallback' to every configuration"),
    "lists": (ASKED + "    return ['yes']", "returned list, expected True, False, None or 'fallback'"),
    "moves": (ASKED + "    import os; os.chdir('/'); return False", "changes the current folder"),
    "sets": (ASKED + "    import os; os.environ['HF_HOME'] = '/'; return False", "changes the environment"),
    "draws": (ASKED + "    import random; random.seed(5); return False", "changes a global random state"),
    "answers": (
        ASKED
        + "    import os\n    for n in range(3, 30):\n"
        + "        try: os.write(n, b'[[1]]\\n')\n        except OSError: pass",
        "it wrote where zoo's own answers go",
    ),
    "ends_import": ("import os; os._exit(0)", "ended the process, with status 0"),
    "interrupts_import": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "moves_import": (
        "import os; os.chdir('/')\n" + ASKED + "    return False",
        "importing it changes the current folder",
    ),
    "has_no_hooks": ("x = 1", "implements no hook"),
    "is_no_module": ("import sys\nsys.modules[__name__] = 5", "implements no hook"),
}
HARMLESS = {
    "prints": ASKED + "    print('{}'); return False",
    "empties": ASKED + "    config.clear(); return False",
}


def bad(site, **codes: str) -> None:
    for name, code in codes.items():
        site.install(f"dist-{name}".replace("_", "-"), {name: f"pkg_{name}"}, {f"pkg_{name}.py": code})


def asked(**config) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return what recognises a configuration, and plugin → the warning about it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = hooks.recognise(config)
    lines = [str(one.message) for one in caught]
    assert all(line.startswith("passed over: plugin ") and "\n" not in line for line in lines)
    return found, {line.split("'")[1]: line for line in lines}


@pytest.fixture
def crowd(site, monkeypatch):
    """All of them at once, beside one that is good and two distributions of one name."""
    bad(site, **{name: code for name, (code, _) in BAD.items()}, **HARMLESS)
    good(site, "one")
    site.install("dist-first", {"same": "pkg_first"}, {"pkg_first.py": ASKED + "    return False"})
    site.install("dist-second", {"same": "pkg_second"}, {"pkg_second.py": ASKED + "    return False"})
    site.install("dist-odd", "[zoo]\nodd = not a module!!\nnone =\n")
    monkeypatch.setenv("ZOO_CACHE", str(site.folder / "cache"))
    return site


def test_each_is_passed_over_and_named_and_the_others_answer(crowd, tmp_path, monkeypatch):
    before = Path.cwd(), dict(os.environ), torch.get_rng_state()
    found, said = asked(model_type="one")
    assert found == ("one",)
    for name, (_, reason) in BAD.items():
        assert reason in said.pop(name)
    assert "is claimed by dist-first 1.0" in said["same"]
    assert "dist-second 1.0" in said["same"]
    assert said.keys() == {"same", "odd", "none"}
    assert (Path.cwd(), dict(os.environ)) == before[:2]
    assert torch.equal(torch.get_rng_state(), before[2])

    hooks.reset()  # as a new process, which starts no other: all is remembered
    with monkeypatch.context() as patch:
        patch.setattr(child, "look", None)
        assert asked(model_type="one")[0] == ("one",)
    (tmp_path / "config.json").write_text('{"model_type": "one"}')
    with pytest.warns(UserWarning, match="passed over"):
        assert resolve(str(tmp_path)).plugin == "one"

    path = os.pathsep.join([str(crowd.folder), *sys.path])
    for verb in (["list", "--json"], ["info", str(tmp_path), "--json"]):
        command = [sys.executable, "-W", "ignore", "-m", "zoo", *verb]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
        assert done.returncode == 0, done.stderr
        json.loads(done.stdout)
    states = {row.name: row for row in plugin_status.plugins("quick")}
    for name, (_, reason) in BAD.items():
        assert states[name].state == "broken"
        assert reason in states[name].reasons[0]
    assert {states[name].state for name in ("one", *HARMLESS)} == {"ok"}
    assert {row.state for row in plugin_status.plugins()} == {"broken", "not checked"}


@pytest.mark.slow
def test_one_that_hangs_is_left_behind_in_time(site, monkeypatch):
    bad(site, hangs=ASKED + "    while True: pass", waits="import time; time.sleep(100)")
    good(site, "one")
    monkeypatch.setattr(child, "LIGHT", 1.5)
    begin = time.monotonic()
    found, said = asked(model_type="one")
    assert found == ("one",)
    assert all("it took more than 2 seconds" in said[name] for name in ("hangs", "waits"))
    assert time.monotonic() - begin < 30


def test_what_only_fails_here_is_passed_over_here(site, monkeypatch):
    rude = "    import sys, time\n    if config.get('n') == {n} and 'pytest' in sys.modules: {what}\n    return False"
    does = {"raises": (1, "raise KeyboardInterrupt"), "waits": (2, "time.sleep(3)"), "errs": (1, "return 1")}
    bad(site, **{name: ASKED + rude.format(n=n, what=what) for name, (n, what) in does.items()})
    good(site, "one")
    monkeypatch.setattr(recognition, "PATIENCE", 0.5)
    assert asked(model_type="one", n=0) == (("one",), {})
    found, said = asked(model_type="one", n=1)
    assert found == ("one",)
    assert "raised KeyboardInterrupt" in said["raises"]
    assert "returned int" in said["errs"]
    found, said = asked(model_type="one", n=2)
    assert found == ("one",)
    assert "took more than" in said["waits"]
    begin = time.monotonic()
    assert asked(model_type="one", n=2) == (("one",), {})
    assert time.monotonic() - begin < 0.5


def test_a_plugin_is_asked_again_when_its_files_change(site):
    bad(site, mends=ASKED + "    raise ValueError")
    assert "raised ValueError" in asked(kind="mended")[1]["mends"]
    first = stamps.stamp("mends")
    (site.folder / "pkg_mends.py").write_text(ASKED + "    return config.get('kind') == 'mended'")
    site.changed()
    assert stamps.stamp("mends") != first
    assert asked(kind="mended") == (("mends",), {})


def test_what_is_remembered_may_be_damaged_or_refused(site, monkeypatch, tmp_path):
    good(site, "one")
    monkeypatch.setattr(child, "look", lambda names, config, light: {name: child.Seen() for name in names})
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    for content in (b"{", b"[1]", b'{"a": 1}', b'{"a": [1, "x"]}', b"\xff"):
        (tmp_path / stamps.FILE).write_bytes(content)
        stamps.forget()
        assert not stamps.faults(["one"], {})
        assert stamps.stamp("one") in (tmp_path / stamps.FILE).read_text()
    (tmp_path / "file").touch()
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "file"))
    stamps.forget()
    assert not stamps.faults(["one"], {})


def test_two_that_are_sure_are_one_question(site, tmp_path):
    for name in ("one", "two"):
        bad(site, **{name: ASKED + "    return config.get('model_type') == 'both'"})
    (tmp_path / "config.json").write_text('{"model_type": "both"}')
    with pytest.raises(PluginError, match=r"by several plugins, one \(dist-one 1\.0\) and two .* ZOO_PLUGINS=one"):
        resolve(str(tmp_path))


def test_a_layer_is_asked_of_those_that_work(site):
    asked = "import zoo\n@zoo.hookimpl\ndef foreign_weight(layer, dtype):\n"
    bad(site, leaves="import os; os._exit(0)", raises=asked + "    raise ValueError('no')")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert hooks.foreign_weight(torch.nn.Linear(2, 2), torch.float32) is None
    said = " ".join(str(one.message) for one in caught)
    assert "plugin 'leaves' (dist-leaves 1.0): it ended the process" in said
    assert "failed in its hook 'foreign_weight': ValueError: no" in said
