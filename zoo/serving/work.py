"""A request to a served model, and the events that answer it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zoo.errors import ZooError

if TYPE_CHECKING:
    from zoo.samples import Samples


class ServingError(ZooError):
    """A request that the server does not take, or cannot finish."""


class QueueFullError(ServingError):
    """As many requests wait as may: ask again later."""


class StoppedError(ServingError):
    """The server takes no more requests, since it stops."""


class TimeLimitError(ServingError):
    """A request took longer than it may."""


class CancelledError(ServingError):
    """A request was cancelled, by its client or because the server stops."""


@dataclass(frozen=True)
class Work:
    """One request: as `model.sample(n, seed=seed, **options)` under an adapter.

    Attributes:
        options: the plugin's own sampling options.
        n: how many samples.
        seed: equal seeds give equal samples; None: a fresh draw.
        adapter: the adapter's name; None for the base.
        stop: texts at which a text ends, without them.
        stream: whether pieces of a text are wanted as they come.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    n: int = 1
    seed: int | None = None
    adapter: str | None = None
    stop: tuple[str, ...] = ()
    stream: bool = False


@dataclass(frozen=True)
class Piece:
    """The next piece of a text.

    Attributes:
        text: the piece.
        index: of which sample.
    """

    text: str
    index: int = 0


@dataclass(frozen=True)
class Done:
    """The end of a request.

    Attributes:
        samples: all of them.
        reasons: why each text ended: "stop" (the model or a stop text) or "length", None where nobody knows; empty for
            other samples, and for texts of which nobody knows.
        usage: counted tokens, "prompt_tokens" and "completion_tokens", where there are such.
        texts: what was added to each prompt, where texts are continued; else empty.
    """

    samples: Samples
    reasons: tuple[str | None, ...] = ()
    usage: Mapping[str, int] = field(default_factory=dict)
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Limits:
    """What a server takes at most.

    Attributes:
        batch: samples in one batch.
        queue: requests that wait.
        seconds: of one request, its waiting included.
        adapters: adapters in memory at once; the one that was not used for longest is evicted.
        samples: samples of one request.
        body: bytes of one HTTP request.
    """

    batch: int = 64
    queue: int = 256
    seconds: float = 300.0
    adapters: int = 16
    samples: int = 64
    body: int = 16 * 2**20
