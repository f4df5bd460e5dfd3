"""`zoo play`: a page in a browser on which samples are drawn."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import click

from zoo.cli.named_adapters import adapters_option, by_name
from zoo.cli.names import MODEL
from zoo.cli.options import model_options
from zoo.cli.output import Command, echo
from zoo.errors import ZooError


@click.command(
    cls=Command,
    examples="""
    zoo play stylegan
    zoo play ddpm --bits 4 --adapters serif=runs/ddpm/adapter
    zoo play gpt --adapters mine=me/my-adapter,other=runs/gpt/adapter --port 7860
    """,
)
@click.argument("name", type=MODEL)
@adapters_option
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Where it listens [default: a free one].")
@click.option("--browser/--no-browser", default=True, show_default=True, help="Open a browser there.")
@model_options
def play(name: str, adapters: tuple[list[tuple[str, str]], ...], port: int, browser: bool, **loading: Any) -> None:
    """Draw samples of model NAME on a web page, on this machine alone."""
    if find_spec("gradio") is None:  # before a model is loaded for nothing
        raise ZooError("zoo play needs gradio: pip install 'adapter-zoo[play]'")
    from zoo.cli.model_commands import load
    from zoo.playground.page import open_page
    from zoo.playground.session import Session

    model = load(name, lora=by_name(adapters) or None, **loading)

    def ready(address: str) -> None:
        echo(f"{name} is at {address} (Ctrl+C ends it)")

    open_page(Session(model), ready, port=port, browser=browser)


COMMANDS = (play,)
