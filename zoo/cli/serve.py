"""The command that answers requests over HTTP: serve."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.named_adapters import adapters_option, by_name
from zoo.cli.names import MODEL
from zoo.cli.options import model_options
from zoo.cli.output import Command, echo, json_option, note
from zoo.errors import ZooError

if TYPE_CHECKING:
    from socket import socket

    from zoo.serving.ray.scale import Scale
    from zoo.serving.work import Limits


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is to be served, and how.

    Attributes:
        name: what `zoo.load` takes.
        loading: its other arguments.
        places: adapter's name → folder or Hub reference.
        limits: of the server, or of each replica.
        token: what requests must bring; None: none.
        grace: seconds that running requests may take to finish.
    """

    name: str
    loading: Mapping[str, Any]
    places: Mapping[str, str]
    limits: Limits
    token: str | None
    grace: float


Ready = Callable[[Collection[str], Mapping[str, Any]], None]
_NEEDED = ("fastapi", "uvicorn", "prometheus_client")


@click.command(
    cls=Command,
    examples="""
    zoo serve gpt
    zoo serve gpt --bits 4 --adapters legal=runs/legal/adapter,medical=me/medical --port 8080
    zoo serve gpt --ray --replicas 1:4
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
@click.option("--ray", "on_ray", is_flag=True, help="Several replicas, by Ray Serve; needs the extra ray.")
@click.option("--replicas", metavar="N|N:M", help="With --ray: how many, or the least and the most [default: 1].")
@click.option("--ray-address", metavar="ADDRESS", help="With --ray: of a running cluster, or auto [default: one here].")
@click.option(
    "--replica-gpus", type=click.FloatRange(min=0), help="With --ray: of each [default: 1 where there is CUDA]."
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
    on_ray: bool,
    replicas: str | None,
    ray_address: str | None,
    replica_gpus: float | None,
    as_json: bool,
    **loading: Any,
) -> None:
    """Answer requests over HTTP: OpenAI's endpoints, samples, classes.

    Needs the extra serve. Prints the address when it answers, and ends with SIGTERM or Ctrl-C, once the running
    requests are finished.
    """
    _check_installed()
    scale = _scale(on_ray, replicas, ray_address, replica_gpus, loading.get("device"))
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
    from zoo.serving.work import Limits

    limits = Limits(**{key: value for key, value in given.items() if value is not None})
    token = server.given_token(token_file)
    asked = Asked(name, loading, places, limits, token, grace)
    listening = server.listen(host, port, token)  # before the model is loaded, which takes longer
    address = server.address_of(listening)

    def ready(names: Collection[str], more: Mapping[str, Any]) -> None:
        if as_json:
            echo(json.dumps({"address": address, "model": name, "adapters": list(names), **more}))
        else:
            counted = [f"{len(names)} adapters"] if names else []
            counted += [f"{value} {key}" for key, value in more.items()]
            facts = f" with {', '.join(counted)}" if counted else ""
            echo(f"{name}{facts}: {address}")
        sys.stdout.flush()

    try:
        if scale is None:
            _alone(asked, listening, ready)
        else:
            _on_ray(asked, listening, ready, scale, ray_address)
    finally:
        listening.close()
    note("stopped")


def _alone(asked: Asked, listening: socket, ready: Ready) -> None:
    from zoo.cli.model_commands import load
    from zoo.serving.http import server
    from zoo.serving.runtime import Runtime

    runtime = Runtime(load(asked.name, lora=None, **asked.loading), asked.places, asked.limits)
    server.serve(runtime, listening, asked.token, asked.grace, lambda: ready(runtime.names(), {}))


def _on_ray(asked: Asked, listening: socket, ready: Ready, scale: Scale, address: str | None) -> None:
    from zoo.catalog import registry
    from zoo.catalog.names import is_name

    if is_name(asked.name):
        registry.find(asked.name)  # an unknown name should not wait for a cluster
    from zoo.serving.http.server import Server
    from zoo.serving.ray.cluster import replicas
    from zoo.serving.ray.front import front

    loading = {"lora": None, **asked.loading}
    with replicas(asked.name, loading, asked.places, asked.limits, scale, address, asked.grace) as (made, paths):
        app = front(made, asked.limits, asked.token, paths)
        told = {"replicas": str(scale)}
        Server(app, asked.limits, asked.grace, lambda: ready(asked.places, told)).run(sockets=[listening])


def _scale(on_ray: bool, text: str | None, address: str | None, gpus: float | None, device: object) -> Scale | None:
    """Return how many replicas there are to be; None for no Ray.

    Raises:
        click.UsageError: an option is of Ray alone.
    """
    given = {"--replicas": text, "--ray-address": address, "--replica-gpus": gpus}
    if not on_ray:
        alone = [option for option, value in given.items() if value is not None]
        if alone:
            raise click.UsageError(f"{alone[0]} is of --ray: give that too")
        return None
    from zoo.serving.ray.scale import prepare, scale_of

    prepare(address)
    found = scale_of("1" if text is None else text)
    if gpus is None:
        import torch

        gpus = 1.0 if str(device) != "cpu" and torch.cuda.is_available() else 0.0
    return dataclasses.replace(found, gpus=gpus)


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
