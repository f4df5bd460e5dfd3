"""The commands that load a model: sample, tune, evaluate, demo."""

from __future__ import annotations

import re
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.bounded.json_text import json_value
from zoo.catalog.entry import EMBEDDED, RANDOM
from zoo.catalog.names import is_name
from zoo.cli.options import (
    RANK,
    adapter_of,
    column_option,
    head_options,
    model_options,
    targets_option,
    tuned_model_options,
    with_classes,
    with_columns,
    without_number,
)
from zoo.cli.output import Command, echo, json_option, note, print_facts, print_json
from zoo.tuning.interrupts import Terminated

if TYPE_CHECKING:
    from zoo.model import Model

STEPS = 200  # the default of `zoo tune`


@click.command(
    cls=Command,
    examples="""
    zoo sample ddpm -n 16 --seed 0 --out letters.png
    zoo sample gpt -n 2 --bits 4 -o prompts="The list" -o max_new_tokens=60
    zoo sample ddpm --lora runs/ddpm/adapter
    """,
)
@click.argument("name")
@click.option("-n", "count", type=click.IntRange(min=1), default=1, show_default=True, help="How many.")
@click.option("--seed", type=int, help="The same seed draws the same samples.")
@click.option("--lora", metavar="WHERE", help="A saved adapter: a folder or a Hub repository.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="The file to write [images: NAME.png].")
@click.option("-o", "--option", "options", metavar="KEY=VALUE", multiple=True, help="An option of the model's own.")
@model_options
@json_option
def sample(
    name: str,
    count: int,
    seed: int | None,
    lora: str | None,
    out: Path | None,
    options: tuple[str, ...],
    as_json: bool,
    **loading: Any,
) -> None:
    """Draw samples: text and class posteriors to stdout, images to a PNG."""
    chosen = parse_options(options)
    model = load(name, lora=lora, **loading)
    samples = model.sample(count, seed=seed, **chosen)
    if out is None and ".txt" not in samples.suffixes:
        out = Path(f"{file_name(name)}.png")
    saved = samples.save(out) if out is not None else None
    facts: dict[str, Any] = {"name": name, "n": len(samples), "seed": seed, "kind": samples.kind}
    if as_json:
        facts["out"] = saved
        if (values := samples.json()) is not None:
            facts["samples"] = values
        print_json({**facts, "captions": samples.captions})
    elif saved is not None:
        echo(str(saved))
    else:
        echo(samples.text(), nl=False)


@click.command(
    cls=Command,
    examples="""
    zoo tune ddpm --data letters:serif --bits 4 --steps 200
    zoo tune gpt --data notes.txt --lora 16 --lr 1e-3 --out runs/notes
    zoo tune gpt --data notes.txt --lora 16 --lr 1e-3 --out runs/notes --resume
    zoo tune gpt --data notes.txt --lora 4 --targets attn.c_attn,attn.c_proj
    zoo tune ddpm --data pictures/ --full --steps 1000
    zoo tune bert --data reviews.csv --classes auto --epochs 3 --eval-every 50 --patience 3
    zoo tune gat --full --minutes 2 --out my-gat
    zoo tune gpt --data notes.txt --steps 5000 --save-every 500 --keep 3
    """,
)
@click.argument("name")
@click.option(
    "--data", metavar="WHAT", help="A folder, a file or a name such as letters:serif [default: the plugin's]."
)
@column_option
@click.option("--steps", type=click.IntRange(min=1), help="Optimizer steps [default: 200].")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="How long to train, instead of --steps.")
@click.option("--epochs", type=click.FloatRange(min=0, min_open=True), help="Passes over the data, instead of --steps.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Items per batch [default: the plugin's].")
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), help="The highest learning rate.")
@click.option("--gradient-accumulation-steps", type=click.IntRange(min=1), help="Batches per step [default: 1].")
@click.option("--eval-every", type=click.IntRange(min=1), help="Steps between evaluations; the best weights are kept.")
@click.option("--patience", type=click.IntRange(min=1), help="Stop after so many evaluations without a better one.")
@click.option("--ema-decay", type=click.FloatRange(0, 1, max_open=True), help="Average the weights, for instance .99.")
@click.option("--lora", metavar="RANK|WHERE", help="Rank, or an adapter to go on with [default: 8, or NAME's own].")
@targets_option
@click.option(
    "--full",
    is_flag=True,
    help="Train every weight, not an adapter; with --minutes from random weights unless --weights says otherwise.",
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="The run's folder [default: runs/NAME].")
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["peft", "diffusers", "kohya"]),
    default="peft",
    show_default=True,
    help="Whose files the adapter is written as.",
)
@click.option("--save-every", type=click.IntRange(min=1), help="Steps between checkpoints [default: 100].")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in the run's folder.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of what is random at the start, and the data.")
@head_options
@tuned_model_options
@json_option
def tune(
    name: str,
    data: str | None,
    columns: tuple[tuple[str, str], ...],
    steps: int | None,
    minutes: float | None,
    epochs: float | None,
    batch_size: int | None,
    lr: float | None,
    gradient_accumulation_steps: int | None,
    eval_every: int | None,
    patience: int | None,
    ema_decay: float | None,
    lora: str | None,
    targets: Any,
    full: bool,
    out: Path | None,
    file_format: str,
    save_every: int | None,
    resume: bool,
    seed: int,
    as_json: bool,
    **loading: Any,
) -> None:
    """Train an adapter on your data, or every weight, and save it.

    From random weights, and with the settings that the plugin has for it, --full --minutes trains a whole model, which
    is written into the folder --out.
    """
    if sum(budget is not None for budget in (steps, minutes, epochs)) > 1:
        raise click.UsageError("give one of --steps, --minutes and --epochs")
    if full and minutes is not None and loading["weights"] is None:
        loading["weights"] = RANDOM
        note(f"starting from random weights (--weights {EMBEDDED}, or another place, starts from trained ones)")
    fresh = loading["weights"] == RANDOM
    full = full or (fresh and lora is None and targets is None)
    if full and targets is not None:
        raise click.UsageError("--full trains every weight, and --targets are an adapter's: give one of them")
    if full and file_format != "peft":
        raise click.UsageError("--format is of an adapter's files, and --full writes the model in its library's own")
    out = out or Path("runs") / file_name(name)
    loading["keep"], checkpoints = without_number(loading["keep"])
    source = with_columns(data, columns)
    loading = with_classes(loading, source)
    adapter = None if full else adapter_of(lora or rank_for(name, loading["revision"]), targets)
    model = load(name, lora=adapter, seed=seed, **loading)
    given = {
        "minutes": minutes,
        "epochs": epochs,
        "eval_every": eval_every,
        "patience": patience,
        "gradient_accumulation_steps": gradient_accumulation_steps,
        "ema_decay": ema_decay,
        "save_every": save_every,
        "keep": checkpoints,
    }
    settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    # By default a model with random weights trains for the minutes of its registry entry, if it has some.
    if steps is not None or (minutes is epochs is None and not (fresh and "minutes" in model.entry.pretrain)):
        settings["steps"] = STEPS if steps is None else steps
    started = time.time()
    try:
        result = model.tune(source, batch_size=batch_size, lr=lr, out=out, resume=resume, seed=seed, **settings)
    except (KeyboardInterrupt, Terminated) as stop:
        note(_how_to_resume(out, started))
        raise click.exceptions.Exit(stop.code if isinstance(stop, Terminated) else 130) from None
    if not result.main_process:
        return
    saved = out if fresh and full else out / ("model" if full else "adapter")
    if fresh and full:
        model.save(saved, digests=True)
    elif full:
        model.save(saved)
    elif file_format == "peft":
        model.save_adapter(saved)
    else:
        model.save_adapter(saved, format=file_format)
    place = str(saved) if "/" in str(saved) else f"./{saved}"  # a name without a slash is looked up in the registry
    use = f"zoo sample {shlex.quote(place)}" if full else f"zoo sample {name} --lora {shlex.quote(str(saved))}"
    metrics = {"metrics": model.evaluate()} if fresh and full else {}
    if as_json:
        facts = {key: getattr(result, key) for key in ("steps", "seconds", "loss", "losses", "stopped", "best_step")}
        facts["evaluations"] = [{"step": step, **figures} for step, figures in result.evaluations]
        facts["data"] = [report.as_dict() for report in result.reports]
        print_json({"name": name, **facts, "seed": seed, "saved": saved, **metrics})
        return
    note(result.summary())
    for label, value in metrics.get("metrics", {}).items():
        note(f"held out: {label} {value:.6g}")
    note(f"try it: {use}")
    echo(str(saved))


@click.command(
    cls=Command,
    examples="""
    zoo evaluate ddpm --data letters:serif
    zoo evaluate gpt --data text:licences --bits 4 --lora runs/gpt/adapter --json
    """,
)
@click.argument("name")
@click.option(
    "--data", metavar="WHAT", help="A folder, a file or a name such as letters:serif [default: the plugin's]."
)
@column_option
@click.option("--lora", metavar="WHERE", help="A saved adapter: a folder or a Hub repository.")
@model_options
@json_option
def evaluate(
    name: str,
    data: str | None,
    columns: tuple[tuple[str, str], ...],
    lora: str | None,
    as_json: bool,
    **loading: Any,
) -> None:
    """Show metrics on held-out data; the first is the main one."""
    metrics = load(name, lora=lora, **loading).evaluate(with_columns(data, columns))
    if as_json:
        print_json({"name": name, "data": data, "figures": metrics})
    else:
        print_facts({label: f"{value:.6g}" for label, value in metrics.items()})


@click.command(
    cls=Command,
    examples="""
    zoo demo
    zoo demo gpt --out gpt-demo
    """,
)
@click.argument("name", default="ddpm")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("zoo-demo"),
    show_default=True,
    help="The folder to write.",
)
def demo(name: str, out: Path) -> None:
    """Tune a model in 4 bit, show before and after.

    Takes a few minutes on two cores. Writes pictures or texts and the adapter into the folder --out.
    """
    from zoo.catalog import registry

    registry.find(name)  # an unknown name should not wait for torch
    from zoo.cli.demo import run

    run(name, out)


def load(
    name: str,
    *,
    lora: Any,
    bits: int | str | None,
    keep: tuple[str, ...] = (),
    seed: int | None = None,
    **more: Any,
) -> Model:
    """Return what `zoo.load` gives; on the command line a rank is digits, see `adapter_of` for targets."""
    from zoo.catalog import registry

    if is_name(name):
        registry.find(name)  # an unknown name should not wait for torch
    import zoo

    adapter = adapter_of(lora, None) if isinstance(lora, str) else lora
    return zoo.load(name, bits=bits, keep=keep, lora=adapter, seed=seed, **more)


def rank_for(name: str, revision: str | None) -> str | None:
    """Return the rank of a new adapter where the user gives none; None where the name is that of an adapter."""
    if is_name(name):
        return str(RANK)
    from zoo.hub.adapters import is_adapter

    return None if is_adapter(name, revision) else str(RANK)


def parse_options(options: tuple[str, ...]) -> dict[str, Any]:
    """Return `key=value` words as a dict; a value that is JSON (a number, true, null, a list) is read so.

    Raises:
        click.BadParameter: a word is of another form.
    """
    parsed = {}
    for option in options:
        key, equals, value = option.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key.isidentifier():
            raise click.BadParameter(f"expected KEY=VALUE, got {option!r}", param_hint="'-o'")
        try:
            parsed[key] = json_value(value)
        except ValueError:
            parsed[key] = value
    return parsed


def file_name(name: str) -> str:
    """Return a model's name as a file's: the last part of a path or repository, without odd characters."""
    last = Path(name).expanduser().name or Path(name).resolve().name
    return re.sub(r"[^\w.-]+", "-", last).strip(".-") or "model"


def _how_to_resume(out: Path, started: float) -> str:
    """Return what to type after Ctrl-C, if this run has left a checkpoint."""
    fresh = out.is_dir() and any(path.stat().st_mtime >= started - 1 for path in out.iterdir())
    context = click.get_current_context()
    words = [shlex.quote(word) for word in context.obj or ()]
    if not fresh:
        return f"interrupted before the first checkpoint: nothing is left in {out}"
    again = " ".join(["zoo", *words, *([] if "--resume" in words else ["--resume"])])
    return f"interrupted: to go on from the last checkpoint, type {again}"


COMMANDS = (sample, tune, evaluate, demo)
