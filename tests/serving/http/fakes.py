"""Runtimes that fail on purpose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zoo.errors import ZooError
from zoo.serving.runtime import Runtime
from zoo.serving.ticket import Ticket
from zoo.serving.work import ServingError, Work


def refusing(error: Exception, *, later: bool) -> Callable[[Runtime, Work], Any]:
    """A `submit` that raises an error, or whose ticket does."""

    def submit(self: Runtime, work: Work) -> Ticket:
        if not later:
            raise error
        ticket = Ticket(work, 60, lambda _: None)
        ticket.end(error if isinstance(error, ZooError) else ServingError("the model failed: /secret/place"))
        return ticket

    return submit
