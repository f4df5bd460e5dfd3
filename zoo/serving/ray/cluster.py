"""Start the replicas, on a Ray of this machine's or of a running cluster, and end them."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import serve

from zoo.catalog.names import is_name
from zoo.errors import ZooError, one_line
from zoo.serving.ray.front import Front
from zoo.serving.ray.replica import Replica
from zoo.serving.ray.scale import Scale
from zoo.serving.work import Limits

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

STORE = 256 * 2**20  # bytes of Ray's store of objects: only requests and answers pass through it
_CALM = {"log_level": "WARNING"}


@contextmanager
def replicas(
    name: str,
    loading: Mapping[str, Any],
    places: Mapping[str, str],
    limits: Limits,
    scale: Scale,
    address: str | None,
    grace: float,
) -> Iterator[tuple[Front, list[str]]]:
    """Have replicas of a model in the block; yields what hands them requests, and the paths that they answer.

    Args:
        name: what `zoo.load` takes.
        loading: its other arguments.
        places: adapter's name → folder or Hub reference, which each replica must find.
        limits: of each replica.
        scale: how many.
        address: of a running cluster, such as "auto"; None: Ray is started here, and ended after the block.
        grace: seconds that running requests may take to finish at the end.

    Raises:
        ZooError: there is no such cluster, or no replica could begin.
    """
    _begin(address, scale)
    title = f"zoo-{''.join(sign if sign.isalnum() else '-' for sign in name)}"
    if title in serve.status().applications:
        raise ZooError(f"{name} is served on this cluster already: end that first, or ask it")
    try:
        handle = _deploy(title, name, loading, places, limits, scale, grace)
        paths = handle.paths.remote().result()

        async def count() -> int:
            return await asyncio.to_thread(_running, title)

        yield Front(handle, places, count, name), paths
    finally:
        serve.delete(title)  # waits for what runs
        ray.shutdown()  # which ends a Ray that was started here


def _begin(address: str | None, scale: Scale) -> None:
    own: dict[str, Any] = (
        {}
        if address is not None
        else {
            "include_dashboard": False,
            "num_cpus": max(os.cpu_count() or 1, scale.most),
            "object_store_memory": STORE,
            "_node_ip_address": "127.0.0.1",
        }
    )
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **own)
        serve.start(proxy_location="Disabled", logging_config=_CALM)
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        place = f"the cluster at {address}" if address else "a Ray of this machine's own"
        raise ZooError(f"cannot start on {place}: {one_line(error, 300)}") from error


def _deploy(
    title: str,
    name: str,
    loading: Mapping[str, Any],
    places: Mapping[str, str],
    limits: Limits,
    scale: Scale,
    grace: float,
) -> DeploymentHandle[Any]:
    """Return the handle of replicas that have begun."""
    count: dict[str, Any] = {"num_replicas": scale.least}
    if scale.most > scale.least:
        # A replica is full with a batch; another one begins before that.
        wanted = max(1, limits.batch // 2)
        count = {
            "autoscaling_config": {
                "min_replicas": scale.least,
                "max_replicas": scale.most,
                "target_ongoing_requests": wanted,
            }
        }
    made = serve.deployment(Replica).options(
        name="model",
        max_ongoing_requests=limits.queue + limits.batch,
        max_queued_requests=limits.queue,
        max_constructor_retry_count=1,
        graceful_shutdown_timeout_s=max(1.0, grace),
        graceful_shutdown_wait_loop_s=0.2,
        health_check_period_s=2,
        ray_actor_options={"num_cpus": 1, "num_gpus": scale.gpus},
        logging_config=_CALM,
        **count,
    )
    bound = made.bind(
        name if is_name(name) else _absolute(name),
        dict(loading),
        {key: _absolute(place) for key, place in places.items()},
        limits,
    )
    try:
        return serve.run(bound, name=title, route_prefix=None, logging_config=_CALM)
    except Exception as error:  # RuntimeError, with the replica's whole traceback in it
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = next(
            (line for line in reversed(lines) if "Error: " in line), lines[-1] if lines else type(error).__name__
        )
        raise ZooError(f"no replica of {name} could begin: {one_line(said, 500)}") from error


def _running(title: str) -> int:
    """Return how many replicas answer."""
    found = serve.status().applications.get(title)
    states = [one.replica_states for one in found.deployments.values()] if found else []
    return sum(count for state in states for kind, count in state.items() if str(kind).endswith("RUNNING"))


def _absolute(place: str) -> str:
    """Return a folder of this machine's by its whole path: a replica works elsewhere."""
    return str(Path(place).absolute()) if Path(place).expanduser().exists() else place
