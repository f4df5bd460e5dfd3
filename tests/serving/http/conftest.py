"""Servers in this process: the application of a small model, asked through starlette's client."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch
from starlette.testclient import TestClient

import zoo
from zoo.serving.http.app import app
from zoo.serving.http.server import Server, address_of, listen
from zoo.serving.runtime import Runtime
from zoo.serving.work import Limits

HERE = "http://localhost"
Served = Callable[..., TestClient]


def soon(holds: Callable[[], bool]) -> bool:
    """Whether something holds within ten seconds."""
    for _ in range(200):
        if holds():
            return True
        time.sleep(0.05)
    return False


@contextmanager
def stalled(runtime: Runtime) -> Iterator[None]:
    """The model does nothing in the block."""
    with runtime.model.adapter_set.turns.changing():
        yield


@contextmanager
def listening(
    model: zoo.Model, adapters: dict[str, str] | None = None, token: str | None = None, **limits: float
) -> Iterator[tuple[str, Runtime]]:
    """The address of a server that listens, in a thread of this process, and its runtime."""
    given, places = Limits(**limits), adapters or {}
    with listen("127.0.0.1", 0, None) as opened, Runtime(model, places, given) as runtime:
        made = Server(app(runtime, token=token), given, 5, lambda: None)
        thread = threading.Thread(target=made.run, args=([opened],))
        thread.start()
        try:
            yield address_of(opened), runtime
        finally:
            made.should_exit = True
            thread.join(30)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """Serve a model by name, or one that is given: adapters, limits, a token."""
    with ExitStack() as stack:

        def make(
            model: str | zoo.Model,
            adapters: dict[str, str] | None = None,
            token: str | None = None,
            base_url: str = HERE,
            **limits: float,
        ) -> TestClient:
            loaded = zoo.load(model, device="cpu") if isinstance(model, str) else model
            runtime = stack.enter_context(Runtime(loaded, adapters or {}, Limits(**limits)))
            client = TestClient(app(runtime, token=token), base_url=base_url, raise_server_exceptions=False)
            return stack.enter_context(client)

        yield make


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of gpt that changes what it says, saved."""
    model = zoo.load("gpt", lora=4, device="cpu", seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.module.named_parameters():
            if ".updates." in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    folder = tmp_path_factory.mktemp("adapters") / "other"
    model.save_adapter(folder)
    return folder
