"""The commands that write a whole model: save, merge."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.model_commands import load
from zoo.cli.names import MODEL
from zoo.cli.options import model_options
from zoo.cli.output import Command, echo, json_option, note, print_json, size

if TYPE_CHECKING:
    from zoo.adapters.merge import MergeReport
    from zoo.model import Model

DEFAULT = "default"  # the name of the only adapter

lora_option = click.option(
    "--lora",
    metavar="WHERE",
    multiple=True,
    help="A saved adapter that becomes part of it; may be given several times.",
)
packed_option = click.option("--packed", is_flag=True, help="Write quantized weights as they are, with --bits.")
digests_option = click.option("--digests", is_flag=True, help="Write SHA256SUMS too, which loading verifies.")


def out_option(text: str) -> Any:
    """Return the required option --out with this help."""
    return click.option("--out", type=click.Path(path_type=Path), required=True, help=text)


@click.command(
    cls=Command,
    examples="""
    zoo save gpt --out my-gpt
    zoo save gpt --bits 4 --packed --out my-gpt-4bit
    zoo save ddpm --lora runs/ddpm/adapter --out my-ddpm --json
    """,
)
@click.argument("name", type=MODEL)
@out_option("The folder to write.")
@packed_option
@lora_option
@digests_option
@model_options
@json_option
def save(
    name: str, out: Path, packed: bool, lora: tuple[str, ...], digests: bool, as_json: bool, **loading: Any
) -> None:
    """Write a whole model into a folder, as its library does.

    The weights are in full precision, adapters included; with --packed quantized ones keep their codes and scales.
    """
    model = loaded(name, lora, loading)
    report = merge_active(model, packed) if packed and lora else None
    _write(model, name, out, packed, digests, lora, report, as_json)


@click.command(
    cls=Command,
    examples="""
    zoo merge ddpm --lora runs/ddpm/adapter --out my-ddpm
    zoo merge gpt --bits 4 --lora runs/notes/adapter --packed --out my-gpt-4bit
    zoo merge gpt --lora me/notes --lora me/style --out both --json
    """,
)
@click.argument("name", type=MODEL)
@click.option(
    "--lora", metavar="WHERE", multiple=True, required=True, help="A saved adapter; may be given several times."
)
@out_option("The folder to write.")
@packed_option
@digests_option
@model_options
@json_option
def merge(
    name: str, lora: tuple[str, ...], out: Path, packed: bool, digests: bool, as_json: bool, **loading: Any
) -> None:
    """Merge saved adapters into model NAME, and write it into a folder.

    The result needs no adapter any more. With --packed the changed weights are quantized again, and how much of the
    adapters' effect that loses is printed.
    """
    model = loaded(name, lora, loading)
    _write(model, name, out, packed, digests, lora, merge_active(model, packed), as_json)


def loaded(name: str, lora: tuple[str, ...], loading: dict[str, Any]) -> Model:
    """Return the model with these saved adapters active.

    Args:
        name: of the model.
        lora: the adapters' places.
        loading: the options of `model_options`.

    Raises:
        click.UsageError: one of them is a rank, which says nothing of a saved adapter.
    """
    rank = next((where for where in lora if where.isdecimal()), None)
    if rank is not None:
        raise click.UsageError(f"--lora {rank}: a new adapter changes nothing; give the place of a saved one")
    note(f"loading {name}{''.join(f' with {where}' for where in lora)} …")
    names = [DEFAULT, *(f"adapter{number}" for number in range(2, len(lora) + 1))]
    model = load(name, lora=dict(zip(names, lora, strict=False)) or None, **loading)
    bits = {record.get("bits") for record in model.records.values()} - {None, 32}
    if lora and bits and model.scheme is None:
        made = ", ".join(map(str, sorted(bits, key=str)))
        note(f"made on a base in {made} bit, which this one in full precision is close to: --bits {made} has just that")
    return model


def merge_active(model: Model, packed: bool) -> MergeReport:
    """Merge the active adapters, into quantized weights if they are to be packed, and say what that did."""
    note("merging …")
    again = model.scheme if packed else None
    report = model.merge(bits=again)
    if again is None:  # what quantizing again loses is a warning already
        note(str(report))
    return report


def _write(
    model: Model,
    name: str,
    out: Path,
    packed: bool,
    digests: bool,
    lora: tuple[str, ...],
    report: MergeReport | None,
    as_json: bool,
) -> None:
    """Write the folder, and print what is in it."""
    note(f"writing {out} …")
    folder = model.save(out, packed=packed, digests=digests)
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}
    if as_json:
        facts: dict[str, Any] = {"name": name, "out": folder, "packed": packed, "lora": list(lora), "files": files}
        if report is not None:
            facts["merged"] = {"adapters": dict(report.names), "weights": len(report.weights), "error": report.error}
        print_json(facts)
        return
    note(f"{len(files)} files, {size(sum(files.values()))}")
    place = str(folder) if "/" in str(folder) else f"./{folder}"  # a name without a slash is one of the registry
    note(f"try it: zoo sample {shlex.quote(place)}")
    echo(str(folder))


COMMANDS = (save, merge)
