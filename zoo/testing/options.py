"""Checks of `sample_options` and `sample_kinds`: what is declared is what `sample` takes and returns."""

from __future__ import annotations

from zoo.errors import PluginError, ZooError
from zoo.plugin import hooks
from zoo.plugin.options import Option
from zoo.testing.compare import same
from zoo.testing.failures import CheckFailed, require
from zoo.testing.promise import promise
from zoo.testing.subject import PluginUnderTest

DECLARE = "declare in sample_options what sample takes, and no more, with the defaults that it has"


@promise("sample_options", "each option with a line of help, the same at every call", "give each zoo.Option its help")
def options_are_explained(subject: PluginUnderTest) -> None:
    options = _declared(subject)
    require(options == hooks.sample_options(subject.entry()), "other options at the second call")
    for option in options:
        require(option.help.strip() and "\n" not in option.help, f"{option.name} has no help in one line")


@promise("sample_options", "the same samples with an option's default as without it", DECLARE)
def defaults_are_the_defaults(subject: PluginUnderTest) -> None:
    options = _declared(subject)
    subject.samples  # noqa: B018 - what fails without options is another promise's
    for option in options:
        if option.name in subject.options.sample:  # which makes drawing quick, and is another value
            continue
        try:
            drawn = subject.sample(2, 1, **{option.name: option.default})
        except PluginError as error:
            raise CheckFailed(str(error)) from error
        except ZooError as error:
            raise CheckFailed(f"{option.name}={option.default!r} is refused: {error}") from error
        require(same(subject.samples.data, drawn.data), f"other samples with {option.name}={option.default!r}")


@promise(
    "sample_kinds", "samples of a kind that it names, the same ones at every call", "name the kind of each Samples"
)
def samples_are_of_the_kinds(subject: PluginUnderTest) -> None:
    kinds = hooks.sample_kinds(subject.entry())
    require(kinds == hooks.sample_kinds(subject.entry()), "other kinds at the second call")
    drawn, names = subject.samples.kind, [one.name for one in kinds or ()]
    require(kinds is None or drawn in names, f"samples of kind {drawn!r}, and it names {', '.join(names)}")


def _declared(subject: PluginUnderTest) -> tuple[Option, ...]:
    return hooks.sample_options(subject.entry()) or ()


CHECKS = (options_are_explained, defaults_are_the_defaults)
KINDS = (samples_are_of_the_kinds,)
