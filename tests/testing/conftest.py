"""Four healthy plugins, one of each kind, installed as they are or with one thing changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from zoo.catalog import registry
from zoo.errors import PluginError
from zoo.testing import Site, check_plugin, subject
from zoo.testing.fresh import Seen

from .mutations import Mutation

SOURCES = Path(__file__).with_name("toys")
ROOTS = {"toy": "zoo_toy", "round": "zoo_round", "gain": "zoo_gain", "watch": "zoo_watch"}
IN_A_FRESH_PROCESS = ("heavy import", "prints", "facts import torch")


def sources(name: str) -> dict[str, str]:
    """A toy plugin's files: path → text."""
    root = SOURCES / ROOTS[name]
    paths = sorted(root.glob("*.*")) if root.is_dir() else [root.with_suffix(".py")]
    return {path.relative_to(SOURCES).as_posix(): path.read_text() for path in paths if path.is_file()}


def weights(folder: Path, seed: int = 0) -> None:
    """Random weights of the toy architecture, and its configuration."""
    import json

    import torch
    from safetensors.torch import save_file
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = {"encode": nn.Linear(8, 16), "norm": nn.BatchNorm1d(16), "decode": nn.Linear(16, 8)}
        layers["norm"].running_mean.normal_()
    tensors = {f"{name}.{key}": value for name, layer in layers.items() for key, value in layer.state_dict().items()}
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "toy", "size": 8, "width": 16}))


@pytest.fixture
def install(site: Site) -> Callable[..., None]:
    """`install("toy", {path: [(old, new)]})`: a toy plugin, with each `old` replaced by `new` in that file."""

    def put(name: str, changes: dict[str, list[tuple[str, str]]] | None = None) -> None:
        files = sources(name)
        for path, pairs in (changes or {}).items():
            for old, new in pairs:
                assert old in files[path], f"{path} has no {old!r}"
                files[path] = files[path].replace(old, new) if old else files[path]
        if name == "toy":
            weights(site.folder / "zoo_toy" / "embedded")
        site.install(f"zoo-{name}", {name: ROOTS[name]}, files)
        registry.forget()

    return put


@pytest.fixture
def names_what_is_broken(install: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Check that the suite names the plugin, hook and fix of a mutation."""

    def check(name: str, path: str, kind: str, mutation: Mutation) -> None:
        if kind not in IN_A_FRESH_PROCESS:
            monkeypatch.setattr(subject, "import_in_subprocess", lambda name: Seen())
        install(name, {path: [(mutation.old, mutation.new), (mutation.old2, mutation.new2)]})
        with pytest.raises(PluginError) as caught:
            check_plugin(name)
        said = str(caught.value)
        assert f"plugin {name!r}" in said
        assert getattr(caught.value, "hook", None) == mutation.hook
        assert mutation.found in said.partition("found: ")[2]
        assert "Fix: " in said
        assert "\n" not in said

    return check


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no check import the plugin in a process of its own, which takes seconds."""
    monkeypatch.setattr(subject, "import_in_subprocess", lambda name: Seen())
