"""`zoo play`: a page in a browser on which samples are drawn."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import click

from zoo.cli.options import model_options
from zoo.cli.output import Command, echo
from zoo.errors import ZooError


@click.command(
    cls=Command,
    examples="""
    zoo play stylegan
    zoo play ddpm --bits 4 --adapter serif=runs/ddpm/adapter
    zoo play gpt --adapter mine=me/my-adapter --adapter other=runs/gpt/adapter --port 7860
    """,
)
@click.argument("name")
@click.option(
    "--adapter",
    "adapters",
    metavar="NAME=WHERE",
    multiple=True,
    help="A saved adapter, by a name of your choice: a folder or a Hub repository; may be given several times.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Where it listens [default: a free one].")
@click.option("--browser/--no-browser", default=True, show_default=True, help="Open a browser there.")
@model_options
def play(name: str, adapters: tuple[str, ...], port: int, browser: bool, **loading: Any) -> None:
    """Draw samples of model NAME on a web page, on this machine alone."""
    if find_spec("gradio") is None:  # before a model is loaded for nothing
        raise ZooError("zoo play needs gradio: pip install 'adapter-zoo[play]'")
    from zoo.cli.model_commands import load
    from zoo.playground.page import open_page
    from zoo.playground.session import Session

    model = load(name, lora=_named(adapters) or None, **loading)

    def ready(address: str) -> None:
        echo(f"{name} is at {address} (Ctrl+C ends it)")

    open_page(Session(model), ready, port=port, browser=browser)


def _named(adapters: tuple[str, ...]) -> dict[str, str]:
    """Return name → place.

    Raises:
        click.BadParameter: one has another form, or a name comes twice.
    """
    found: dict[str, str] = {}
    for one in adapters:
        name, equals, place = one.partition("=")
        if not equals or not name or not place:
            raise click.BadParameter(f"expected NAME=WHERE, got {one!r}", param_hint="'--adapter'")
        if name in found:
            raise click.BadParameter(f"{name!r} is there twice", param_hint="'--adapter'")
        found[name] = place
    return found


COMMANDS = (play,)
