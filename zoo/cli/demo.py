"""`zoo demo`: load a model in 4 bit, tune it with LoRA on other data than it was trained on, and show what changed.

The entry's table `demo` in the registry has the data and the settings.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import AdapterError, RegistryError, did_you_mean

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from zoo.model import Model
    from zoo.samples import Samples
    from zoo.tuning.loop import TuneResult
    from zoo.weights.footprint import Footprint

BITS = 4
RANK = 8


@dataclass(frozen=True)
class Demo:
    """An entry's `demo` table.

    Attributes:
        data: what to tune on.
        steps: to train.
        batch_size: items in a batch.
        lr: peak learning rate.
        reference: a registry name of the same architecture whose real configuration the footprint is shown for, without
            its weights.
        samples: {n, options} of the samples before and after.
    """

    data: str
    steps: int = 200
    batch_size: int = 16
    lr: float = 1e-3
    reference: str | None = None
    samples: dict[str, Any] = field(default_factory=dict)


def run(
    name: str = "ddpm",
    out: str | os.PathLike[str] = "zoo-demo",
    *,
    steps: int | None = None,
    device: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Run the whole demo, printed to stdout; progress goes to stderr.

    Args:
        name: a registry name with a `demo` table.
        out: the folder to write.
        steps: to train; None: the entry's.
        device: where to run; None: the best there is.
        seed: of the adapter, the data and the samples.

    Returns:
        What `out/demo.json` holds.

    Raises:
        RegistryError: the entry has no demo, or one with unknown keys.
        AdapterError: the saved adapter gives other samples in a fresh model.
        OutputError: `out` cannot be written.
    """
    from rich.console import Console
    from rich.text import Text

    import zoo
    from zoo.catalog import registry
    from zoo.reports import only_pictures
    from zoo.storage.atomic import write_json

    started = time.perf_counter()
    plan = planned(name, registry.find(name).demo)
    out = Path(out)
    write_json(out / "demo.json", {"name": name, "data": plan.data})  # what cannot be written shows now
    console = Console()
    steps = plan.steps if steps is None else steps
    lora = zoo.LoRA(rank=RANK, targets="all")

    with _part(console, f"loading {name} in {BITS} bit, with LoRA of rank {RANK} on every weight"):
        model = zoo.load(name, bits=BITS, lora=lora, device=device, seed=seed)
    footprints = {name: model.footprint()}
    if plan.reference is not None:
        with _part(console, f"building {plan.reference} as it really is, without its weights"):
            reference = zoo.load(plan.reference, bits=BITS, lora=lora, device="meta")
        footprints[plan.reference] = reference.footprint()
    console.print(_footprint_table(footprints))

    with _part(console, f"before: metrics and samples on {plan.data}"):
        before = model.evaluate(plan.data), _sampled(model, plan, seed)
    result = model.tune(plan.data, steps=steps, batch_size=plan.batch_size, lr=plan.lr, seed=seed)
    console.print(Text(f"tuned: {result.summary()}\n       {result.curve()}"), soft_wrap=True)
    with _part(console, "after: the same again"):
        after = model.evaluate(plan.data), _sampled(model, plan, seed)

    console.print(_metrics_table(before[0], after[0]))
    written = _write_samples(out, model, plan, before[1], after[1])
    adapter = model.save_adapter(out / "adapter")
    with _part(console, "loading the saved adapter into a fresh 4-bit model"):
        fresh = zoo.load(name, bits=BITS, lora=os.fspath(adapter), device=device)
        difference = _difference(after[1], _sampled(fresh, plan, seed))
    _check_equal(difference, adapter, exact=model.device.type == "cpu")
    console.print(Text(f"the same samples again: the largest difference is {difference:g}"))

    if not only_pictures(after[1]) or console.color_system:
        console.print(after[1])
    seconds = time.perf_counter() - started
    facts = _facts(name, plan, footprints, before[0], after[0], result, difference, seconds)
    write_json(out / "demo.json", facts)
    for label, path in (("samples", written), ("adapter", adapter), ("metrics", out / "demo.json")):
        console.print(Text(f"{label:8} {path}"), soft_wrap=True)
    use = f"zoo sample {name} --bits {BITS} --lora {adapter}"
    console.print(Text(f"done in {seconds:.0f} s; go on with: {use}"), soft_wrap=True)
    return facts


def planned(name: str, table: dict[str, Any]) -> Demo:
    """Check an entry's `demo` table.

    Raises:
        RegistryError: it is empty, or a key is unknown, missing or of another type.
    """
    if not table:
        raise RegistryError(f"{name} has no demo: add a table [{name}.demo] with data, steps, … to its registry.toml")
    known = {item.name: item for item in fields(Demo)}
    for key in table:
        if key not in known:
            raise RegistryError(
                f"[{name}.demo]: unknown key {key!r}, expected {', '.join(known)}.{did_you_mean(key, known)}"
            )
    if "data" not in table:
        raise RegistryError(f"[{name}.demo]: data is missing: the name of what to tune on")
    types = {"data": str, "steps": int, "batch_size": int, "lr": float, "reference": str, "samples": dict}
    for key, value in table.items():
        if not isinstance(value, types[key]) or isinstance(value, bool):
            raise RegistryError(f"[{name}.demo]: expected {key} as {types[key].__name__}, got {value!r}")
    for key in table.get("samples", {}):
        if key not in ("n", "options"):
            raise RegistryError(f"[{name}.demo.samples]: unknown key {key!r}, expected n, options")
    return Demo(**table)


def held_out(model: Model, data: str, samples: Samples) -> Samples | None:
    """Return as many held-out items as there are samples, of their kind; None if the data have no such form.

    For pictures these are a batch's "images" [n, c, h, w] in [-1, 1] or [0, 1], of each class in "labels" the first,
    in order of class; for texts the first paragraphs.
    """
    from zoo.samples import Samples
    from zoo.samples.texts import TEXTS

    if samples.pictures() is None:
        if samples.kind != TEXTS.name:
            return None
        from zoo.data.text import text_data

        texts = text_data(data, split="test")[: len(samples)]
        return Samples(texts, "text") if texts else None
    batch = next(iter(model.batches(data, batch_size=max(256, len(samples)), split="test")), None)
    if not isinstance(batch, dict) or batch.get("images") is None:
        return None
    images = batch["images"]
    images = _one_of_each(images, batch.get("labels"))[: len(samples)].float().cpu()
    return Samples((images / 2 + 0.5 if images.min() < 0 else images).clamp(0, 1), "image")


def _one_of_each(images: Tensor, labels: Tensor | None) -> Tensor:
    """Return the images [n, c, h, w], the first of each class in front, in order of class."""
    if labels is None:
        return images
    first: dict[int, int] = {}
    for index, label in enumerate(labels.tolist()):
        first.setdefault(label, index)
    ordered = [first[label] for label in sorted(first)]
    return images[ordered + [index for index in range(len(images)) if index not in set(ordered)]]


def _sampled(model: Model, plan: Demo, seed: int) -> Samples:
    return model.sample(plan.samples.get("n", 8), seed=seed, **plan.samples.get("options", {}))


def _write_samples(out: Path, model: Model, plan: Demo, before: Samples, after: Samples) -> Path:
    """Write one picture with a row each, one text with a section each, or a folder each: before, after and data."""
    from zoo.samples import encode, sheet
    from zoo.storage.atomic import write_bytes, write_text

    data = held_out(model, plan.data, after)
    rows = [("before", before), ("after", after), *([("data", data)] if data is not None else [])]
    if after.pictures() is not None:
        path = out / "samples.png"
        write_bytes(path, encode(sheet(rows)))
        return path
    if ".txt" in after.suffixes:
        path = out / "samples.txt"
        bar = "#" * 20
        write_text(path, "\n".join(f"{bar} {label} {bar}\n\n{samples.text()}" for label, samples in rows))
        return path
    for label, samples in rows:
        samples.save(out / "samples" / label)
    return out / "samples"


def _difference(first: Samples, second: Samples) -> float:
    """Return the largest difference of the values of samples that are Tensors; of texts 0 or 1."""
    if isinstance(first.data, list):
        return float(list(first) != list(second))
    return float((first.data.double() - second.data.double()).abs().max())


def _check_equal(difference: float, adapter: Path, *, exact: bool) -> None:
    # Kernels of a GPU may add in another order; a step of a picture's 256 is not to be seen.
    if not difference <= (0 if exact else 1 / 255):
        raise AdapterError(
            f"the adapter in {adapter} gives other samples in a fresh model: the largest difference is {difference:g}, "
            "expected 0. Saving or loading it is broken; please report this"
        )


@contextmanager
def _part(console: Console, title: str) -> Iterator[None]:
    """Say what is being done, and how long it took."""
    from rich.text import Text

    start = time.perf_counter()
    console.print(Text(f"{title} …"), end=" ")
    console.file.flush()
    try:
        yield
    except BaseException:
        console.print()
        raise
    console.print(Text(f"{time.perf_counter() - start:.1f} s"))


def _footprint_table(footprints: dict[str, Footprint]) -> Any:
    from rich.box import SIMPLE
    from rich.filesize import decimal
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE, title="footprint")
    table.add_column("model")
    for column in ("parameters", "16 bit", f"{BITS} bit", "ratio", "quantized", "adapted"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, found in footprints.items():
        table.add_row(
            Text(name),
            f"{found.parameters:,}",
            decimal(found.bytes_16bit),
            decimal(found.bytes),
            f"{found.bytes / found.bytes_16bit:.3f}",
            f"{found.quantized_share:.2%}",
            f"{found.adapted_share:.2%}",
        )
    return table


def _metrics_table(before: dict[str, float], after: dict[str, float]) -> Any:
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE, title="on held-out data")
    for column in ("metric", "before", "after"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for name in before:
        table.add_row(Text(name), f"{before[name]:.4g}", f"{after[name]:.4g}")
    return table


def _facts(
    name: str,
    plan: Demo,
    footprints: dict[str, Footprint],
    before: dict[str, float],
    after: dict[str, float],
    result: TuneResult,
    difference: float,
    seconds: float,
) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "name": name,
        "data": plan.data,
        "footprints": {key: asdict(value) for key, value in footprints.items()},
        "before": before,
        "after": after,
        "tuning": {
            "steps": result.steps,
            "batch_size": result.batch_size,
            "lr": result.lr,
            "seed": result.seed,
            "seconds": result.seconds,
            "losses": list(result.losses),
        },
        "reload_difference": difference,
        "seconds": seconds,
    }
