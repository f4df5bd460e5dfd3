"""Arguments that are a model's name, which a shell completes, and the command that sets completion up."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem, get_completion_class

from zoo.cli.output import Command, echo, note
from zoo.errors import ZooError

SHELLS = {
    "bash": 'eval "$(zoo completion bash)"  # in ~/.bashrc',
    "zsh": 'eval "$(zoo completion zsh)"  # in ~/.zshrc, after compinit',
    "fish": "zoo completion fish | source  # in ~/.config/fish/config.fish",
}
VARIABLE = "_ZOO_COMPLETE"  # click's, by which a shell asks


class ModelName(click.ParamType):
    """A name of the registry, a folder or a Hub repository."""

    name = "name"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        """Return None: the help shows the argument's own name."""
        return None

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the names that begin so, with what they are of, or files for what looks like a path."""
        from zoo.catalog import registry

        if incomplete.startswith((".", "/", "~")) or "/" in incomplete:
            return [CompletionItem(incomplete, type="file")]
        try:
            found = registry.entries()
        except ZooError:  # a shell has no place for it
            return []
        return [CompletionItem(one.name, help=one.summary) for one in found if one.name.startswith(incomplete)]


MODEL = ModelName()


@click.command(
    cls=Command,
    examples="""
    zoo completion bash
    zoo completion zsh
    zoo completion fish
    """,
)
@click.argument("shell", type=click.Choice(list(SHELLS)))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what lets a SHELL complete commands, options and models' names.

    Nothing is written: the line for the shell's own file is printed to stderr.
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"click knows no completion for {shell}")
    made = kind(context.find_root().command, {}, "zoo", VARIABLE)
    echo(made.source_template % made.source_vars())
    note(f"to have it in every shell: {SHELLS[shell]}")


COMMANDS = (completion,)
