"""Fixtures of this folder's tests: a local Hub, an empty cache for each test, and an adapter to push."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import zoo

from .client import pointed_at
from .server import Hub, running


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with running() as server, pointed_at(server, tmp_path / "home"):
        yield server


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the files of a saved adapter for the small VAE, with factors that are not zero."""
    model = small()
    folder = model.save_adapter(tmp_path_factory.mktemp("saved") / "adapter")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def small(seed: int = 0, names: tuple[str, ...] = ("default",)) -> zoo.Model:
    """Return the small VAE with adapters on one layer."""
    generator = torch.Generator().manual_seed(seed)
    model = zoo.load(
        "vae", lora={name: zoo.LoRA(2, targets=["post_quant_conv"]) for name in names}, device="cpu", seed=seed
    )
    with torch.no_grad():
        for name, parameter in model.module.named_parameters():
            if ".updates." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture
def drawn() -> zoo.Samples:
    return zoo.Samples(torch.rand(2, 1, 8, 8), "image")


@pytest.fixture
def cached(hub: Hub, tmp_path: Path) -> Callable[[], dict[str, bytes]]:
    """Return cached(): the cache's files by name; it checks that there is nothing else, such as half a file."""

    def look() -> dict[str, bytes]:
        root = tmp_path / "home" / "hub"
        found, blobs = {}, set()
        for path in root.glob("models--*/snapshots/*/**/*"):
            assert path.exists(), f"{path} leads nowhere"
            if path.is_file():
                found[path.relative_to(next(p for p in path.parents if p.parent.name == "snapshots")).as_posix()] = (
                    path.read_bytes()
                )
                blobs.add(path.resolve())
        assert blobs == {path.resolve() for path in root.glob("models--*/blobs/*")}
        return found

    return look
