"""The command `zoo`: data go to stdout, progress and errors to stderr; no traceback unless `ZOO_STRICT=1`.

Exit codes: 0 success, 1 failure, 2 wrong usage, 130 interrupted, 143 and 129 stopped by SIGTERM and SIGHUP. Nothing
here imports torch: a verb's own modules are imported when it runs.

Imports: everything of zoo, inside the verbs. Start with `model_commands.py`.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from zoo._version import __version__
from zoo.cli.commands import Commands
from zoo.cli.output import Group, echo, help_width
from zoo.cli.screen import printable_streams
from zoo.errors import ZooError, one_line

# Command → the module of this package that has it, imported when the command is first asked for.
MODULES = {
    "chat": "chat",
    "compare": "compare",
    "completion": "names",
    "data": "data",
    "demo": "model_commands",
    "evaluate": "evaluate",
    "export": "export",
    "info": "info_commands",
    "list": "info_commands",
    "matrix": "matrix",
    "merge": "ship",
    "new-plugin": "new_plugin",
    "plan": "plan",
    "play": "play",
    "plugins": "info_commands",
    "push": "push",
    "sample": "model_commands",
    "save": "ship",
    "sensitivity": "sensitivity",
    "serve": "serve",
    "tune": "tune",
}


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    examples="""
    zoo list
    zoo info ddpm-cifar10 --bits 4
    zoo sample ddpm -n 16 --out letters.png
    zoo tune ddpm --data letters:serif --bits 4 --lora 8 --steps 200
    zoo plan llama-3-70b --lora 16 --gpu 80GB
    zoo demo
    """,
)
@click.version_option(__version__, "--version", prog_name="zoo")
def command_line() -> None:
    """Load any model in 4 bit with LoRA, sample it, tune it, save it."""


# Click wants a mapping that it can add to; nothing is added here.
command_line.commands = Commands(MODULES)  # type: ignore[assignment]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: the words after `zoo`; default those of this process.
    """
    with printable_streams():
        return _main(list(sys.argv[1:] if arguments is None else arguments))


def _main(words: Sequence[str]) -> int:
    try:
        given: dict[str, Any] = {"obj": tuple(words), "terminal_width": help_width()}
        return _exit_code(command_line.main(list(words), prog_name="zoo", standalone_mode=False, **given))
    except click.ClickException as error:
        said = io.StringIO()
        error.show(said)
        echo(said.getvalue(), err=True, nl=False)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        echo("interrupted", err=True)
        return 130
    except (ZooError, OSError) as error:
        return _failed(error, one_line(error))
    except Exception as error:
        kind = type(error).__name__
        return _failed(error, f"{kind}: {one_line(error)} (not a mistake of yours: ZOO_STRICT=1 shows where)")


def _failed(error: Exception, message: str) -> int:
    if os.environ.get("ZOO_STRICT", "") not in ("", "0"):
        sys.stdout.flush()
        raise error
    echo(f"error: {message}", err=True)
    return 1


def _exit_code(result: object) -> int:
    """Return the exit code: click returns a command's result, or the code that it exited with."""
    return result if isinstance(result, int) else 0
