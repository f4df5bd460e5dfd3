"""`zoo new-plugin`: names, what is written, and that every template passes its own tests once it is built."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

import zoo
from zoo.cli import main, new_plugin, scaffold

from ..reader import ROOT, Reader

NAMES = {"architecture": "tried_module", "quantizer": "tried_bits", "adapter": "tried_gains"}
SHARED = {".gitignore", ".github/workflows/test.yml", "README.md", "pyproject.toml"}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict[str, Path]:
    """A package of each kind."""
    folder = tmp_path_factory.mktemp("written")
    return {kind: scaffold.write(name, kind, folder / name)[0] for kind, name in NAMES.items()}


def test_it_prints_what_it_wrote_and_what_to_type_next(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["new-plugin", "tiny_mixer"]) == 0
    out, err = capsys.readouterr()
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert set(out.splitlines()) == files
    assert {f"zoo-tiny-mixer/{name}" for name in SHARED} < files
    assert "zoo-tiny-mixer/zoo_tiny_mixer/registry.toml" in files
    first, *commands = err.splitlines()
    assert first == "next:"
    assert [line.split()[0] for line in commands] == ["pip", "pytest", "zoo"]
    assert "'zoo-tiny-mixer[test]'" in commands[0]


def test_the_same_as_json(tmp_path, capsys):
    assert main(["new-plugin", "blocks", "--kind", "quantizer", "--out", str(tmp_path / "here"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["name"], facts["kind"] == ("blocks", "quantizer")
    assert all((Path(facts["folder"]) / name).is_file() for name in facts["files"])
    assert len(facts["next"]) == 3


def test_it_imports_nothing_heavy(tmp_path):
    code = "import sys; from zoo.cli import main; main(['new-plugin', 'light']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "False", done.stderr


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("My-Mixer", "'my_mixer' would do"),
        ("../away", "'away' would do"),
        ("1st", "lower-case letters"),
        ("class", "no word of Python's"),
        ("none", "no word of Python's"),
        ("", "lower-case letters"),
        ("zoo_mixer", "give 'mixer'"),
        ("nf4", "one of zoo's own"),
        ("lora", "one of zoo's own"),
        ("ddpm", "taken by adapter-zoo"),
        ("gpt2", "a model of 'gpt'"),
    ],
)
def test_a_name_that_cannot_be(name, told, tmp_path, capsys):
    assert main(["new-plugin", "--out", str(tmp_path / "new"), "--", name]) == 1
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_package_of_that_name_is_there_already(site, tmp_path):
    (site.folder / "zoo_present").mkdir()
    (site.folder / "zoo_present" / "__init__.py").write_text("")
    site.changed()
    with pytest.raises(zoo.PluginError, match="zoo_present is installed already"):
        scaffold.write("present", folder=tmp_path / "new")


def test_a_folder_that_holds_something_stays_as_it_is(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(zoo.OutputError, match="it holds files; give a new one with --out"):
        scaffold.write("mixer", folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    assert scaffold.write("mixer", folder=tmp_path / "empty")[1]


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(path, text):
        if Path(path).name == "pyproject.toml":
            raise OSError(28, "No space left on device")
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)

    monkeypatch.setattr(scaffold, "write_text", full)
    with pytest.raises(zoo.OutputError, match="No space left"):
        scaffold.write("mixer", folder=tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_an_unknown_kind_is_told(tmp_path):
    with pytest.raises(zoo.UnknownNameError, match="Did you mean 'quantizer'"):
        scaffold.write("mixer", "quantiser", tmp_path / "new")
    assert new_plugin._KINDS == scaffold.KINDS


@pytest.mark.parametrize("kind", scaffold.KINDS)
def test_the_package_is_complete_and_speaks_of_nothing_but_itself(kind, written):
    name, folder = NAMES[kind], written[kind]
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert SHARED | {f"zoo_{name}/__init__.py", f"tests/test_{name}.py"} <= files
    assert (f"zoo_{name}/registry.toml" in files) == (kind == "architecture")
    for path in map(folder.joinpath, files):
        text = path.read_text(encoding="utf-8")
        assert "sketch" not in text.lower(), path
        assert path.suffix != ".py" or ast.parse(text)
        assert path.suffix != ".toml" or tomllib.loads(text)
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["entry-points"] == {"zoo": {name: f"zoo_{name}"}}
    assert project["name"] == f"zoo-{name.replace('_', '-')}"
    assert name in project["description"]
    assert f"adapter-zoo{scaffold.compatible()}" in project["dependencies"]


@pytest.mark.parametrize(
    ("now", "pin"), [("0.1.0", ">=0.1,<0.2"), ("0.9.3", ">=0.9,<0.10"), ("1.4.2", ">=1.4,<2"), ("2.0.0", ">=2.0,<3")]
)
def test_the_versions_that_a_new_plugin_works_with(now, pin, monkeypatch):
    from packaging.specifiers import SpecifierSet

    monkeypatch.setattr(scaffold, "__version__", now)
    assert scaffold.compatible() == pin
    assert now in SpecifierSet(pin)
    assert version("adapter-zoo") == zoo.__version__


def test_every_file_of_a_template_is_written():
    own = {
        path
        for path in (ROOT / "zoo" / "cli" / "template").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert not [path for path in own if path.name.startswith(".")], "git and hatchling would read these as their own"
    for kind in scaffold.KINDS:
        parts = [path.relative_to(ROOT / "zoo" / "cli" / "template").parts[0] for path in own]
        assert len(scaffold.package("x", kind)) == parts.count("common") + parts.count(kind)


@pytest.mark.turns(3)
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", NAMES)
def test_a_template_passes_its_tests_once_built_and_installed(written, kind, tmp_path):
    """A wheel, installed; then, from a folder without the sources, README, tests, suite, samples."""
    reader, folder = Reader(tmp_path / "venv"), written[kind]
    reader.pip("wheel", "--no-build-isolation", "-w", tmp_path / "wheels", folder, cwd=tmp_path)
    (wheel,) = (tmp_path / "wheels").iterdir()
    reader.pip("install", wheel, cwd=tmp_path)
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("tests/")]
    work = tmp_path / "work"
    shutil.copytree(folder / "tests", work / "tests")
    shutil.copy(folder / "pyproject.toml", work)
    page = work / "page.md"
    page.write_text((folder / "README.md").read_text().replace("pip install -e '.[test]'\n", ""))
    steps = reader.follow({page: work}, steps=3)
    failed = [f"{step.source}\n{step.output}" for step in steps if not step.ok]
    assert not failed, "\n".join(failed)
    (tested,) = [step for step in steps if step.source == "pytest"]
    assert "failed" not in tested.output
    assert "passed" in tested.output
    if kind == "architecture":
        assert any(step.source.startswith("zoo sample tried_module") and len(step.output) > 70 for step in steps)
    else:
        assert f"zoo plugins --check {NAMES[kind]}" in [step.source for step in steps]
    for step in steps:
        print(f"{step.seconds:6.1f} s  {step.source.splitlines()[0]}")
