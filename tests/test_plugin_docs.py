"""docs/plugins.md, followed word by word in an empty folder, and docs/hooks.md, which is written from the contract."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pluggy
import pytest

import zoo
from zoo.cli import scaffold
from zoo.plugin import hookspecs
from zoo.plugin.manager import HOOKS

from .follow import BLOCK, blocks
from .reader import ROOT, Reader, Step, pattern

pytestmark = pytest.mark.timeout(600)
PAGE = ROOT / "docs" / "plugins.md"
LINES = 30  # a plugin for an architecture of which the module is there already has fewer lines, blank ones apart
ARCHITECTURE = ("__init__.py", "work.py", "mixer.py", "registry.toml")
OTHERS = ("affine.py", "rows.py", "scaled.py", "stopwatch.py")  # of the other kinds of plugins
HOOKS_SHOWN = {"construct", "batches", "loss", "evaluate", "sample_options", "sample"}


@pytest.fixture(scope="module")
def steps(tmp_path_factory) -> list[Step]:
    """Everything that the tutorial tells its reader to do, done."""
    folder = tmp_path_factory.mktemp("tutorial")
    (folder / "empty").mkdir()
    return Reader(folder / "venv").follow({PAGE: folder / "empty"}, steps=60)


@pytest.mark.slow
def test_every_step_of_the_tutorial_works(steps):
    for step in steps:
        print(f"{step.seconds:6.1f} s  {step.what}  {step.source.strip().splitlines()[0]}")
    failed = [f"{step.source}\n{step.output}" for step in steps if not step.ok]
    assert not failed, "\n".join(failed)
    assert sum(step.what == "file" for step in steps) >= 12
    (tested,) = [step for step in steps if step.source.startswith("pytest")]
    assert re.search(r"\d\d passed", tested.output), tested.output


@pytest.mark.slow
def test_it_prints_what_the_tutorial_shows(steps):
    """Numbers apart, and "..." standing for any lines."""
    shown = [(before, step) for before, step in pairwise(steps) if step.what == "expected"]
    assert len(shown) >= 8
    for before, expected in shown:
        whole = "\n".join(pattern(before.output))
        wanted = "\n".join(pattern(expected.output)).replace("\n...\n", "\n*\n")
        # fnmatch's own signs are meant as they are.
        assert fnmatch(whole, re.sub(r"[\[]", "[[]", wanted)), (
            f"{before.source}\n{before.output}\n!=\n{expected.output}"
        )


@pytest.mark.slow
def test_a_new_architecture_is_fewer_than_thirty_lines_of_code(steps):
    last = {step.source: step.output for step in steps if step.what == "file" and step.source.startswith("zoo_mixer/")}
    assert last.keys() == {f"zoo_mixer/{name}" for name in (*ARCHITECTURE, *OTHERS)}
    code = [last[f"zoo_mixer/{name}"] for name in ("__init__.py", "work.py")]
    count = sum(bool(line.strip()) for text in code for line in text.splitlines())
    assert count < LINES
    assert f"in {count} lines of code" in (ROOT / "README.md").read_text()
    assert set(re.findall(r"(\w+)=", code[0])) == HOOKS_SHOWN
    assert set(re.findall(r"^def (\w+)", code[1], re.MULTILINE)) == {*HOOKS_SHOWN, "logits"}
    assert "zoo" not in last["zoo_mixer/mixer.py"], "the module that its author already has knows nothing of zoo"


def test_the_tutorials_version_pin_is_this_versions():
    texts = [block.text for block in blocks(PAGE) if block.title == "pyproject.toml" and not block.append]
    assert [f'"adapter-zoo{scaffold.compatible()}"' in text for text in texts] == [True]
    assert f'"adapter-zoo{scaffold.compatible()}"' in PAGE.read_text().partition("## How the contract evolves")[2]


def test_the_templates_refuse_what_the_page_says(tmp_path):
    """The filter for deprecations of the page is the templates' own, and it lets nothing of zoo's pass."""
    (filters,) = [block.text for block in blocks(PAGE) if "filterwarnings" in block.text and block.title is None]
    wanted = re.search(r"filterwarnings = \[.*\]", filters)
    assert wanted
    for kind in scaffold.KINDS:
        assert wanted[0] in scaffold.package("tried", kind)["pyproject.toml"]
    (tmp_path / "pyproject.toml").write_text(filters)
    (tmp_path / "test_it.py").write_text(
        "import warnings\nimport pytest\n\n\n"
        "@pytest.mark.parametrize('text', ['zoo 0.3 removes the hook preview', 'other 0.3 does'])\n"
        "def test_it(text):\n"
        "    warnings.warn_explicit(text, DeprecationWarning, '/somewhere/zoo_mine.py', 1)\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert "1 failed, 1 passed" in done.stdout


def test_links_lead_somewhere():
    for page in (PAGE, ROOT / "docs" / "hooks.md", ROOT / "README.md"):
        text = BLOCK.sub("", page.read_text(encoding="utf-8"))
        for target in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", text):
            path = (page.parent / target[0]) if target[0] else page
            assert path.exists(), f"{page.name}: {target[0]}"
            assert not target[1] or target[1] in anchors(path), f"{page.name}: {target}"


def anchors(page: Path) -> set[str]:
    """The names by which GitHub links to a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_hooks", ROOT / "docs" / "generate_hooks.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_hook_reference_is_what_the_contract_says(generator):
    committed = generator.PAGE.read_text(encoding="utf-8")
    assert committed == generator.page(), "zoo/plugin/hookspecs.py has changed: python docs/generate_hooks.py"


def test_the_reference_has_every_hook_with_an_example_that_fits_it(generator):
    """Each example is registered against the contract: a wrong name or argument would be refused."""
    _, hooks = generator.contract()
    assert tuple(hook.name for hook in hooks) == HOOKS
    for hook in hooks:
        manager = pluggy.PluginManager(hookspecs.PROJECT)
        manager.add_hookspecs(hookspecs)
        example = ModuleType(hook.name)
        exec(compile(hook.implementation(), hook.name, "exec"), {"zoo": zoo}, example.__dict__)
        zoo.hookimpl(getattr(example, hook.name))
        manager.register(example)
        manager.check_pending()
        assert [caller.name for caller in manager.get_hookcallers(example) or ()] == [hook.name]
