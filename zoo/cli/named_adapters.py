"""The option --adapters: saved adapters, each by a name of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import click


class Adapters(click.ParamType):
    """Names and places of adapters: NAME=WHERE, several with commas."""

    name = "adapters"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[tuple[str, str]]:
        """Return pairs of a name and a place.

        Raises:
            click.BadParameter: it is of another form.
        """
        pairs = []
        for word in str(value).split(","):
            name, equals, place = word.partition("=")
            if not equals or not name.strip() or not place.strip():
                self.fail(f"{word!r} is not of the form NAME=WHERE, such as legal=runs/legal/adapter", param, ctx)
            pairs.append((name.strip(), place.strip()))
        return pairs


def adapters_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option --adapters to a command; `by_name` reads what it gives."""
    return click.option(
        "--adapters",
        type=Adapters(),
        multiple=True,
        metavar="NAME=WHERE,…",
        help="Saved adapters by names of your choice: folders or Hub repositories.",
    )(function)


def by_name(adapters: Iterable[list[tuple[str, str]]]) -> dict[str, str]:
    """Return name → place.

    Raises:
        click.BadParameter: a name is there twice.
    """
    places: dict[str, str] = {}
    for name, place in (pair for group in adapters for pair in group):
        if name in places:
            raise click.BadParameter(f"{name!r} is given twice", param_hint="'--adapters'")
        places[name] = place
    return places
