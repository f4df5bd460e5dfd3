"""How many replicas there are, and what each has: what `zoo serve --ray` is told. Imports no ray."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from importlib.util import find_spec

from zoo.errors import ZooError

MOST = 1000  # replicas: more is a mistake of typing


@dataclass(frozen=True)
class Scale:
    """How many replicas there are.

    Attributes:
        least: at any time.
        most: at any time; more than `least`: as many as the running requests need.
        gpus: of each replica; a part of one is shared.
    """

    least: int = 1
    most: int = 1
    gpus: float = 0.0

    def __str__(self) -> str:
        return f"{self.least}" if self.most == self.least else f"{self.least} to {self.most}"


def scale_of(text: str) -> Scale:
    """Return what a text such as "2" or "1:4" says.

    Raises:
        ZooError: it says nothing such.
    """
    first, colon, last = text.partition(":")
    numbers = [int(part) for part in ((first, last) if colon else (first,)) if part.isdecimal() and len(part) < 6]
    if len(numbers) != 1 + bool(colon) or not 1 <= numbers[0] <= numbers[-1] <= MOST:
        raise ZooError(
            f"replicas: expected a number such as 2, or the least and the most such as 1:4, up to {MOST}, got {text!r}"
        )
    return Scale(numbers[0], numbers[-1])


def prepare(address: str | None) -> None:
    """Set what Ray reads from the environment when it is imported, where it does not stand there.

    Args:
        address: of a running cluster; None: Ray is started here.

    Raises:
        ZooError: there is no Ray Serve.
    """
    if find_spec("ray") is None:  # looking for ray.serve would import it
        raise ZooError("zoo serve --ray needs Ray Serve: pip install 'adapter-zoo[ray]'")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is None and "RAY_AUTH_MODE" not in os.environ:
        # Ray's own ports are open to other machines, and who reaches them can run anything.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
