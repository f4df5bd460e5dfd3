"""What is built and installed: dependencies, entry points, wheel, source distribution."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))


def direct() -> list[Requirement]:
    """What the project itself asks for: to be built, to run, and for each of its extras."""
    project = PROJECT["project"]
    lines = [*PROJECT["build-system"]["requires"], *project["dependencies"]]
    lines += [line for extra in project["optional-dependencies"].values() for line in extra]
    return [one for one in map(Requirement, lines) if one.name != project["name"]]


def pins(name: str) -> dict[str, Version]:
    """The set of versions in a file of `constraints/`, where nothing but `name==version` may be."""
    lines = (ROOT / "constraints" / f"{name}.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    found = {name: Version(version) for name, version in pairs}
    assert len(found) == len(pairs), "a package is pinned twice"
    assert all(name == canonicalize_name(name) for name in found)
    assert not any(version.local for version in found.values()), "a local build, which no index has"
    return found


@pytest.mark.parametrize("requirement", direct(), ids=str)
def test_a_dependencys_bounds_are_the_versions_that_were_tested(requirement: Requirement) -> None:
    """From the oldest that the suite ran with, to the next major version after the newest."""
    name = canonicalize_name(requirement.name)
    oldest, newest = pins("oldest")[name], pins("newest")[name]
    bounds = {bound.operator: Version(bound.version) for bound in requirement.specifier}
    assert bounds == {">=": oldest, "<": Version(str(newest.major + 1))}
    assert newest in requirement.specifier
    assert oldest <= newest


def test_the_bundles_entry_points_are_the_plugins_own():
    own: dict[str, str] = {}
    for plugin in PLUGINS:
        points = tomllib.loads((plugin / "pyproject.toml").read_text())["project"]["entry-points"]["zoo"]
        assert not own.keys() & points.keys()
        own |= points
    assert PROJECT["project"]["entry-points"]["zoo"] == own
    installed = {
        point.name: point.value for point in metadata.distribution("adapter-zoo").entry_points.select(group="zoo")
    }
    assert installed == own, "installed metadata is old: pip install --no-deps -e ."


def test_every_plugin_package_is_in_the_wheel_and_known_to_ruff():
    packages = {f"plugins/{plugin.name}/zoo_{plugin.name}" for plugin in PLUGINS}
    assert set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == packages | {"zoo"}
    assert {path.split("/")[-1] for path in packages} <= set(
        PROJECT["tool"]["ruff"]["lint"]["isort"]["known-first-party"]
    )


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_a_plugin_needs_nothing_that_the_bundle_does_not_bring(plugin):
    own = tomllib.loads((plugin / "pyproject.toml").read_text())
    assert set(own["project"]["dependencies"]) <= {*PROJECT["project"]["dependencies"], "adapter-zoo"}
    assert "adapter-zoo" in own["project"]["dependencies"]
    assert own["build-system"] == PROJECT["build-system"]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, Path]:
    """The source distribution, built from a copy of the checkout, and the wheel, built from the unpacked former."""
    folder = tmp_path_factory.mktemp("build")
    ignore = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "zoo-demo", "runs", "dist", "build")
    shutil.copytree(ROOT, folder / "checkout", ignore=ignore)

    def build(target: str, source: Path) -> Path:
        command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder / target)]
        done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        (made,) = (folder / target).iterdir()
        return made

    sdist = build("sdist", folder / "checkout")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (source,) = (folder / "unpacked").iterdir()
    return {"sdist": sdist, "wheel": build("wheel", source)}


def test_the_wheel_holds_the_registry_and_every_plugin_with_its_weights(built):
    names = set(zipfile.ZipFile(built["wheel"]).namelist())
    assert {"zoo/__init__.py", "zoo/registry.toml", "zoo/py.typed", "zoo/cli/__init__.py"} <= names
    for plugin in PLUGINS:
        package = plugin / f"zoo_{plugin.name}"
        files = {str(path.relative_to(plugin)) for path in package.rglob("*") if path.is_file()}
        files = {name for name in files if "__pycache__" not in name}
        assert files <= names
    templates = {
        path for path in (ROOT / "zoo" / "cli" / "template").rglob("*") if path.is_file() and path.suffix != ".pyc"
    }
    assert {str(path.relative_to(ROOT)) for path in templates} <= names, "`zoo new-plugin` writes these"
    assert not {name.split("/")[0] for name in names} & {"tests", "plugins", "conftest.py", "benchmarks"}


def test_the_source_distribution_holds_the_tests(built):
    with tarfile.open(built["sdist"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"tests/test_packaging.py", "conftest.py", "Makefile", "LICENSE", "CHANGELOG.md", "README.md"} <= names
    assert {"constraints/oldest.txt", "constraints/newest.txt"} <= names
    assert {f"plugins/{plugin.name}/pyproject.toml" for plugin in PLUGINS} <= names


def test_an_installed_wheel_works_without_the_checkout(built, tmp_path):
    site = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*command, str(built["wheel"])], check=True, timeout=120)
    code = f"""
import sys
sys.path[:] = [{str(site)!r}] + [p for p in sys.path if p and {str(ROOT)!r} not in (p, p.split("/plugins")[0])]
import zoo
from zoo.catalog import discovery, registry
from zoo.loading.resolve import resolve
from zoo.cli import main
assert zoo.__file__.startswith({str(site)!r}), zoo.__file__
for name in discovery.claims():
    if any(entry.name == name and entry.weights == "embedded" for entry in registry.entries()):
        folder = resolve(name).folder
        assert folder.is_relative_to({str(site)!r}), folder
        assert list(folder.glob("*.safetensors")), folder
sys.exit(main(["list"]) or main(["plugins", "--quick"]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ddpm-cifar10" in done.stdout


def test_the_version_is_one():
    import zoo

    assert metadata.version("adapter-zoo") == zoo.__version__
    assert f"[{zoo.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_embedded_weights_are_small(plugin):
    for path in (plugin / f"zoo_{plugin.name}" / "embedded").glob("*"):
        assert path.stat().st_size <= 6 * 2**20, path
