"""The command that writes a model for other programs: export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from zoo.cli.names import MODEL
from zoo.cli.options import model_options
from zoo.cli.output import Command, echo, json_option, note, print_json, size
from zoo.cli.ship import loaded, lora_option, merge_active, out_option

FORMATS = ("native", "packed", "onnx", "torch", "gguf")


@click.command(
    cls=Command,
    examples="""
    zoo export gat --lora runs/gat/adapter --format onnx --out gat.onnx
    zoo export gat --format torch --out gat.pt2 --json
    zoo export gpt --format native --out my-gpt
    zoo export gpt --bits 4 --format packed --out my-gpt-4bit
    """,
)
@click.argument("name", type=MODEL)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(FORMATS),
    default="native",
    show_default=True,
    help="Of what is written.",
)
@out_option("The file to write; for native and packed the folder.")
@lora_option
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    help="How far a file's outputs may be from the model's [default: 1e-4].",
)
@click.option(
    "--converter",
    metavar="COMMAND",
    help="For gguf: llama.cpp's convert_hf_to_gguf.py [default: the one that is installed].",
)
@model_options
@json_option
def export(
    name: str,
    file_format: str,
    out: Path,
    lora: tuple[str, ...],
    tolerance: float | None,
    converter: str | None,
    as_json: bool,
    **loading: Any,
) -> None:
    """Write model NAME as other programs take it, with saved adapters as part of it.

    onnx and torch are a file with one call of the model, which is run on new inputs and compared with the model; a file
    with other outputs is not kept. gguf is written by llama.cpp's own converter, and compared where
    transformers reads it.
    """
    if tolerance is not None and file_format in ("native", "packed"):
        raise click.UsageError(f"--tolerance is of outputs that are compared, and {file_format} is not run")
    if converter is not None and file_format != "gguf":
        raise click.UsageError(f"--converter is of gguf, and {file_format} needs none")
    if file_format == "gguf":  # before a large model is loaded
        from zoo.catalog.names import is_name
        from zoo.catalog.registry import find
        from zoo.formats.gguf import find_converter

        if is_name(name):
            find(name)
        find_converter(converter, name)
    model = loaded(name, lora, loading)
    if file_format == "packed" and lora:
        merge_active(model, packed=True)
    note(f"writing {out} …")
    done = model.export(out, file_format, tolerance=tolerance, converter=converter)
    total = sum(path.stat().st_size for path in (done.path.iterdir() if done.path.is_dir() else [done.path]))
    if as_json:
        facts = {"name": name, "out": done.path, "format": done.format, "lora": list(lora), "bytes": total}
        if done.inputs is not None:
            facts |= {"inputs": done.inputs, "outputs": list(done.outputs)}
        if file_format not in ("native", "packed"):
            facts |= {"error": done.error, "tolerance": done.tolerance, "unread": done.unread}
        print_json(facts)
        return
    note(str(done))
    note(size(total))
    echo(str(done.path))


COMMANDS = (export,)
