"""The conformance suite: whether a plugin keeps its promises. zoo's own plugins pass it, and yours can run it.

As one test, or as one test for each promise::

    from zoo.testing import check_plugin, conformance

    def test_the_plugin():
        check_plugin("mine")

    test_promise = conformance("mine")

The same from a shell: `zoo plugins --check mine`. An environment with zoo has the pytest fixtures `zoo_check`,
`zoo_model` and `zoo_site` too; see `zoo.testing.pytest_plugin`. Nothing here imports torch before a check runs.

Imports: `zoo.loading` and below. Start with `promise.py`, then `run.py`.
"""

from __future__ import annotations

from zoo.testing.promise import Check, Result
from zoo.testing.run import check_plugin, checks, conformance, examine
from zoo.testing.site import Site
from zoo.testing.subject import Options

__all__ = ["Check", "Options", "Result", "Site", "check_plugin", "checks", "conformance", "examine"]
