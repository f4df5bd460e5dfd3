"""The pytest plugin: light, and of use to somebody else's test module."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

MODULE = """
import pytest
from zoo.testing import conformance

test_promise = conformance("toy")


def test_fixtures(zoo_check, zoo_model, zoo_site):
    first, second = zoo_model("toy", bits=4, lora=2), zoo_model("toy", bits=4, lora=2)
    assert first is not second
    first.remove_adapter("default")
    assert second.active == ("default",)
    zoo_site.install("zoo-other", {"other": "zoo_other"}, {"zoo_other.py": "import zoo"})
    with pytest.raises(Exception, match="plugin 'other'"):
        zoo_check("other", level="quick")
"""


def run(folder: Path, *words: str, path: list[str]) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path[:] = {path!r}; import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    filters = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["filterwarnings"]
    (folder / "own.ini").write_text("\n    ".join(["[pytest]\nfilterwarnings =", *filters]))
    words = ("-q", "-p", "zoo.testing.pytest_plugin", "-c", str(folder / "own.ini"), *words)
    # Not by its entry point: who tests a checkout may have installed another version of it.
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_the_entry_point_is_the_module_with_the_fixtures():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"zoo": "zoo.testing.pytest_plugin"}


@pytest.mark.slow
def test_every_promise_is_a_case_and_the_fixtures_work(install, site, tmp_path):
    install("toy", {"zoo_toy/__init__.py": [("manual_seed(request.seed)", "manual_seed(5)")]})
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "test_theirs.py").write_text(MODULE)
    done = run(folder, "test_theirs.py", path=sys.path)
    last = done.stdout.strip().splitlines()[-1]
    assert "1 failed" in last, done.stdout + done.stderr
    assert int(last.split(" passed")[0].split()[-1]) > 40
    assert "test_theirs.py::test_promise[sample-samples-follow-the-seed]" in done.stdout
    assert "plugin 'toy', hook 'sample': expected other samples for other seeds; found: the same" in done.stdout
    assert "Traceback" not in done.stdout


def test_a_plugin_that_does_not_load_is_one_failing_case(install, tmp_path):
    install("watch", {"zoo_watch.py": [("import zoo\n", "import zoo, no_such_module\n")]})
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "test_theirs.py").write_text("from zoo.testing import conformance\ntest_promise = conformance('watch')\n")
    done = run(folder, "test_theirs.py", path=sys.path)
    assert "import-imports" in done.stdout
    assert "No module named 'no_such_module'" in done.stdout
    assert "passed" in done.stdout


def test_loading_it_imports_nothing_heavy(tmp_path):
    (tmp_path / "test_light.py").write_text(
        "import sys\n\ndef test_light(pytestconfig):\n"
        "    from zoo.plugin.child import HEAVY\n"
        "    assert not [name for name in HEAVY if name in sys.modules]\n"
        "    assert pytestconfig.pluginmanager.get_plugin('zoo.testing.pytest_plugin')\n"
    )
    done = run(tmp_path, "test_light.py", path=sys.path)
    assert "1 passed" in done.stdout, done.stdout + done.stderr
