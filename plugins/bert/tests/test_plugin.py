"""The package as a third party would see it."""

from __future__ import annotations

from zoo.testing import conformance

test_promise = conformance("bert", data="text:licences")
