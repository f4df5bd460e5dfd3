"""`zoo chat`: a conversation with a model in the terminal, or through a pipe."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.model_commands import load, parse_options
from zoo.cli.names import MODEL
from zoo.cli.options import model_options
from zoo.cli.output import Command, echo, note
from zoo.errors import ZooError

if TYPE_CHECKING:
    from zoo.model import Model

Messages = list[dict[str, str]]
EXIT, RESET = "/exit", "/reset"


@click.command(
    cls=Command,
    examples="""
    zoo chat gpt
    zoo chat gpt --bits 4 --lora runs/gpt/adapter --system "Answer in one line."
    zoo chat gpt --seed 0 -o max_new_tokens=30
    """,
)
@click.argument("name", type=MODEL)
@click.option("--seed", type=int, help="The same seed gives the same answers; each turn counts it up by 1.")
@click.option("--lora", metavar="WHERE", help="A saved adapter: a folder or a Hub repository.")
@click.option("--system", metavar="TEXT", help="What the model is told before the conversation.")
@click.option(
    "--stop", metavar="TEXT", multiple=True, default=("\nUser:",), help='Where an answer ends [a line "User:"].'
)
@click.option("-o", "--option", "options", metavar="KEY=VALUE", multiple=True, help="An option of the model's own.")
@model_options
def chat(
    name: str,
    seed: int | None,
    lora: str | None,
    system: str | None,
    stop: tuple[str, ...],
    options: tuple[str, ...],
    **loading: Any,
) -> None:
    """Talk with a model: a line is a message, /reset begins anew, /exit or the end of the input ends it.

    Messages are written by the model's chat template; for a model without one, as "User: …" and "Assistant: …". Answers
    go to stdout, everything else to stderr.
    """
    chosen = parse_options(options)
    model = load(name, lora=lora, **loading)
    check(model)
    said: Messages = [] if system is None else [{"role": "system", "content": system}]
    talk = list(said)
    terminal = sys.stdin.isatty()
    if terminal:
        note(f"{RESET} forgets the conversation, {EXIT} ends it")
    turn = 0
    while (line := _line(terminal)) is not None:
        if line == EXIT:
            return
        if line == RESET:
            talk = list(said)
            continue
        if line.startswith("/"):
            note(f"there is no {line.split()[0]}: {RESET} forgets the conversation, {EXIT} ends it")
            continue
        if not line:
            continue
        talk.append({"role": "user", "content": line})
        own = {} if seed is None else {"seed": seed + turn}
        try:
            answer = _answer(model, talk, stop, {**own, **chosen})
        except ZooError as error:
            if not terminal:
                raise
            talk.pop()
            note(f"error: {error} ({RESET} forgets the conversation)")
            continue
        talk.append({"role": "assistant", "content": answer})
        turn += 1


def check(model: Model) -> None:
    """Raise `ZooError` if a model takes no messages."""
    from zoo.plugin import hooks

    known = [option.name for option in hooks.options_of(model) or ()]
    if "messages" not in known:
        raise ZooError(f"{model.entry.name} takes no messages: `zoo sample {model.entry.name}` draws from it")


def _answer(model: Model, talk: Messages, stop: tuple[str, ...], options: dict[str, Any]) -> str:
    pieces = []
    for piece in model.stream(stop=stop, messages=talk, **options):
        pieces.append(piece)
        echo(piece, nl=False)
        sys.stdout.flush()
    echo("")
    return "".join(pieces)


def _line(terminal: bool) -> str | None:
    """Return what the user says next; None at the end of the input."""
    if terminal:
        coloured = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
        click.echo(click.style("> ", fg="cyan", bold=True) if coloured else "> ", err=True, nl=False)
    line = sys.stdin.readline()
    if not line:
        if terminal:
            note("")
        return None
    return line.strip()


COMMANDS = (chat,)
