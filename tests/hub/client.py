"""Pointing the client in this process at a Hub of ours, with a cache of its own and no waiting."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from .server import TOKEN, Hub


class NoWaiting:
    """The time module without sleep."""

    def sleep(self, seconds: float) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


@contextmanager
def pointed_at(hub: Hub, home: Path) -> Iterator[Path]:
    """The cache's folder; the client is as it was afterwards."""
    from huggingface_hub import constants, file_download, hf_api
    from huggingface_hub.utils import _http

    from zoo.hub import trouble

    patch = pytest.MonkeyPatch()
    values = {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_ASSETS_CACHE": str(home / "assets"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_OFFLINE": False,
    }
    if hasattr(constants, "HF_URL_HOSTS"):  # where newer clients let a URL lead
        values["HF_URL_HOSTS"] = constants.HF_URL_HOSTS | {"127.0.0.1"}
    for name, value in values.items():
        patch.setattr(constants, name, value)
    patch.setattr(hf_api.api, "endpoint", hub.url)
    patch.setattr(_http, "time", NoWaiting())
    patch.setattr(file_download, "time", NoWaiting())
    patch.setattr(trouble, "DELAYS", (0.0, 0.0, 0.0))
    patch.setattr(trouble, "PATIENCE", 0.0)
    patch.setenv("HF_TOKEN", TOKEN)
    patch.setenv("HF_ENDPOINT", hub.url)
    patch.setenv("HF_HOME", str(home))
    patch.setenv("HF_HUB_DISABLE_XET", "1")
    patch.setenv("NO_PROXY", "127.0.0.1,localhost")
    _http.close_session()
    try:
        yield home / "hub"
    finally:
        patch.undo()
        _http.close_session()
