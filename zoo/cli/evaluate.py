"""The command that evaluates a model, alone or against another on the same examples."""

from __future__ import annotations

from typing import Any

import click

from zoo.cli.model_commands import load
from zoo.cli.names import MODEL
from zoo.cli.options import cache_option, column_option, given_cache, model_options, with_columns
from zoo.cli.output import Command, json_option, note, print_facts, print_json
from zoo.cli.together import together

_VARIANT = ("bits", "lora", "weights", "revision")  # what words of --against may set


@click.command(
    cls=Command,
    examples="""
    zoo evaluate ddpm --data letters:serif
    zoo evaluate gpt --data text:licences --bits 4 --lora runs/gpt/adapter --json
    zoo evaluate stylegan --metric fid --metric recall --judge vit
    zoo evaluate gpt --bits 4 --against bits=32
    zoo evaluate gpt --lora runs/gpt/adapter --against lora=none
    zoo evaluate bert --data notes.txt --against ./another-bert
    """,
)
@click.argument("name", type=MODEL)
@click.option(
    "--data", metavar="WHAT", help="A folder, a file or a name such as letters:serif [default: the plugin's]."
)
@column_option
@click.option("--lora", metavar="WHERE", help="A saved adapter: a folder or a Hub repository.")
@click.option("--metric", "metrics", metavar="NAME", multiple=True, help="One more metric, such as fid; repeatable.")
@click.option("--judge", metavar="WHAT", help="Whose features compare pictures: pixels, inception or a classifier.")
@click.option("--samples", type=click.IntRange(min=1), help="Samples to draw at most, for metrics of drawn ones.")
@click.option(
    "--against",
    metavar="OTHER",
    help="Another model on the same examples: a name, a folder, an adapter, or what differs: bits=8, lora=none.",
)
@cache_option
@model_options
@json_option
def evaluate(
    name: str,
    data: str | None,
    columns: tuple[tuple[str, str], ...],
    lora: str | None,
    metrics: tuple[str, ...],
    judge: str | None,
    samples: int | None,
    against: str | None,
    cache: str | None,
    as_json: bool,
    **loading: Any,
) -> None:
    """Show metrics on held-out data with their 95 % intervals; the first is the main one."""
    source = with_columns(data, columns)
    given = {"metrics": metrics, "judge": judged_by(judge), "samples": samples}
    wanted = {**{key: value for key, value in given.items() if value}, **given_cache(cache)}
    other = None if against is None else variant(against, name, lora, loading)
    model = load(name, lora=lora, **loading)
    with together(model.device) as prints:
        figures = model.evaluate(source, **wanted)
        theirs = None if other is None else load(**other).evaluate(source, **wanted)
    if not prints:
        return
    if theirs is None:
        if as_json:
            print_json({"name": name, "data": data, **figures.as_dict()})
        else:
            print_facts(dict(figures.lines()))
        return
    from zoo.metrics import paired

    found = paired(figures, theirs)
    if as_json:
        sides = {"figures": figures.as_dict(), "against": {"name": against, **theirs.as_dict()}}
        print_json({"name": name, "data": data, **found.as_dict(), **sides})
        return
    note(f"{name} minus {against}, on the same {found.samples} {found.unit}")
    texts = dict(found.lines())
    print_facts({label: f"{figures[label]:.6g} and {theirs[label]:.6g}: {texts[label]}" for label in texts})


def variant(against: str, name: str, lora: str | None, loading: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `load` for the model to compare with.

    Args:
        against: a name, folder, repository or adapter, and words KEY=VALUE of what differs, with commas between them.
        name: of the first model, which a second one without a name is.
        lora: the first model's adapter.
        loading: how the first model is loaded.

    Raises:
        click.BadParameter: a word is of another form.
    """
    words = [word.strip() for word in against.split(",") if word.strip()]
    said: dict[str, str] = {}
    named = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            named.append(word)
        elif key in _VARIANT and value:
            said[key] = value
        else:
            raise click.BadParameter(
                f"expected a model, or one of {', '.join(_VARIANT)} with a value, got {word!r}",
                param_hint="'--against'",
            )
    if len(named) > 1 or not words:
        raise click.BadParameter(f"expected one model, got {against!r}", param_hint="'--against'")
    given: dict[str, Any] = {**loading, "name": named[0] if named else name, "lora": None if named else lora}
    if named:
        given |= {"weights": None, "revision": None}
    if "bits" in said:
        given["bits"] = int(said["bits"]) if said["bits"].isdecimal() else said["bits"]
    if "lora" in said:
        given["lora"] = None if said["lora"] == "none" else said["lora"]
    return given | {key: said[key] for key in ("weights", "revision") if key in said}


def judged_by(judge: str | None) -> Any:
    """Return what the option --judge names: a space by its name, else a loaded classifier."""
    if judge is None:
        return None
    from zoo.metrics.spaces import INCEPTION, PIXELS

    return judge if judge in (INCEPTION, PIXELS) else load(judge, lora=None, bits=None)


COMMANDS = (evaluate,)
