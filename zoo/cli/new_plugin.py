"""The command that writes a plugin's package: new-plugin."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from zoo.cli.output import Command, echo, json_option, note, print_json

_KINDS = ("architecture", "quantizer", "adapter")
_TRY = {
    "architecture": "zoo sample {name} --seed 0",
    "quantizer": "zoo plugins --check {name}",
    "adapter": "zoo plugins --check {name}",
}


@click.command(
    "new-plugin",
    cls=Command,
    examples="""
    zoo new-plugin mixer
    zoo new-plugin blocks --kind quantizer
    zoo new-plugin gains --kind adapter --out plugins/gains --json
    """,
)
@click.argument("name")
@click.option("--kind", type=click.Choice(_KINDS), default=_KINDS[0], show_default=True, help="What it brings to zoo.")
@click.option("--out", type=click.Path(path_type=Path), help="The folder to write [default: zoo-NAME].")
@json_option
def new_plugin(name: str, kind: str, out: Path | None, as_json: bool) -> None:
    """Write a working plugin called NAME: a package with hooks, tests and a README, to put your own code into."""
    from zoo.cli import scaffold

    folder, written = scaffold.write(name, kind, out)
    where = shlex.quote(str(folder))
    commands = [f"pip install -e {shlex.quote(f'{folder}[test]')}", f"pytest {where}", _TRY[kind].format(name=name)]
    if as_json:
        print_json({"name": name, "kind": kind, "folder": folder, "files": written, "next": commands})
        return
    for path in written:
        echo(str(folder / path))
    note("next:\n" + "\n".join(f"  {command}" for command in commands))


COMMANDS = (new_plugin,)
