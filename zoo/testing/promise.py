"""One promise of the contract: what it says, how it is checked, and what to change where it is broken."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo.errors import PluginError
from zoo.plugin.manager import HOOKS, one_line
from zoo.testing.failures import CheckFailed, NotCheckable

if TYPE_CHECKING:
    from zoo.testing.subject import PluginUnderTest

# What a check is about that is not about a hook.
IMPORT, REGISTRY = "import", "registry"

# What to change where an answer is not what its hook promises at all.
_ANSWERS = {
    "construct": "return the library's torch.nn.Module",
    "checkpoint": "return an iterator of pairs (parameter name, tensor), or None",
    "quantize": "return zoo.QuantizedTensor, the weight itself, or None",
    "inject_adapter": "return a zoo.Update, or None",
    "adapter_config": "return the kind's zoo.Adapter, or None",
    "sample": "return zoo.Samples(data, kind)",
    "loss": "return a scalar tensor, say .mean() of what there is per item",
    "batches": "return an iterable of batches",
    "evaluate": "return a dict of name → figure",
    "tuning": "return a dict with some of batch_size, lr, betas, grad_clip, warmup, average",
    "describe": "return a dict of label → text",
    "save": "return True, or None",
}
_BLAMED = re.compile(r"plugin '[^']*' (broke|failed|returned|does).*? hook '(\w+)'")


@dataclass(frozen=True)
class Check:
    """One promise.

    name: short, unique, for ids. hook: whose promise it is. promise: what is expected, in a line. fix: what to change
    where it is broken. basic: whether nothing after it can be checked once it fails.
    run: raises `CheckFailed` (or anything) where the promise is broken, `NotCheckable` where there is nothing to
    check.
    """

    name: str
    hook: str
    promise: str
    fix: str
    run: Callable[[PluginUnderTest], None]
    basic: bool = False

    def verify(self, subject: PluginUnderTest) -> None:
        """Run the check. Raises PluginError that names plugin, hook, what was expected, what was found and the fix.

        `ZOO_STRICT=1` lets exceptions that are not about the promise itself through, with their traceback.
        """
        from zoo.catalog.discovery import strict

        try:
            self.run(subject)
        except NotCheckable:
            raise
        except CheckFailed as broken:
            raise self._error(subject, broken.found, broken.fix, broken.hook) from broken
        except (Exception, SystemExit) as error:
            if strict():
                raise
            raise self._blaming(subject, error) from error

    def _blaming(self, subject: PluginUnderTest, error: BaseException) -> PluginError:
        """The error for an exception that came out of the check: where the host blames another hook, that one's."""
        blamed = _BLAMED.search(str(error)) if isinstance(error, PluginError) else None
        if blamed is None:
            return self._error(subject, one_line(error))
        how, hook = blamed.groups()
        if how == "failed":
            again = None if hook == self.hook else "make the hook work here; ZOO_STRICT=1 shows where it fails"
            return self._error(subject, one_line(error), again, hook)
        return self._error(subject, one_line(error), _ANSWERS.get(hook), hook)

    def _error(
        self, subject: PluginUnderTest, found: str, fix: str | None = None, hook: str | None = None
    ) -> PluginError:
        where = hook or self.hook
        whose = f"plugin {subject.name!r}, hook {where!r}" if where in HOOKS else f"plugin {subject.name!r}"
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


def promise(
    hook: str, expected: str, fix: str, *, basic: bool = False
) -> Callable[[Callable[[PluginUnderTest], None]], Check]:
    """Make a function a check of `hook`: its name is the check's, with hyphens."""

    def made(run: Callable[[PluginUnderTest], None]) -> Check:
        return Check(run.__name__.replace("_", "-"), hook, expected, fix, run, basic)

    return made
