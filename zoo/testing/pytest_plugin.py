"""Fixtures of pytest for tests of plugins, in every environment with zoo. Nothing heavy is imported before their use.

`zoo_check(name, **options)`: `zoo.testing.check_plugin`. `zoo_model(name, bits=4, lora=2)`: a copy of a model that is
loaded once per session. `zoo_site`: plugins that the test writes, in a folder that is deleted after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from zoo.model import Model
    from zoo.testing.promise import Result
    from zoo.testing.site import Site


@pytest.fixture
def zoo_check() -> Callable[..., tuple[Result, ...]]:
    """Return `zoo.testing.check_plugin`, which raises PluginError at the first promise that a plugin breaks."""
    from zoo.testing import check_plugin

    return check_plugin


@pytest.fixture(scope="session")
def _zoo_models() -> dict[Any, Model]:
    return {}


@pytest.fixture
def zoo_model(_zoo_models: dict[Any, Model]) -> Callable[..., Model]:
    """Return `zoo.load` with its options, on the CPU with seed 0 unless they say otherwise.

    Equal calls of a session load once; each returns a copy, which the test may change.
    """
    import copy

    import zoo

    def model(name: str, **options: Any) -> Model:
        wanted = {"device": "cpu", "seed": 0, **options}
        key = (name, repr(sorted(wanted.items())))
        if key not in _zoo_models:
            _zoo_models[key] = zoo.load(name, **wanted)
        return copy.deepcopy(_zoo_models[key])

    return model


@pytest.fixture
def zoo_site(tmp_path: Path) -> Iterator[Site]:
    """Yield an empty `zoo.testing.Site`: `zoo_site.install("zoo-mine", {"mine": "zoo_mine"}, {path: text})`."""
    from zoo.testing.site import temporary_site

    with temporary_site(tmp_path / "zoo_site") as made:
        yield made
