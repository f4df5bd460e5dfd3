"""What the routes share: the runtime, what its model can do, its limits, and what is counted."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo.errors import did_you_mean
from zoo.serving.http.errors import Refusal
from zoo.serving.work import Done

if TYPE_CHECKING:
    from zoo.serving.embedder import Embedder
    from zoo.serving.http.abilities import Abilities
    from zoo.serving.http.metrics import Metrics
    from zoo.serving.runtime import Runtime
    from zoo.serving.work import Limits


@dataclass
class Service:
    """One served model.

    Attributes:
        runtime: works on the requests.
        embedder: makes vectors of texts.
        abilities: what the model can do.
        limits: what a request may be.
        metrics: what is counted.
        begun: when it began, in seconds since 1970.
        draining: whether it stops.
    """

    runtime: Runtime
    embedder: Embedder
    abilities: Abilities
    limits: Limits
    metrics: Metrics
    begun: int
    draining: bool = False

    def adapter_of(self, name: str | None, param: str = "model") -> str | None:
        """Return the adapter that a request names; None for the base, by its name or without one.

        Raises:
            Refusal: there is none of this name.
        """
        if name is None or name == self.abilities.name:
            return None
        known = self.runtime.names()
        if name not in known:
            near = did_you_mean(name, [self.abilities.name, *known])
            message = f"no model or adapter {name!r}.{near} GET /v1/models lists them"
            raise Refusal(404, message, param=param, code="model_not_found")
        return name

    def check_count(self, count: int, param: str = "n") -> None:
        """Raise `Refusal` for more samples than a request may ask for."""
        if count > self.limits.samples:
            message = f"expected at most {self.limits.samples} samples in one request, got {count}: ask in parts"
            raise Refusal(400, message, param=param, code="too_many_samples")

    def note(self, done: Done) -> None:
        """Learn from a request that ended, and count it."""
        self.abilities.note(done.samples)
        self.metrics.done(done)

    def head(self, kind: str, prefix: str, model: str | None) -> dict[str, Any]:
        """Return how an answer begins: id, object, created, model."""
        return {
            "id": f"{prefix}-{secrets.token_hex(12)}",
            "object": kind,
            "created": int(time.time()),
            "model": model or self.abilities.name,
        }
