"""Every plugin under `examples/plugins`: installed on its own, its own tests pass, and the seven live beside all.

An example needs a pyproject.toml with its entry point and a `tests` folder; nothing is listed here. Its tests, and what
its README.md says, run in a process of their own, from an empty folder, against the installed package.
"""

from __future__ import annotations

import json
import re
import shutil
import tomllib
import xml.etree.ElementTree as ElementTree
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from zoo.catalog import registry

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted(path.parent for path in ROOT.glob("examples/plugins/*/pyproject.toml"))
OWN = sorted(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["zoo"])
CHECK = Path(__file__).with_name("readme_blocks.py")
QUICK = "observer"  # installing and testing takes some ten seconds for each: the others are slow


def project(example: Path) -> dict[str, Any]:
    return tomllib.loads((example / "pyproject.toml").read_text())["project"]


def requirements(lines: list[str]) -> set[str]:
    """The distributions that requirements name, without their versions."""
    return {re.split(r"[^\w.-]", line)[0].lower() for line in lines}


def test_the_extra_for_tests_has_everything_that_the_examples_need():
    own = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    there = requirements([own["name"], *own["dependencies"], *own["optional-dependencies"]["test"]])
    for example in EXAMPLES:
        assert requirements(project(example)["dependencies"]) <= there, example.name


@pytest.mark.turns(3)
@pytest.mark.parametrize(
    "example",
    [pytest.param(one, id=one.name, marks=[] if one.name == QUICK else [pytest.mark.slow]) for one in EXAMPLES],
)
def test_an_example_passes_its_own_tests_once_installed(example, installed, run, tmp_path):
    for needed in requirements(project(example)["dependencies"]) - {"adapter-zoo"}:
        try:
            metadata.distribution(needed)
        except metadata.PackageNotFoundError:
            pytest.skip(f"{needed} is not installed: pip install -e '.[test]'")
    work = tmp_path / example.name
    shutil.copytree(example / "tests", work / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(example / "pyproject.toml", work)
    if (example / "README.md").is_file():
        shutil.copy(example / "README.md", work)
        shutil.copy(CHECK, work / "tests" / "test_readme_blocks.py")
    report = tmp_path / "report.xml"
    flags = ["-q", "-p", "no:cacheprovider", "-c", str(work / "pyproject.toml"), "--rootdir", str(work)]
    done = run(["-m", "pytest", *flags, f"--junit-xml={report}", str(work / "tests")], [installed(example)])
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    (suite,) = ElementTree.parse(report).getroot().iter("testsuite")
    ran = [case for case in suite.iter("testcase") if case.find("skipped") is None]
    assert [case for case in ran if "readme_blocks" not in case.attrib["classname"]], "no test of its own ran"


@pytest.mark.slow
def test_all_examples_beside_the_seven(installed, run):
    sites = [installed(example) for example in EXAMPLES]
    points = {name: example for example in EXAMPLES for name in project(example)["entry-points"]["zoo"]}

    shown = run(["-m", "zoo", "plugins", "--json"], sites)
    assert shown.returncode == 0, shown.stderr
    rows = {row["name"]: row for row in json.loads(shown.stdout)["plugins"]}
    assert sorted(rows) == sorted([*OWN, *points])
    for name, row in rows.items():
        example = points.get(name)
        expected = ("adapter-zoo", None) if example is None else (project(example)["name"], project(example)["version"])
        assert row["distribution"] == expected[0]
        assert row["version"] == (expected[1] or row["version"])
        assert row["state"] != "broken", row

    shown = run(["-m", "zoo", "list", "--json"], sites)
    assert shown.returncode == 0, shown.stderr
    assert not shown.stderr
    registries = [tomllib.loads(file.read_text()) for site in sites for file in site.glob("*/registry.toml")]
    theirs = {name: entry["plugin"] for one in registries for name, entry in one.items()}
    own = {entry.name: entry.plugin for entry in registry.entries() if entry.plugin in OWN}
    assert not theirs.keys() & own.keys()
    assert {row["name"]: row["plugin"] for row in json.loads(shown.stdout)} == own | theirs


@pytest.mark.slow
def test_every_plugin_loads_where_all_are_installed(installed, run):
    imports = "from zoo.catalog import discovery\nfrom zoo.plugin import hooks\n"
    code = f"{imports}for name in discovery.claims():\n    hooks.load(name)\nprint('all')"
    done = run(["-W", "error", "-c", code], [installed(example) for example in EXAMPLES], {"ZOO_STRICT": "1"})
    assert done.stdout == "all\n", done.stderr
