"""The verbs that load a model: sample, tune, evaluate, demo."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.catalog.names import is_name
from zoo.cli.output import Command, json_option, note, print_facts, print_json

if TYPE_CHECKING:
    from zoo.model import Model

_MODEL_OPTIONS = (
    click.option("--weights", metavar="WHERE", help="Other weights: a Hub repository or a local folder."),
    click.option("--revision", metavar="SHA", help="The Hub repository's commit."),
    click.option(
        "--bits", type=click.Choice(["4", "8", "16", "32"]), help="Bits per weight [default: the checkpoint's]."
    ),
    click.option("--device", metavar="NAME", help="cpu, cuda, mps [default: the best there is]."),
)


class Interrupted(click.ClickException):
    """Ctrl-C, with what to type to go on."""

    exit_code = 130

    def show(self, file: Any = None) -> None:
        note(self.format_message())


def model_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_MODEL_OPTIONS):
        function = option(function)
    return function


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
        click.echo(str(saved))
    else:
        click.echo(samples.text(), nl=False)


@click.command(
    cls=Command,
    examples="""
    zoo tune ddpm --data letters:serif --bits 4 --steps 200
    zoo tune gpt --data notes.txt --lora 16 --lr 1e-3 --out runs/notes
    zoo tune gpt --data notes.txt --lora 16 --lr 1e-3 --out runs/notes --resume
    zoo tune ddpm --data pictures/ --full --steps 1000
    """,
)
@click.argument("name")
@click.option(
    "--data", metavar="WHAT", help="A folder, a file or a name such as letters:serif [default: the plugin's]."
)
@click.option("--steps", type=click.IntRange(min=1), default=200, show_default=True, help="Optimizer steps.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Items per step [default: the plugin's].")
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), help="The highest learning rate.")
@click.option("--lora", metavar="RANK|WHERE", help="Rank, or an adapter to go on with [default: 8, or NAME's own].")
@click.option("--full", is_flag=True, help="Train every weight instead of an adapter.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="The run's folder [default: runs/NAME].")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in the run's folder.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the adapter's start and the data's order.")
@model_options
@json_option
def tune(
    name: str,
    data: str | None,
    steps: int,
    batch_size: int | None,
    lr: float | None,
    lora: str | None,
    full: bool,
    out: Path | None,
    resume: bool,
    seed: int,
    as_json: bool,
    **loading: Any,
) -> None:
    """Train an adapter on your data and save it."""
    out = out or Path("runs") / file_name(name)
    model = load(name, lora=None if full else lora or rank_for(name, loading["revision"]), seed=seed, **loading)
    started = time.time()
    try:
        result = model.tune(data, steps=steps, batch_size=batch_size, lr=lr, out=out, resume=resume, seed=seed)
    except KeyboardInterrupt:
        raise Interrupted(_how_to_resume(out, started)) from None
    saved = out / ("model" if full else "adapter")
    if full:
        model.save(saved)
    else:
        model.save_adapter(saved)
    use = f"zoo sample {shlex.quote(str(saved))}" if full else f"zoo sample {name} --lora {shlex.quote(str(saved))}"
    if as_json:
        facts = {key: getattr(result, key) for key in ("steps", "seconds", "loss", "losses")}
        print_json({"name": name, **facts, "seed": seed, "saved": saved})
        return
    note(result.summary())
    note(f"try it: {use}")
    click.echo(str(saved))


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
@click.option("--lora", metavar="WHERE", help="A saved adapter: a folder or a Hub repository.")
@model_options
@json_option
def evaluate(name: str, data: str | None, lora: str | None, as_json: bool, **loading: Any) -> None:
    """Figures on held-out data; the first is the main one."""
    figures = load(name, lora=lora, **loading).evaluate(data)
    if as_json:
        print_json({"name": name, "data": data, "figures": figures})
    else:
        print_facts({label: f"{value:.6g}" for label, value in figures.items()})


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


def load(name: str, *, lora: str | None, bits: str | None, seed: int | None = None, **more: Any) -> Model:
    """`zoo.load` with the command line's words: `bits` and a rank are digits."""
    from zoo.catalog import registry

    if is_name(name):
        registry.find(name)  # an unknown name should not wait for torch
    import zoo

    adapter = int(lora) if lora is not None and lora.isdecimal() else lora
    return zoo.load(name, bits=int(bits) if bits else None, lora=adapter, seed=seed, **more)


def rank_for(name: str, revision: str | None) -> str | None:
    """The rank of a new adapter where the user says none; None where the name stands for an adapter already."""
    if is_name(name):
        return "8"
    from zoo.hub.adapters import is_adapter

    return None if is_adapter(name, revision) else "8"


def parse_options(options: tuple[str, ...]) -> dict[str, Any]:
    """`key=value` words as a dict; a value that is JSON (a number, true, null, a list) is read so, else a string."""
    parsed = {}
    for option in options:
        key, equals, value = option.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key.isidentifier():
            raise click.BadParameter(f"expected KEY=VALUE, got {option!r}", param_hint="'-o'")
        try:
            parsed[key] = json.loads(value)
        except ValueError:
            parsed[key] = value
    return parsed


def file_name(name: str) -> str:
    """A model's name as a file's: the last part of a path or repository, without odd characters."""
    last = Path(name).expanduser().name or Path(name).resolve().name
    return re.sub(r"[^\w.-]+", "-", last).strip(".-") or "model"


def _how_to_resume(out: Path, started: float) -> str:
    """What to type after Ctrl-C, if this run has left a checkpoint."""
    fresh = out.is_dir() and any(path.stat().st_mtime >= started - 1 for path in out.iterdir())
    context = click.get_current_context()
    words = [shlex.quote(word) for word in context.obj or ()]
    if not fresh:
        return f"interrupted before the first checkpoint: nothing is left in {out}"
    again = " ".join(["zoo", *words, *([] if "--resume" in words else ["--resume"])])
    return f"interrupted: to go on from the last checkpoint, type {again}"


COMMANDS = (sample, tune, evaluate, demo)
