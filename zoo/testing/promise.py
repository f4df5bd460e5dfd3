"""One promise of the contract: what it says, how it is checked, and what to change where it is broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo.errors import PluginError
from zoo.registration import told

if TYPE_CHECKING:
    from zoo.testing.subject import Subject

# What a check of loading, rather than of a hook, is about.
IMPORT = "import"


class Broken(Exception):
    """A promise is not kept: what was found, and what to change where that is not what the check says anyway."""

    def __init__(self, found: str, fix: str | None = None, hook: str | None = None) -> None:
        super().__init__(found)
        self.found, self.fix, self.hook = found, fix, hook


class NotCheckable(Exception):
    """A check has nothing to look at: the plugin lacks what it needs, legitimately."""


@dataclass(frozen=True)
class Check:
    """One promise.

    name: short, unique, for ids. hook: whose promise it is. promise: what is expected, in a line. fix: what to change
    where it is broken. basic: whether nothing after it can be checked once it fails.
    run: raises ``Broken`` (or anything) where the promise is broken, ``NotCheckable`` where there is nothing to check.
    """

    name: str
    hook: str
    promise: str
    fix: str
    run: Callable[[Subject], None]
    basic: bool = False

    def verify(self, subject: Subject) -> None:
        """Run the check. Raises PluginError that names plugin, hook, what was expected, what was found and the fix.

        ``ZOO_STRICT=1`` lets exceptions that are not about the promise itself through, with their traceback.
        """
        from zoo.discovery import strict

        try:
            self.run(subject)
        except NotCheckable:
            raise
        except Broken as broken:
            raise self._error(subject, broken.found, broken.fix, broken.hook) from broken
        except (Exception, SystemExit) as error:
            if strict():
                raise
            raise self._error(subject, told(error)) from error

    def _error(self, subject: Subject, found: str, fix: str | None = None, hook: str | None = None) -> PluginError:
        where = hook or self.hook
        whose = f"plugin {subject.name!r}" if where == IMPORT else f"plugin {subject.name!r}, hook {where!r}"
        error = PluginError(f"{whose}: expected {self.promise}; found: {found}. Fix: {fix or self.fix}")
        error.hook = where  # type: ignore[attr-defined]
        return error


@dataclass(frozen=True)
class Result:
    """What came of one check. ok: None where there was nothing to check; reason: why not, or what is broken."""

    check: str
    hook: str
    ok: bool | None
    promise: str
    reason: str = ""
    seconds: float = 0.0


def promise(hook: str, expected: str, fix: str, *, basic: bool = False) -> Callable[[Callable[[Subject], None]], Check]:
    """Make a function a check of ``hook``: its name is the check's, with hyphens."""

    def made(run: Callable[[Subject], None]) -> Check:
        return Check(run.__name__.replace("_", "-"), hook, expected, fix, run, basic)

    return made


def require(kept: object, found: str, fix: str | None = None, hook: str | None = None) -> None:
    """Raise ``Broken`` unless the promise is kept."""
    if not kept:
        raise Broken(found, fix, hook)
