"""How often the host waits for an accelerator: every verb of every architecture, counted on the strict accelerator.

Nothing is timed, and no GPU is needed: the device is "sim" of `zoo.testing.strict`. Each figure that a verb gives is
compared with the CPU's.

    python benchmarks/synchronisations.py                  # the whole table, about two minutes
    python benchmarks/synchronisations.py --only gpt --bits 4
    python benchmarks/synchronisations.py --json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

import zoo
from zoo.data.batches import on_device
from zoo.testing.compare import same, tensors_of
from zoo.testing.strict import Waits, strict_accelerator

BITS = (32, 8, 4)
ADAPTERS = ("none", "LoRA", "DoRA")
BATCH, STEPS, MORE = 2, 3, 2
CLOSE = 1e-4  # relative, of losses after some steps of training


class Way(NamedTuple):
    """How an architecture samples quickly, and the option that says how many steps that takes."""

    options: dict[str, Any]
    steps: str | None = None


ARCHITECTURES = {
    "ddpm": Way({"steps": 2}, "steps"),
    "gpt": Way({"max_new_tokens": 3}, "max_new_tokens"),
    "bert": Way({"length": 4, "mode": "mask-predict", "steps": 2}, "steps"),
    "vit": Way({}),
    "vae": Way({}),
    "stylegan": Way({}),
    "gat": Way({}),
}


@dataclass
class Row:
    """What one architecture waited for, with weights of `bits` and adapters of one kind.

    Attributes:
        counts: by verb how often the host waited; "a step" of training and "a step of sampling" are those of one step.
        lines: by verb the lines that made it wait.
        figures: by verb the figures that it gave, on the device and on the CPU.
    """

    architecture: str
    bits: int
    adapter: str
    counts: dict[str, float] = field(default_factory=dict)
    lines: dict[str, dict[str, int]] = field(default_factory=dict)
    figures: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)


class _Both:
    """A model on the device and the same one on the CPU, and the row that gets what is counted."""

    def __init__(self, waits: Waits, row: Row, there: zoo.Model, here: zoo.Model) -> None:
        self.waits, self.row, self.there, self.here = waits, row, there, here

    def counted(self, verb: str, call: Callable[[zoo.Model], Any]) -> Any:
        """Call the verb on the device, and count."""
        self.waits.clear()
        found = call(self.there)
        self.row.counts[verb], self.row.lines[verb] = len(self.waits.synchronisations), dict(self.waits.by_line())
        return found

    def compared(self, verb: str, call: Callable[[zoo.Model], Any], numbers: Callable[[Any], list[float]]) -> None:
        """Call the verb on the device, which is counted, and on the CPU, and keep the figures of both."""
        there = self.counted(verb, call)
        self.row.figures[verb] = (numbers(there), numbers(call(self.here)))

    def changed(self, verb: str, change: Callable[[zoo.Model], Any], batch: Any) -> None:
        """Change both models by a verb, which is counted on the device, and keep their losses afterwards."""
        self.counted(verb, change)
        change(self.here)
        self.row.figures[verb] = ([_loss(self.there, batch)], [_loss(self.here, batch)])


def measure(architecture: str, bits: int, adapters: tuple[str, ...] = ADAPTERS, evaluate: bool = True) -> Iterator[Row]:
    """Yield a row for each adapter, of a model that is loaded once.

    Args:
        architecture: a key of `ARCHITECTURES`.
        bits: of the weights.
        adapters: of `ADAPTERS`.
        evaluate: whether `evaluate` is called, with the first adapter.
    """
    with strict_accelerator() as waits, tempfile.TemporaryDirectory() as folder:
        here, there = (
            zoo.load(architecture, bits=bits, device=device, dtype="float32", seed=0) for device in ("cpu", "sim")
        )
        loading, loaded_by = len(waits.synchronisations), dict(waits.by_line())
        batch = next(iter(here.batches(batch_size=BATCH)))
        for adapter in adapters:
            row = Row(architecture, bits, adapter, {"load": loading}, {"load": loaded_by})
            both = _Both(waits, row, there, here)
            config = None if adapter == "none" else zoo.LoRA(rank=2, targets="all", dora=adapter == "DoRA")
            if config is not None:
                both.counted("add an adapter", partial(zoo.Model.add_adapter, name="one", lora=config, seed=0))
                here.add_adapter("one", config, seed=0)
            _use(both, batch, ARCHITECTURES[architecture], trains=config is not None)
            if evaluate and adapter == adapters[0]:
                both.compared("evaluate", lambda model: model.evaluate(), lambda found: list(found.values()))
            if config is not None:
                _adapter_verbs(both, batch, Path(folder) / adapter)
            left = [one.device for one in (*there.module.parameters(), *there.module.buffers())]
            row.figures["devices"] = ([float(one.type == "sim") for one in left], [1.0] * len(left))
            yield row


def _use(both: _Both, batch: Any, way: Way, trains: bool) -> None:
    both.compared("loss", lambda model: _loss(model, batch), lambda found: [found])
    both.compared("sample", lambda model: model.sample(2, seed=1, **way.options), _numbers)
    if way.steps is not None:
        more = {**way.options, way.steps: way.options[way.steps] + MORE}
        both.counted("more steps", lambda model: model.sample(2, seed=1, **more))
        grown = both.row.counts.pop("more steps") - both.row.counts["sample"]
        both.row.counts["a step of sampling"] = grown / MORE
    if not trains:
        return
    marks: list[int] = []

    def tune(model: zoo.Model) -> Any:
        counted = [0]
        step = lambda *_: counted.append(len(both.waits.synchronisations))  # noqa: E731
        result = model.tune(steps=STEPS, batch_size=BATCH, seed=0, quiet=True, on_step=step)
        if model is both.there:
            marks[:] = counted
        return result

    both.compared("tune", tune, lambda result: list(result.losses))
    both.row.counts["a step"] = marks[-1] - marks[-2]


def _adapter_verbs(both: _Both, batch: Any, folder: Path) -> None:
    both.counted("save the adapter", lambda model: model.save_adapter(folder, "one"))
    both.changed("merge", lambda model: model.merge(), batch)
    both.changed("unmerge", lambda model: model.unmerge(), batch)
    both.changed("switch", lambda model: (model.deactivate(), model.activate("one")), batch)
    for model in (both.there, both.here):
        model.remove_adapter("one")
    both.changed("load it back", lambda model: model.add_adapter("back", str(folder)), batch)
    for model in (both.there, both.here):
        model.remove_adapter("back")


def _loss(model: zoo.Model, batch: Any) -> float:
    """Return the loss; the copy of it to the host is not counted."""
    torch.manual_seed(0)
    value = model.loss(on_device(batch, model.device)).detach()
    return float(getattr(value, "host", value))


def _numbers(samples: zoo.Samples) -> list[float]:
    data = samples.data
    if isinstance(data, list):
        return [float(ord(letter)) for text in data for letter in str(text)]
    return [number for tensor in tensors_of(data) for number in tensor.double().flatten().tolist()]


def off(row: Row) -> dict[str, float]:
    """Return by verb how far its figures on the device are from the CPU's, relative to the largest."""
    found = {}
    for verb, (there, here) in row.figures.items():
        if same(there, here):
            found[verb] = 0.0
            continue
        largest = max(map(abs, here), default=0.0)
        far = max((abs(one - two) for one, two in zip(there, here, strict=False)), default=0.0)
        found[verb] = far / largest if len(there) == len(here) and largest else float("inf")
    return found


def table(rows: list[Row]) -> str:
    """Return the counts as Markdown."""
    verbs = list(dict.fromkeys(verb for row in rows for verb in row.counts))
    lines = ["| architecture | bits | adapter | " + " | ".join(verbs) + " |", "|---|---|---|" + "---|" * len(verbs)]
    for row in rows:
        cells = (f"{row.counts[verb]:g}" if verb in row.counts else "" for verb in verbs)
        lines.append(f"| {row.architecture} | {row.bits} | {row.adapter} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the table, or all that was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", default=list(ARCHITECTURES), choices=list(ARCHITECTURES))
    parser.add_argument("--bits", nargs="*", type=int, default=list(BITS))
    parser.add_argument("--json", action="store_true", help="print lines and figures too")
    parser.add_argument("--quick", action="store_true", help="one architecture")
    options = parser.parse_args()
    names = ["vit"] if options.quick else options.only
    rows = [row for name in names for bits in options.bits for row in measure(name, bits)]
    print(json.dumps([asdict(row) | {"off": off(row)} for row in rows]) if options.json else table(rows))


if __name__ == "__main__":
    main()
