"""What keeps the code walkable: where things lie, how long files are, which way imports point, and old names."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import CodeType, FrameType

import pytest
import yaml

import zoo
from zoo import compat

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "zoo"
TEMPLATE = PACKAGE / "cli" / "template"  # the files of a package of its own
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if TEMPLATE not in path.parents]
PACKAGES = [path for path in FILES if path.name == "__init__.py" and path.parent != PACKAGE]
LINES, LOOSE = 350, 6
ROW = re.compile(r"^\| `([\w/.]+)` \| `([\w.]+)` \|", re.MULTILINE)


def test_no_file_is_longer_than_350_lines() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {name: length for name, length in lengths.items() if length > LINES} == {}


def test_few_files_lie_loose() -> None:
    loose = [path.name for path in PACKAGE.glob("*.py") if path.name not in ("__init__.py", "__main__.py")]
    assert len(loose) <= LOOSE, loose


@pytest.mark.parametrize("path", PACKAGES, ids=lambda path: path.parent.relative_to(ROOT).as_posix())
def test_a_package_says_what_it_imports_and_where_to_start(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert "Imports:" in docstring
    assert "Start with" in docstring
    for name in re.findall(r"Start with `(\w+\.py)`", docstring):
        assert (path.parent / name).exists(), name


def test_imports_point_down_and_in_no_circle() -> None:
    """Also run by `make lint`; here so that nobody finds out after the tests."""
    code = "from importlinter.cli import lint_imports_command as main; main()"
    command = [sys.executable, "-c", code, "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_importing_zoo_imports_no_library() -> None:
    heavy = ("torch", "transformers", "diffusers", "timm", "torch_geometric", "bitsandbytes", "numpy", "pluggy")
    code = f"import sys, zoo; print(*(name for name in {heavy} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stdout + done.stderr


@pytest.fixture
def forgotten(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An old module's name that nothing has imported yet; and that nothing has, afterwards."""
    old: str = request.param
    parent, _, name = old.rpartition(".")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        above = import_module(parent)
    monkeypatch.delitem(sys.modules, old, raising=False)
    yield old
    sys.modules.pop(old, None)
    vars(above).pop(name, None) if f"{above.__name__}.{name}" not in sys.modules else None


@pytest.mark.parametrize("forgotten", compat.MODULES, indirect=True)
def test_an_old_path_warns_and_gives_the_module_of_now(forgotten: str) -> None:
    new = compat.MODULES[forgotten]
    with pytest.warns(DeprecationWarning, match=rf"{re.escape(forgotten)} is now {re.escape(new)}.* 0\.3") as caught:
        module = import_module(forgotten)
    assert module is import_module(new)
    assert caught[0].filename == __file__, "the warning is shown where the old name is used"


@pytest.mark.parametrize("old", compat.NAMES)
def test_an_old_name_warns_and_gives_the_name_of_now(old: str) -> None:
    with pytest.warns(DeprecationWarning, match=rf"zoo\.{old} is now zoo\.{compat.NAMES[old]}"):
        value = getattr(zoo, old)
    assert value is getattr(zoo, compat.NAMES[old])


def test_the_architecture_lists_every_layer_in_its_order() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    table = (ROOT / "ARCHITECTURE.md").read_text().partition("## Packages")[2].partition("## ")[0]
    named = [name for layer in layers for name in layer.split(" | ") if not name.startswith("_")]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == named


def test_loading_goes_through_the_functions_that_the_architecture_names() -> None:
    """In the order of their first calls."""
    told = ROW.findall((ROOT / "ARCHITECTURE.md").read_text())
    assert len(told) >= 20
    called: dict[CodeType, None] = {}

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            called.setdefault(frame.f_code)

    zoo.load("ddpm", lora=8, bits=4, device="cpu")  # what is imported now need not be traced
    before = sys.getprofile()
    sys.setprofile(note)
    try:
        zoo.load("ddpm", lora=8, bits=4, device="cpu")
    finally:
        sys.setprofile(before)
    found = [
        (Path(code.co_filename).relative_to(ROOT).as_posix(), code.co_qualname)
        for code in called
        if Path(code.co_filename).is_relative_to(ROOT)
    ]
    assert [one for one in told if one not in found] == []
    assert sorted(told, key=found.index) == told


def test_the_files_that_other_programs_read_are_valid() -> None:
    """pre-commit's, GitHub's: what they run is what the Makefile has, or a program of the development extra."""
    targets = " ".join(re.findall(r"^([a-z][a-z -]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)).split()
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    assert workflows
    for path in workflows:
        jobs = yaml.safe_load(path.read_text())["jobs"]
        for job in jobs.values():
            assert job["runs-on"]
            for step in job["steps"]:
                assert ("uses" in step) != ("run" in step)
                for target in re.findall(r"\bmake ([a-z-]+)", step.get("run", "")):
                    assert target in targets
            for one in job.get("strategy", {}).get("matrix", {}).get("include", ()):
                assert one["target"] in targets
    hooks = [
        hook
        for repository in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
        for hook in repository["hooks"]
    ]
    assert {"ruff-check", "ruff-format", "mypy", "import-linter"} <= {hook["id"] for hook in hooks}
    for form in sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")):
        assert isinstance(yaml.safe_load(form.read_text()), dict)


# Where text is parsed that anybody may have written; the rest of zoo calls it. What `testing` reads it has written.
PARSERS = {("json", "load"), ("json", "loads"), ("yaml", "load"), ("yaml", "safe_load"), ("tomllib", "load")}
PARSERS |= {("tomllib", "loads"), ("yaml", "parse"), ("pickle", "load"), ("pickle", "loads"), ("builtins", "eval")}
MATCHERS = {"compile", "match", "fullmatch", "search", "findall", "finditer", "sub", "split"}
# Their expressions are a library's own tables, or made of names that have been escaped.
OWN_PATTERNS = {
    "zoo/formats/export.py",
    "zoo/formats/peft/joined.py",
    "zoo/formats/spellings.py",
    "zoo/integrations/diffusers.py",
    "zoo/integrations/transformers.py",
    "zoo/integrations/transformers_heads.py",
}


def test_strangers_text_is_parsed_and_matched_in_one_package() -> None:
    plugins = [path for path in sorted((ROOT / "plugins").rglob("*.py")) if "tests" not in path.parts]
    found = []
    for path in [*FILES, *plugins]:
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(("zoo/bounded/", "zoo/testing/")):
            continue
        for call in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
                continue
            whose = call.func.value.id if isinstance(call.func.value, ast.Name) else ""
            written = call.args and all(isinstance(one, ast.Constant) for one in _constants(call.args[0], path))
            if (whose, call.func.attr) in PARSERS:
                found.append(f"{name}: {whose}.{call.func.attr}")
            if whose == "re" and call.func.attr in MATCHERS and not written and name not in OWN_PATTERNS:
                found.append(f"{name}: re.{call.func.attr}({ast.unparse(call.args[0])})")
    assert found == [], "use zoo.bounded"


def _constants(expression: ast.expr, path: Path) -> list[ast.expr]:
    """Return the parts of an expression, with a module's own constants, in capitals, as constants."""
    if isinstance(expression, ast.JoinedStr):
        return [part for value in expression.values for part in _constants(value, path)]
    if isinstance(expression, ast.FormattedValue):
        return _constants(expression.value, path)
    if isinstance(expression, ast.Name) and expression.id.isupper():
        return [ast.Constant(expression.id)]
    return [expression]


def test_the_tests_that_are_listed_as_slow_exist() -> None:
    listed = [line for line in (ROOT / "tests" / "slow.txt").read_text().splitlines() if not line.startswith("#")]
    assert listed == sorted(set(listed))
    for line in listed:
        path, _, case = line.partition("::")
        name, text = case.partition("[")[0], (ROOT / path).read_text()
        assert f"def {name}(" in text or f"{name} = " in text, line
