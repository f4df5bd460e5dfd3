"""What a runtime has done since it began."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from zoo.serving.work import CancelledError, Done

_TOLD = ("finished", "failed", "cancelled", "samples", "tokens", "batches")


class Counts:
    """Numbers that only grow; whoever uses it has the runtime's lock."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._begun = time.monotonic()

    def ended(self, last: object) -> None:
        """Count a request by its last event: `Done`, or an error."""
        if isinstance(last, Done):
            self._counts["finished"] += 1
            self._counts["samples"] += len(last.samples)
            self._counts["tokens"] += last.usage.get("completion_tokens", 0)
        else:
            self._counts["cancelled" if isinstance(last, CancelledError) else "failed"] += 1

    def batch(self, samples: int) -> None:
        """Count a batch of so many samples, or a step of so many texts."""
        self._counts["batches"] += 1
        self._counts["drawn"] += samples

    def facts(self) -> dict[str, Any]:
        """Return the numbers by name; "batch" is the mean of a batch, "seconds" since the beginning."""
        batches = self._counts["batches"]
        mean = self._counts["drawn"] / batches if batches else 0.0
        seconds = time.monotonic() - self._begun
        return {**{name: self._counts[name] for name in _TOLD}, "batch": mean, "seconds": seconds}
