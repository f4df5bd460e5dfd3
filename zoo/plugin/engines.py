"""What continues many texts at once, token by token: the answer of the hook `engine`, and what it says."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from zoo.plugin.requests import SampleRequest
    from zoo.samples import Samples


@dataclass(frozen=True)
class Prepared:
    """A request that an engine can work on.

    Attributes:
        rows: how many texts it continues at once, at most.
        plan: what the engine keeps of it.
        texts: how many it has in all, with several prompts one after the other.
        begins: what the first sample begins with, before the text that is said: its prompt.
    """

    rows: int
    plan: Any
    texts: int = 1
    begins: str = ""


@dataclass(frozen=True)
class Said:
    """The next piece of a text: never half a character, nor what a stop text may begin with.

    Attributes:
        key: of which request.
        text: the piece.
        index: of which of its samples.
    """

    key: Hashable
    text: str
    index: int = 0


@dataclass(frozen=True)
class Ended:
    """A request is done: the engine has forgotten it.

    Attributes:
        key: the request.
        samples: as `sample` returns them.
        texts: what was added to each prompt: all the pieces of a text, joined.
        reasons: why each ended: "stop" (the model, or a stop text) or "length".
        usage: "prompt_tokens" and "completion_tokens".
    """

    key: Hashable
    samples: Samples
    texts: tuple[str, ...]
    reasons: tuple[str, ...]
    usage: Mapping[str, int] = field(default_factory=dict)


@runtime_checkable
class Engine(Protocol):
    """Continues texts of many requests, each under its own adapter, one token of each at a step.

    One thread calls `admit`, `step` and `drop`; any may call `prepare`, also meanwhile. What a request gets does not
    depend on which others are there: with the seed of `model.sample`, it is the same.
    """

    def prepare(self, request: SampleRequest, stop: tuple[str, ...] = ()) -> Prepared | None:
        """Check a request and return what `admit` takes; None if it can only be drawn as a whole.

        Args:
            request: as the hook `sample` gets it.
            stop: texts at which a text ends, without them; what they are in the prompt does not count.

        Raises:
            ZooError: it cannot be.
        """

    def admit(self, key: Hashable, prepared: Prepared, adapter: str | Mapping[str, float] | None) -> None:
        """Take a request among those that are worked on.

        Args:
            key: how events and `drop` name it.
            prepared: what `prepare` has returned.
            adapter: the name of an adapter that the model has, or several with their weights; None for the base.
        """

    def step(self) -> Iterable[Said | Ended]:
        """Add a token to every text, without gradients in evaluation mode, and return what is new."""

    def drop(self, key: Hashable) -> None:
        """Forget a request; nothing more is said of it."""
