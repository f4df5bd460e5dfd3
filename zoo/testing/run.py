"""Run the checks for a plugin's kind: all at once, or each as a test of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

from zoo.errors import PluginError
from zoo.testing import loads
from zoo.testing.failures import CheckFailed, NotCheckable
from zoo.testing.promise import Check, Result
from zoo.testing.subject import SIM, PluginUnderTest

Level = Literal["quick", "full"]


def checks(subject: PluginUnderTest, level: Level = "full") -> tuple[Check, ...]:
    """Return the checks for a plugin, in order; those of loading alone if it does not load."""
    found: tuple[Check, ...] = loads.CHECKS
    try:
        kinds = subject.kinds
    except (Exception, SystemExit):
        return found
    if "architecture" in kinds:
        found += loads.ARCHITECTURE_CHECKS
    if level == "quick":
        return found
    # Only now, because they import torch.
    if "architecture" in kinds:
        from zoo.testing import adapting, drawing, heads, learning, options, structure, threads, weights

        found += structure.CHECKS + (heads.CHECKS if "heads" in subject.hooks else ())
        found += weights.FIRST + learning.FIRST + weights.THEN
        found += adapting.CHECKS + weights.LAST + learning.THEN
        found += options.CHECKS if "sample_options" in subject.hooks else ()
        found += options.KINDS if "sample_kinds" in subject.hooks else ()
        found += drawing.CHECKS + threads.CHECKS
        if _is_strict(subject):
            from zoo.testing import placement

            found += placement.CHECKS
    if "quantizer" in kinds:
        from zoo.testing import quantizing

        found += quantizing.CHECKS
    if "adapter kind" in kinds:
        from zoo.testing import kinds as adapter_kinds

        found += adapter_kinds.CHECKS
    if "observer" in kinds:
        from zoo.testing import observing

        found += observing.CHECKS
    return found


def _is_strict(subject: PluginUnderTest) -> bool:
    try:
        return subject.options.device.partition(":")[0] == SIM
    except Exception:  # wrong options, which the first check names
        return False


def check_plugin(
    name: str, *, level: Level = "full", on_result: Callable[[Result], None] | None = None, **options: Any
) -> tuple[Result, ...]:
    """Check that an installed plugin keeps every promise of every hook that it implements.

    Args:
        name: the plugin's entry point.
        level: "quick" checks loading and hooks alone, without any model.
        on_result: is called with the result of each check.
        options: those of `zoo.testing.Options`, for example `batch_size=16`, `sample={"steps": 2}` (so that sampling is
            quick), `config={...}` (for an architecture that carries no weights).

    Returns:
        A `Result` (check, hook, ok, …) for each check.

    Raises:
        PluginError: a promise is broken, the first one; names plugin, hook, what was expected, what was found and the
            fix.
    """
    with PluginUnderTest(name, options) as subject:
        results = []
        for check in checks(subject, level):
            result, error = _result(check, subject)
            results.append(result)
            if on_result is not None:
                on_result(result)
            if error is not None:
                raise error
        return tuple(results)


def examine(
    name: str,
    *,
    level: Level = "full",
    on_start: Callable[[Check, int, int], None] | None = None,
    on_result: Callable[[Result], None] | None = None,
    **options: Any,
) -> tuple[Result, ...]:
    """Check a plugin as `check_plugin` does, but go on after a broken promise unless nothing after it can be checked.

    Args:
        name: the plugin's entry point.
        level: "quick" checks loading and hooks alone, without any model.
        on_start: is called before each check with (check, its number from 0, how many there are).
        on_result: is called with the result of each check.
        options: those of `zoo.testing.Options`.
    """
    with PluginUnderTest(name, options) as subject:
        results = []
        every = checks(subject, level)
        for number, check in enumerate(every):
            if on_start is not None:
                on_start(check, number, len(every))
            result, error = _result(check, subject)
            results.append(result)
            if on_result is not None:
                on_result(result)
            if error is not None and check.basic:
                break
        return tuple(results)


def conformance(name: str, *, level: Level = "full", **options: Any) -> Callable[..., None]:
    """Return a pytest test function with one case for each promise.

    Name it `test_...` in a test module::

        test_promise = conformance("mine", batch_size=16)

    Models are loaded once and shared by the cases. A check that does not apply is skipped.
    """
    import pytest

    subject = PluginUnderTest(name, options)

    @pytest.mark.parametrize("check", checks(subject, level), ids=lambda check: f"{check.hook}-{check.name}")
    def test_promise(check: Check) -> None:
        __tracebackhide__ = True
        try:
            check.verify(subject)
        except NotCheckable as reason:
            pytest.skip(str(reason))
        except PluginError as error:
            if not isinstance(error.__cause__, CheckFailed):
                raise  # with what the plugin raised
            pytest.fail(str(error), pytrace=False)

    return test_promise


def _result(check: Check, subject: PluginUnderTest) -> tuple[Result, PluginError | None]:
    start = time.perf_counter()
    ok: bool | None = True
    hook, reason, broken = check.hook, "", None
    try:
        check.verify(subject)
    except NotCheckable as why:
        ok, reason = None, str(why)
    except PluginError as error:
        ok, reason, broken = False, str(error), error
        hook = error.hook or hook
    return Result(check.name, hook, ok, check.promise, reason, time.perf_counter() - start), broken
