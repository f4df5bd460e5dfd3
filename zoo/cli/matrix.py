"""The verb that runs every other verb on every architecture: matrix."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from zoo.cli.output import Command, json_option, note, print_json, print_table

if TYPE_CHECKING:
    from zoo.cli.matrix_run import Cell

_MARKS = {True: "yes", False: "NO", None: "–"}


@click.command(
    cls=Command,
    examples="""
    zoo matrix
    zoo matrix ddpm gpt --json
    zoo matrix ddpm --backend inductor
    """,
)
@click.argument("names", nargs=-1)
@click.option("--backend", default="eager", show_default=True, help="What torch.compile hands its graphs to.")
@json_option
def matrix(names: tuple[str, ...], backend: str, as_json: bool) -> None:
    """Run every verb in every precision, with and without LoRA; say what holds.

    NAMES are registry names (default: all whose weights a plugin carries). Takes about a minute for each. Exits with 1
    where something did not hold.
    """
    from zoo.catalog import registry

    for name in names:
        registry.find(name)  # an unknown name should not wait for torch
    from zoo.cli import matrix_run as run

    cells: list[Cell] = []
    for name in names or run.names():
        for bits in run.BITS:
            for lora in run.LORA:
                note(f"{name}, {bits} bit, {'LoRA' if lora else 'no adapter'}")
                cells += run.check(name, bits, lora, backend=backend)
    if as_json:
        print_json([asdict(cell) for cell in cells])
    else:
        rows: dict[tuple[str, str, str], list[str]] = {}
        for cell in cells:
            key = (cell.name, str(cell.bits), "LoRA" if cell.lora else "–")
            rows.setdefault(key, []).append(_MARKS[cell.held])
        print_table(("name", "bits", "adapter", *run.VERBS), [(*key, *marks) for key, marks in rows.items()])
        for why in dict.fromkeys(cell.why for cell in cells if cell.held is None):
            note(f"– {why}")
    for cell in cells:
        if cell.held is False:
            note(f"NO {cell.name}, {cell.bits} bit, {'LoRA' if cell.lora else 'no adapter'}, {cell.verb}: {cell.why}")
    if any(cell.held is False for cell in cells):
        click.get_current_context().exit(1)


COMMANDS = (matrix,)
