"""The command that pushes adapters and whole models to the Hub: push."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from zoo.cli.options import bits_option
from zoo.cli.output import Command, echo, json_option, note, print_json
from zoo.cli.ship import loaded, lora_option, merge_active, packed_option
from zoo.errors import AdapterError
from zoo.storage.file_names import ADAPTER_CONFIG


@click.command(
    cls=Command,
    examples="""
    zoo push runs/ddpm/adapter me/ddpm-serif
    zoo push ddpm me/ddpm-serif --private --message "Serif letters"
    zoo push runs/notes/adapter me/notes --branch second --json
    zoo push gpt me/gpt-notes --whole --lora runs/notes/adapter
    zoo push gpt me/gpt-4bit --whole --bits 4 --packed
    """,
)
@click.argument("where", metavar="FOLDER_OR_NAME")
@click.argument("repository", metavar="REPO")
@click.option("--private", is_flag=True, help="Make a new repository private.")
@click.option("--branch", metavar="NAME", help="The branch, created if it is missing [default: main].")
@click.option("--message", metavar="TEXT", help="The commit's message.")
@click.option("--device", metavar="NAME", help="Where the card's samples are drawn [default: the best there is].")
@click.option("--whole", is_flag=True, help="Push the model that FOLDER_OR_NAME is of, as zoo save writes it.")
@lora_option
@packed_option
@bits_option("With --whole: bits per weight [default: the checkpoint's].")
@json_option
def push(
    where: str,
    repository: str,
    device: str | None,
    whole: bool,
    lora: tuple[str, ...],
    packed: bool,
    bits: int | str | None,
    as_json: bool,
    **more: Any,
) -> None:
    """Push a saved adapter, or a whole model, with a model card and samples, to the Hub.

    FOLDER_OR_NAME is a saved adapter's folder, a run's folder with one in it, or the NAME of a run in runs/; with
    --whole a model's name, its folder, or a Hub repository, and saved adapters become part of it. The account is the
    one that `hf auth login` knows, or HF_TOKEN's. Prints the commit's address.
    """
    if not whole and (lora or packed or bits is not None):
        raise click.UsageError("--lora, --packed and --bits are of a whole model: give --whole too")
    folder = None if whole else find(where)
    from zoo.catalog.names import is_repository

    if not is_repository(repository):
        raise click.BadParameter(f"expected a repository written owner/name, got {repository!r}", param_hint="REPO")
    if folder is None:
        model = loaded(where, lora, {"bits": bits, "device": device})
        if packed and lora:
            merge_active(model, packed)
        note(f"pushing to {repository} …")
        result = model.push(repository, whole=True, packed=packed, **more)
    else:
        import zoo
        from zoo.formats.manifest import bits_of, record

        model = zoo.load(str(folder.resolve()), bits=bits_of(record(folder)), device=device)
        result = model.push(repository, **more)
    if as_json:
        print_json(asdict(result))
        return
    note(f"commit {result.sha} on {result.branch}")
    stored = None if packed else model.scheme
    note(f"try it: zoo sample {repository}{'' if stored is None or whole else f' --bits {stored.argument}'}")
    echo(result.url)


def find(where: str) -> Path:
    """Return the adapter's folder: `where` itself, or that of a run.

    Args:
        where: a saved adapter's folder, a run's folder with one in it, or the name of a run in runs/.

    Raises:
        AdapterError: there is no adapter in any of them.
    """
    given = Path(where).expanduser()
    places = (given, given / "adapter", Path("runs") / where / "adapter")
    for place in places:
        if (place / ADAPTER_CONFIG).is_file():
            return place
    raise AdapterError(
        f"no saved adapter in {', '.join(map(str, dict.fromkeys(places)))}: expected a folder with "
        f"{ADAPTER_CONFIG}, as `zoo tune` and model.save_adapter write; a whole model is pushed with --whole"
    )


COMMANDS = (push,)
