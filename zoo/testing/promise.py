"""One promise of the contract: what it says, how it is checked, and what to change if it is broken."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo.errors import PluginError
from zoo.plugin.hooks import AnswerError
from zoo.plugin.manager import HOOKS, one_line
from zoo.testing.failures import CheckFailed, NotCheckable

if TYPE_CHECKING:
    from zoo.testing.strict import DeviceError
    from zoo.testing.subject import PluginUnderTest

# What a check is about if it is not about a hook.
IMPORT, REGISTRY = "import", "registry"

# What to change if a hook returns something of the wrong type.
_ANSWERS = {
    "construct": "return the library's torch.nn.Module",
    "checkpoint": "return an iterator of pairs (parameter name, tensor), or None",
    "quantize": "return zoo.QuantizedTensor, the weight itself, or None",
    "inject_adapter": "return a zoo.Update, or None",
    "adapter_config": "return the kind's zoo.Adapter, or None",
    "sample": "return zoo.Samples(data, kind)",
    "sample_kinds": "return a list of kinds of zoo.Samples",
    "sample_options": "return a list of zoo.Option, each name once",
    "loss": "return a scalar tensor, say .mean() of what there is per item",
    "batches": "return an iterable of batches",
    "evaluate": "return a dict of name → number",
    "tuning": "return a dict with some of batch_size, lr, betas, grad_clip, warmup, average",
    "describe": "return a dict of label → text",
    "save": "return True, or None",
}


@dataclass(frozen=True)
class Check:
    """One promise.

    Attributes:
        name: short and unique, for test ids.
        hook: the hook that promises it.
        promise: what is expected, in a line.
        fix: what to change if it is broken.
        run: raises `CheckFailed` (or anything) if the promise is broken, `NotCheckable` if it does not apply.
        basic: whether nothing after it can be checked once it fails.
    """

    name: str
    hook: str
    promise: str
    fix: str
    run: Callable[[PluginUnderTest], None]
    basic: bool = False

    def verify(self, subject: PluginUnderTest) -> None:
        """Run the check.

        Raises:
            PluginError: it fails; names plugin, hook, what was expected, what was found and the fix. With
                `ZOO_STRICT=1` exceptions other than `CheckFailed` are raised as they are, with their traceback.
            NotCheckable: it does not apply.
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
        """Return the error for an exception that the check raised, about the hook that is to blame for it."""
        refused = _refusal(error)
        if refused is not None:
            where = error.hook if isinstance(error, PluginError) else None
            line = refused.line(subject.folder)
            return self._error(subject, f"{refused.what}, at {line}", refused.fix, where)
        if not isinstance(error, PluginError) or error.plugin is None or error.hook is None:
            return self._error(subject, one_line(error))
        if isinstance(error, AnswerError):
            fix = _ANSWERS.get(error.hook)
        else:
            fix = None if error.hook == self.hook else "make the hook work here; ZOO_STRICT=1 shows where it fails"
        return self._error(subject, one_line(error), fix, error.hook)

    def _error(
        self, subject: PluginUnderTest, found: str, fix: str | None = None, hook: str | None = None
    ) -> PluginError:
        where = hook or self.hook
        whose = f"plugin {subject.name!r}, hook {where!r}" if where in HOOKS else f"plugin {subject.name!r}"
        message = f"{whose}: expected {self.promise}; found: {found}. Fix: {fix or self.fix}"
        return PluginError(message, plugin=subject.name, hook=where)


def _refusal(error: BaseException | None) -> DeviceError | None:
    """Return what the strict accelerator refused, if that is what an error is about."""
    strict = sys.modules.get("zoo.testing.strict")  # not there, nothing was refused
    while error is not None and strict is not None:
        if isinstance(error, strict.DeviceError):
            return error
        error = error.__cause__ or error.__context__
    return None


@dataclass(frozen=True)
class Result:
    """The result of one check.

    Attributes:
        check: its name; hook: whose promise it checks, or whose fault it is that it failed.
        ok: None if the check does not apply.
        promise: what is expected.
        reason: why it does not apply, or what is broken.
        seconds: how long it took.
    """

    check: str
    hook: str
    ok: bool | None
    promise: str
    reason: str = ""
    seconds: float = 0.0


def promise(
    hook: str, expected: str, fix: str, *, basic: bool = False
) -> Callable[[Callable[[PluginUnderTest], None]], Check]:
    """Make a function a check of `hook`. The check has the function's name, with hyphens."""

    def made(run: Callable[[PluginUnderTest], None]) -> Check:
        return Check(run.__name__.replace("_", "-"), hook, expected, fix, run, basic)

    return made
