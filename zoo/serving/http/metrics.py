"""What `/metrics` says, in Prometheus' format: requests and their times, and the runtime's own facts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from zoo.serving.work import Done

CONTENT_TYPE = CONTENT_TYPE_LATEST
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)  # seconds
_TOTALS = ("_total", "evictions", "evicted", "batches", "steps", "served", "finished")  # facts that only grow


class Metrics:
    """The metrics of one server.

    Args:
        facts: returns the runtime's numbers by name.
    """

    def __init__(self, facts: Callable[[], Mapping[str, Any]]) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "zoo_requests", "Answers by route and status.", ("route", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "zoo_request_seconds",
            "Seconds from a request to the end of its answer.",
            ("route",),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._tokens = Counter("zoo_tokens", "Tokens of answered requests.", ("kind",), registry=self._registry)
        self._samples = Counter("zoo_samples", "Samples of answered requests.", registry=self._registry)
        self._registry.register(_Facts(facts))

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count one answer."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def done(self, done: Done) -> None:
        """Count what a request gave."""
        self._samples.inc(len(done.samples))
        for kind, count in done.usage.items():
            self._tokens.labels(kind.removesuffix("_tokens")).inc(count)

    def text(self) -> bytes:
        """Return all metrics as Prometheus reads them."""
        return generate_latest(self._registry)


class _Facts:
    """The runtime's facts: each number, and how many there are of each list."""

    def __init__(self, facts: Callable[[], Mapping[str, Any]]) -> None:
        self._facts = facts

    def collect(self) -> Iterator[Metric]:
        """Yield a metric for each fact."""
        for name, value in self._facts().items():
            number = len(value) if isinstance(value, list | tuple | set | frozenset | dict) else value
            if not isinstance(number, int | float):
                continue
            said = f"The runtime's {name.replace('_', ' ')}."
            kind = CounterMetricFamily if name.endswith(_TOTALS) else GaugeMetricFamily
            yield kind(f"zoo_{name}", said, value=float(number))
