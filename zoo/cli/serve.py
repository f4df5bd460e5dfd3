"""The command that answers requests over HTTP: serve."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from zoo.cli.named_adapters import adapters_option, by_name
from zoo.cli.names import MODEL
from zoo.cli.options import model_options
from zoo.cli.output import Command, echo, json_option, note
from zoo.errors import ZooError

_NEEDED = ("fastapi", "uvicorn", "prometheus_client")


@click.command(
    cls=Command,
    examples="""
    zoo serve gpt
    zoo serve gpt --bits 4 --adapters legal=runs/legal/adapter,medical=me/medical --port 8080
    ZOO_TOKEN=… zoo serve ddpm --host 0.0.0.0
    """,
)
@click.argument("name", type=MODEL)
@adapters_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Elsewhere than on this machine needs a token.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: one that is free.")
@click.option("--token-file", type=click.Path(dir_okay=False, path_type=Path), help="Holds the token [or: ZOO_TOKEN].")
@click.option("--batch", type=click.IntRange(min=1), help="Samples in one batch at most [default: 64].")
@click.option("--queue", type=click.IntRange(min=1), help="Requests that wait at most [default: 256].")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Of one request at most [default: 300].")
@click.option("--max-adapters", "max_adapters", type=click.IntRange(min=1), help="In memory at once [default: 16].")
@click.option("--max-samples", "max_samples", type=click.IntRange(min=1), help="Of one request [default: 64].")
@click.option("--max-body", "max_body", metavar="SIZE", help="Of one request, such as 16MB [default: 16 MiB].")
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Seconds that running requests have to finish once the server is told to end.",
)
@model_options
@json_option
def serve(
    name: str,
    adapters: tuple[list[tuple[str, str]], ...],
    host: str,
    port: int,
    token_file: Path | None,
    batch: int | None,
    queue: int | None,
    seconds: float | None,
    max_adapters: int | None,
    max_samples: int | None,
    max_body: str | None,
    grace: float,
    as_json: bool,
    **loading: Any,
) -> None:
    """Answer requests over HTTP: OpenAI's endpoints, samples, classes.

    Needs the extra serve. Prints the address when it answers, and ends with SIGTERM or Ctrl-C, once the running
    requests are finished.
    """
    _check_installed()
    places = by_name(adapters)
    given: dict[str, Any] = {
        "batch": batch,
        "queue": queue,
        "seconds": seconds,
        "adapters": max_adapters,
        "samples": max_samples,
        "body": None if max_body is None else _size(max_body),
    }
    from zoo.serving.http import server

    token = server.given_token(token_file)
    listening = server.listen(host, port, token)  # before the model is loaded, which takes longer
    try:
        from zoo.cli.model_commands import load
        from zoo.serving.runtime import Runtime
        from zoo.serving.work import Limits

        model = load(name, lora=None, **loading)
        limits = Limits(**{key: value for key, value in given.items() if value is not None})
        runtime = Runtime(model, places, limits)
        address = server.address_of(listening)

        def ready() -> None:
            names = runtime.names()
            if as_json:
                echo(json.dumps({"address": address, "model": name, "adapters": names}))
            else:
                echo(f"{name}{f' with {len(names)} adapters' if names else ''}: {address}")
            sys.stdout.flush()

        server.serve(runtime, listening, token, grace, ready)
    finally:
        listening.close()
    note("stopped")


def _check_installed() -> None:
    from importlib.util import find_spec

    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise ZooError(f"zoo serve needs {', '.join(missing)}: pip install 'adapter-zoo[serve]'")


def _size(text: str) -> int:
    from zoo.bounded.sizes import size_of

    found = size_of(text)
    if found is None or found < 1024:
        raise click.BadParameter(f"{text!r} is no size of at least 1kB, such as 16MB", param_hint="'--max-body'")
    return found


COMMANDS = (serve,)
