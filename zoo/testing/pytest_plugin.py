"""pytest's fixtures for plugins, there in every environment that has zoo: nothing heavy is imported before their use.

`zoo_check(name, **options)`: `zoo.testing.check_plugin`. `zoo_model(name, bits=4, lora=2)`: a model of one's own,
of one that is loaded once per session. `zoo_site`: plugins made on the fly, in a folder that is gone after the test.
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
    """`zoo.testing.check_plugin`: raises PluginError at the first promise that a plugin breaks."""
    from zoo.testing import check_plugin

    return check_plugin


@pytest.fixture(scope="session")
def _zoo_models() -> dict[Any, Model]:
    return {}


@pytest.fixture
def zoo_model(_zoo_models: dict[Any, Model]) -> Callable[..., Model]:
    """`zoo.load` with its options, on the CPU with seed 0 unless they say otherwise.

    Equal calls of a session load once; each gets a copy, which the test may change.
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
    """An empty `zoo.testing.Site`: `zoo_site.install("zoo-mine", {"mine": "zoo_mine"}, {path: text})`."""
    from zoo.testing.site import temporary_site

    with temporary_site(tmp_path / "zoo_site") as made:
        yield made
