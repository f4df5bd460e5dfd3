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
# The runtime's facts -> the metric, whether it only grows, and what it is. Facts that are not here are left out.
_FACTS = {
    "queued": ("zoo_queue_requests", False, "Requests that wait."),
    "running": ("zoo_running_requests", False, "Requests that are worked on."),
    "batch": ("zoo_batch_samples", False, "Samples in a batch, on average."),
    "batches": ("zoo_batches", True, "Batches."),
    "samples": ("zoo_samples", True, "Samples of finished requests."),
    "finished": ("zoo_finished_requests", True, "Requests that were finished."),
    "failed": ("zoo_failed_requests", True, "Requests that failed."),
    "cancelled": ("zoo_cancelled_requests", True, "Requests that were cancelled."),
    "adapters": ("zoo_adapters_loaded", False, "Adapters in memory."),
    "evictions": ("zoo_adapter_evictions", True, "Adapters that made room for others."),
    "seconds": ("zoo_uptime_seconds", False, "Seconds since the server began."),
}


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
        self._registry.register(_Facts(facts))

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count one answer."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def done(self, done: Done) -> None:
        """Count what a request gave."""
        for kind, count in done.usage.items():
            self._tokens.labels(kind.removesuffix("_tokens")).inc(count)

    def text(self) -> bytes:
        """Return all metrics as Prometheus reads them."""
        return generate_latest(self._registry)


class _Facts:
    """The runtime's facts: numbers, and how many there are of what is listed."""

    def __init__(self, facts: Callable[[], Mapping[str, Any]]) -> None:
        self._facts = facts

    def collect(self) -> Iterator[Metric]:
        """Yield a metric for each fact."""
        facts = self._facts()
        for name, (metric, grows, said) in _FACTS.items():
            if name in facts:
                value = facts[name]
                number = value if isinstance(value, int | float) else len(value)
                yield (CounterMetricFamily if grows else GaugeMetricFamily)(metric, said, value=float(number))
