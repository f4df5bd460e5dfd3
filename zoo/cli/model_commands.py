"""The commands that load a model: sample, demo."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.bounded.json_text import json_value
from zoo.catalog.names import is_name
from zoo.cli.names import MODEL
from zoo.cli.options import (
    adapter_of,
    cache_option,
    given_cache,
    model_options,
)
from zoo.cli.output import Command, echo, json_option, print_json
from zoo.cli.together import common_seed, together

if TYPE_CHECKING:
    from zoo.model import Model


@click.command(
    cls=Command,
    examples="""
    zoo sample ddpm -n 16 --seed 0 --out letters.png
    zoo sample gpt -n 2 --bits 4 -o prompts="The list" -o max_new_tokens=60
    zoo sample ddpm --lora runs/ddpm/adapter
    zoo sample gpt --stream -o prompt="The list"
    """,
)
@click.argument("name", type=MODEL)
@click.option("-n", "count", type=click.IntRange(min=1), default=1, show_default=True, help="How many.")
@click.option("--seed", type=int, help="The same seed draws the same samples.")
@click.option("--lora", metavar="WHERE", help="A saved adapter: a folder or a Hub repository.")
@click.option("--out", help="The file to write, or a folder for a file of each [images: NAME.png].")
@click.option("-o", "--option", "options", metavar="KEY=VALUE", multiple=True, help="An option of the model's own.")
@click.option("--stream", is_flag=True, help="Print one text as it comes.")
@cache_option
@model_options
@json_option
def sample(
    name: str,
    count: int,
    seed: int | None,
    lora: str | None,
    out: str | None,
    options: tuple[str, ...],
    stream: bool,
    cache: str | None,
    as_json: bool,
    **loading: Any,
) -> None:
    """Draw samples: text and class posteriors to stdout, images to a PNG, others to a file of their kind."""
    if stream and (count > 1 or out is not None or as_json):
        raise click.UsageError("--stream prints one text: leave out -n, --out and --json, or --stream")
    chosen = parse_options(options)
    model = load(name, lora=lora, **loading)
    if stream:
        for piece in model.stream(seed=seed, **given_cache(cache), **chosen):
            echo(piece, nl=False)
            sys.stdout.flush()
        echo("")
        return
    with together(model.device) as prints:
        samples = model.sample(count, seed=common_seed(seed), **given_cache(cache), **dict[str, Any](chosen))
    if not prints:
        return
    if out is None and ".txt" not in samples.suffixes:
        from zoo.loading.run_files import file_name

        usual = samples.suffixes[0]
        alone = usual not in samples.sample_kind.single or len(samples) == 1
        out = f"{file_name(name)}{usual}" if alone else f"{file_name(name)}-samples/"
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
    zoo demo
    zoo demo gpt --out gpt-demo
    """,
)
@click.argument("name", type=MODEL, default="ddpm")
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


def parse_options(options: tuple[str, ...], hint: str = "'-o'") -> dict[str, Any]:
    """Return `key=value` words as a dict; a value that is JSON (a number, true, null, a list) is read so.

    Raises:
        click.BadParameter: a word is of another form.
    """
    parsed = {}
    for option in options:
        key, equals, value = option.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key.isidentifier():
            raise click.BadParameter(f"expected KEY=VALUE, got {option!r}", param_hint=hint)
        try:
            parsed[key] = json_value(value)
        except ValueError:
            parsed[key] = value
    return parsed


COMMANDS = (sample, demo)
