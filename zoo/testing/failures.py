"""The exceptions by which a check says that a promise is broken, or that there is nothing to check."""

from __future__ import annotations


def require(kept: object, found: str, fix: str | None = None, hook: str | None = None) -> None:
    """Raise `CheckFailed` unless the promise is kept."""
    if not kept:
        raise CheckFailed(found, fix, hook)


class CheckFailed(Exception):
    """A promise is not kept.

    Attributes:
        found: what was found instead.
        fix: what to change; None: what the check says.
        hook: whose fault it is; None: the hook that the check is about.
    """

    def __init__(self, found: str, fix: str | None = None, hook: str | None = None) -> None:
        super().__init__(found)
        self.found, self.fix, self.hook = found, fix, hook


class NotCheckable(Exception):
    """A check does not apply: the plugin lacks what it needs, and may lack it."""
