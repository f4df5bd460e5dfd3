"""Checks of an architecture's `sample` and `evaluate`: they are reproducible and change nothing else."""

from __future__ import annotations

import math
from typing import Any

from zoo.errors import PluginError, ZooError
from zoo.runs.kept_samples import keep, kept
from zoo.testing.compare import same
from zoo.testing.failures import CheckFailed, require
from zoo.testing.promise import promise
from zoo.testing.subject import PluginUnderTest

GENERATOR = "draw from request.generator(), and put what it drew on model.device"
NOWHERE = "no-such-data:nowhere"  # a name that no plugin knows


@promise("sample", "equal samples for equal seeds, also in training mode", GENERATOR)
def samples_repeat(subject: PluginUnderTest) -> None:
    again, _ = subject.samples_again
    require(same(subject.samples.data, again.data), "other samples from the same seed")


@promise("sample", "other samples for other seeds", "use request.seed, and no seed of your own")
def samples_follow_the_seed(subject: PluginUnderTest) -> None:
    other = subject.sample(2, 2)
    require(not same(subject.samples.data, other.data), "the same samples for seeds 1 and 2")


@promise(
    "sample",
    "samples also where no seed is given",
    "draw from request.generator(), which handles seed None",
)
def samples_without_a_seed(subject: PluginUnderTest) -> None:
    subject.sample(1, None)


@promise("sample", "as many samples as were asked for", "draw request.n of them")
def as_many_samples_as_asked(subject: PluginUnderTest) -> None:
    for n, drawn in ((2, len(subject.samples)), (3, len(subject.sample(3, 0)))):
        require(drawn == n, f"{drawn} for n={n}")


@promise(
    "sample",
    "the global random state and each module's training mode left as they were",
    f"{GENERATOR}; leave .train() and .eval() alone",
)
def samples_leave_everything(subject: PluginUnderTest) -> None:
    _, changed = subject.samples_again
    require(not changed, f"{', '.join(changed)} is changed")


@promise(
    "sample",
    "zoo.UnknownNameError for an option that it does not have",
    "take options with request.take(name=default, ...), which refuses others",
)
def unknown_options_are_refused(subject: PluginUnderTest) -> None:
    try:
        subject.sample(1, 0, no_such_option=1)
    except PluginError as error:
        raise CheckFailed(str(error)) from error
    except ZooError:
        return
    raise CheckFailed("no_such_option=1 was swallowed")


@promise(
    "sample",
    "samples that can be written to a file, and kept and read again",
    "return zoo.Samples(data, kind) as its docstring says; name a kind of your own in sample_kinds",
)
def samples_can_be_saved(subject: PluginUnderTest) -> None:
    drawn = subject.samples
    require(drawn.suffixes, f"no file can hold samples of kind {drawn.kind!r}")
    for suffix in {drawn.suffixes[0], *drawn.sample_kind.files}:
        some = drawn[:1] if suffix in drawn.sample_kind.single else drawn
        path = some.save(subject.new_folder().with_suffix(suffix))
        require(path.stat().st_size, f"an empty {suffix} file")
    folder = drawn.save(subject.new_folder())
    require(len(list(folder.iterdir())) == len(drawn), "a folder has not a file of each")
    keep(drawn, path := subject.new_folder().with_suffix(".kept"))
    again = kept(path, subject.entry)
    require(again is not None and same(again.data, drawn.data), f"samples of kind {drawn.kind!r} are not read again")


@promise(
    "evaluate",
    "finite metrics, the same at every call, also in training mode",
    "evaluate on fixed data in a fixed order, drawing with a generator of its own and a fixed seed",
)
def metrics_repeat(subject: PluginUnderTest) -> None:
    again, _ = subject.metrics_again
    require(subject.metrics == again, f"{subject.metrics} and then {again}")
    odd = [name for name, value in again.items() if not math.isfinite(value)]
    require(not odd, f"{odd[:1]} is not finite", "leave it out, or make it finite")


@promise(
    "evaluate",
    "the global random state and each module's training mode left as they were",
    "draw with a torch.Generator of its own with a fixed seed; leave .train() and .eval() alone",
)
def metrics_leave_everything(subject: PluginUnderTest) -> None:
    _, changed = subject.metrics_again
    require(not changed, f"{', '.join(changed)} is changed")


@promise(
    "evaluate",
    "the number of examples, and for every figure a 95 % interval or the reason why it has none",
    "collect the values of each example in zoo.metrics.Scores and return its figures()",
)
def metrics_have_intervals(subject: PluginUnderTest) -> None:
    figures, (again, _) = subject.metrics, subject.metrics_again
    for name, value in figures.items():
        ends, why = figures.interval(name), figures.why_not(name)
        require(ends or why, f"{name} has no interval, and no reason why")
        if ends is None:
            continue
        require(figures.count(name) > 1, f"{name} has an interval of {figures.count(name)} examples")
        require(all(map(math.isfinite, ends)) and ends[0] <= ends[1], f"{name} has the interval {ends}")
        exact = figures.statistics[name].of()
        require(math.isclose(value, exact, rel_tol=1e-6, abs_tol=1e-12), f"{name} is {value}, its values give {exact}")
        require(again.interval(name) == ends, f"{name} has the interval {ends}, and then {again.interval(name)}")


@promise(
    "evaluate",
    "zoo.DataError for data that it does not know",
    "raise zoo.DataError for data that is not None and that you cannot read; zoo.data's readers do",
)
def evaluate_refuses_unknown_data(subject: PluginUnderTest) -> None:
    refuses(lambda: subject.adapted.evaluate(NOWHERE))


def refuses(call: Any) -> None:
    """Raise `CheckFailed` unless the call raises one of zoo's errors that the plugin raised on purpose."""
    try:
        call()
    except PluginError as error:
        raise CheckFailed(str(error)) from error
    except ZooError:
        return
    raise CheckFailed(f"data={NOWHERE!r} was swallowed")


CHECKS = (
    samples_repeat,
    samples_follow_the_seed,
    samples_without_a_seed,
    as_many_samples_as_asked,
    samples_leave_everything,
    unknown_options_are_refused,
    samples_can_be_saved,
    metrics_repeat,
    metrics_leave_everything,
    metrics_have_intervals,
    evaluate_refuses_unknown_data,
)
