"""Measure one way, in a process of its own, whose arguments are PLAN.json and a folder."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.bounded.json_text import read_object
from zoo.comparison.grid import BASE, LORA, Plan, Way
from zoo.comparison.quality import kept
from zoo.errors import ZooError, one_line
from zoo.storage.atomic import write_json

if TYPE_CHECKING:
    import torch

    from zoo.model import Model

RESULT = "cell.json"
SAMPLES = "samples"
_WARM = 2  # steps and samples that are not timed


def measure(plan: Plan, way: Way, folder: Path, *, merged: Path | None = None) -> dict[str, Any]:
    """Load the model as a way has it, tune it, evaluate it, sample it, and say what each took.

    Args:
        plan: what is the same for all ways.
        way: the one to measure.
        folder: where its samples go.
        merged: where those of the same adapter, merged, go; None: it is not merged.

    Returns:
        What `RESULT` holds; under "merged" the same of the merged model.
    """
    import torch

    from zoo.comparison import memory
    from zoo.loading.device import pick_device
    from zoo.loading.load import load

    device = pick_device(plan.device)
    if device.type == "cpu":
        _import_all(plan)
    empty = memory.now(device)
    given: dict[str, Any] = {
        "weights": plan.weights,
        "revision": plan.revision,
        "bits": way.bits,
        "device": str(device),
    }
    model = load(plan.name, lora=way.rank if way.kind == LORA else None, seed=plan.seed, **given)
    found: dict[str, Any] = {"device": str(device), "memory_before": empty, "torch_threads": torch.get_num_threads()}
    if way.kind != BASE:
        found["tuning"] = _tuned(model, plan)
    found |= _held(model, plan, folder)
    if merged is not None:
        model.merge(*model.active)
        found["merged"] = {**found, **_held(model, plan, merged)}
    return found


def _import_all(plan: Plan) -> None:
    """Import what loading, tuning and sampling import, so that it does not count as theirs."""
    import accelerate  # noqa: F401

    from zoo.loading.load import load

    with suppress(ZooError):
        load(plan.name, weights=plan.weights, revision=plan.revision, device="meta")


def _tuned(model: Model, plan: Plan) -> dict[str, Any]:
    from zoo.comparison import memory

    exact = memory.start(model.device)
    moments = [time.perf_counter()]
    result = model.tune(
        _data(plan),
        steps=plan.steps,
        batch_size=plan.batch_size,
        lr=plan.lr,
        seed=plan.seed,
        quiet=True,
        on_step=lambda step, loss: moments.append(time.perf_counter()),
    )
    peak = memory.peak(model.device)
    times = [after - before for before, after in pairwise(moments)]
    return {
        "steps": result.steps,
        "trainable": result.trainable,
        "batch_size": result.batch_size,
        "lr": result.lr,
        "losses": list(result.losses),
        "seconds": result.seconds,
        "seconds_a_step": statistics.median(times[_WARM:] or times),
        "peak_memory": peak,
        "peak_is_own": exact,
    }


def _held(model: Model, plan: Plan, folder: Path) -> dict[str, Any]:
    """Return the size, the quality, and what sampling takes, of a model as it is now."""
    from zoo.comparison import memory
    from zoo.runs import kept_samples

    size = model.footprint()
    found: dict[str, Any] = {
        "parameters": size.parameters,
        "bytes": size.bytes + size.adapter_bytes,
        "bytes_adapter": size.adapter_bytes,
    }
    exact = memory.start(model.device)
    try:
        samples = model.sample(plan.samples, seed=plan.seed, **plan.options)
        found["sampling"] = {"peak_memory": memory.peak(model.device), "peak_is_own": exact}
        kept_samples.keep(samples, folder / SAMPLES)
        found["latency"] = _latency(lambda: model.sample(1, seed=plan.seed, **plan.options), plan.repeats, model.device)
        found["latency_of"] = "one sample"
    except ZooError as error:
        found["sampling"] = {"why_not": one_line(error, 300)}
        found |= _of_loss(model, plan)
    return found | {"quality": kept(model.evaluate(_data(plan), metrics=plan.metrics, judge=_judge(plan)))}


def _of_loss(model: Model, plan: Plan) -> dict[str, Any]:
    """Return the latency of a forward pass, of a model that does not sample."""
    import torch

    batch = next(iter(model.batches(_data(plan), batch_size=1, split="test")))

    def once() -> None:
        with torch.no_grad():
            model.loss(batch)

    return {"latency": _latency(once, plan.repeats, model.device), "latency_of": "the loss of one example"}


def _latency(once: Callable[[], Any], repeats: int, device: torch.device) -> dict[str, Any]:
    """Return the median time of a call in seconds, and all times."""
    import torch

    times = []
    for number in range(_WARM + repeats):
        started = time.perf_counter()
        once()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= _WARM:
            times.append(time.perf_counter() - started)
    return {"seconds": statistics.median(times), "all": times}


def _data(plan: Plan) -> Any:
    if not plan.columns:
        return plan.data
    from zoo.data.spec import Data

    return Data(plan.data, columns=plan.columns)


def _judge(plan: Plan) -> Any:
    from zoo.metrics.spaces import INCEPTION, PIXELS

    if plan.judge is None or plan.judge in (INCEPTION, PIXELS):
        return plan.judge
    from zoo.loading.load import load

    return load(plan.judge, device=plan.device)


def main(words: list[str]) -> int:
    """Measure the way that a file describes, and write its results; return the exit code."""
    path, folder = Path(words[0]), Path(words[1])
    told = read_object(path)
    plan = Plan(**{**told["plan"], "metrics": tuple(told["plan"]["metrics"])})
    way = Way(**told["way"])
    merged = folder.with_name(f"{folder.name}-merged") if told["merged"] else None
    if merged is not None:
        merged.mkdir(parents=True, exist_ok=True)
    try:
        found = measure(plan, way, folder, merged=merged)
    except ZooError as error:
        write_json(folder / "error.json", {"error": one_line(error, 2000)})
        return 1
    other: Mapping[str, Any] | None = found.pop("merged", None)
    write_json(folder / RESULT, {**told, "measured": found})
    if merged is not None and other is not None:
        told["way"] = {**told["way"], "merged": True}
        write_json(merged / RESULT, {**told, "measured": other})
    return 0
