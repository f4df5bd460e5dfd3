"""Output of the command line: examples under every help, tables, JSON, progress."""

from __future__ import annotations

import inspect
import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click

from zoo.errors import printable

NARROW = 14  # characters of a column, below which a table is none


class Formatter(click.HelpFormatter):
    """Writes helps: on a narrow terminal the column of options gives way to that of their texts."""

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """Write rows of two columns."""
        super().write_dl(list(rows), col_max if self.width >= 50 else max(self.width // 4, 6), col_spacing)


class Context(click.Context):
    """The context of a command, with our formatter."""

    formatter_class = Formatter


class Command(click.Command):
    """A command whose help ends with `examples`."""

    context_class = Context

    def __init__(self, *args: Any, examples: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        write_examples(self.examples, formatter)


class Group(click.Group):
    """A group whose help ends with `examples`, and which suggests the nearest command."""

    context_class = Context

    def __init__(self, *args: Any, examples: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        write_examples(self.examples, formatter)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that `args` name, or fail with the nearest one's name."""
        from zoo.errors import did_you_mean

        name = args[0] if args else ""
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            known = self.list_commands(ctx)
            ctx.fail(f"No such command {name!r}.{did_you_mean(name, known)} The commands are {', '.join(known)}.")
        return super().resolve_command(ctx, args)


def write_examples(examples: str, formatter: click.HelpFormatter) -> None:
    """Write examples, one a line, as a section of a help."""
    with formatter.section("Examples"):
        for line in inspect.cleandoc(examples).splitlines():
            formatter.write(f"  {line}\n")


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option --json to a command, as the argument `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print a text without what a terminal would obey.

    Args:
        text: of one line or several.
        err: to stderr, and not to stdout.
        nl: end the line.
    """
    click.echo(printable(text), err=err, nl=nl)


def print_json(value: Any) -> None:
    """Print `value` as JSON; it may have paths, tuples, and numbers of numpy."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=_plain)
    if printable(text) != text:  # written as JSON writes them
        text = json.dumps(value, indent=2, default=_plain).replace("\x7f", "\\u007f")
    click.echo(text)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return list(value)
    return value.item() if hasattr(value, "item") else str(value)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a header: rich's table on a terminal, else columns padded with spaces.

    On a terminal that is too narrow for columns each row is a paragraph: the first cell, and the others by their names.
    """
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
        if width < NARROW * len(columns):
            for row in rows:
                echo(row[0])
                for label, cell in zip(columns[1:], row[1:], strict=True):
                    echo(_wrapped(f"  {label}: {cell}", 4, width))
            return
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*columns, box=box.SIMPLE_HEAD)
        for row in rows:
            table.add_row(*map(Text, map(printable, row)))
        Console().print(table)
        return
    rows = [[printable(cell).replace("\n", " ") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _wrapped(text: str, indent: int, width: int) -> str:
    """Return a text in lines of at most `width` characters, of which all but the first are indented."""
    rest = " " * indent
    return "\n".join(textwrap.wrap(text, max(width, indent + 10), subsequent_indent=rest, break_on_hyphens=False))


def help_width() -> int | None:
    """Return the width of helps on a terminal that is narrower than click's own least, which is 50; else None."""
    columns = shutil.get_terminal_size().columns
    return max(columns - 1, 20) if columns < 52 else None


def print_facts(facts: Mapping[str, str]) -> None:
    """Print `label  text`, one per line, the texts aligned."""
    width = max(map(len, facts), default=0)
    terminal = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for label, text in facts.items():
        if terminal is None:
            echo(f"{label.ljust(width)}  {text}".rstrip())
        elif terminal < width + NARROW:
            echo(_wrapped(f"{label}: {text}" if text.strip() else label, 2, terminal))
        else:
            echo(_wrapped(f"{label.ljust(width)}  {text}".rstrip(), width + 2, terminal))


def note(message: str) -> None:
    """Print a hint or a progress line to stderr."""
    echo(message, err=True)


@contextmanager
def progress_line(doing: str = "checking") -> Iterator[Callable[[str, str, int, int], None]]:
    """Yield a function (whose, what, number from 0, of how many) that shows progress on stderr.

    On a terminal it is one line that changes; elsewhere a line for each `whose`, after what is being done.
    """
    terminal, last = sys.stderr.isatty(), ""

    def report(whose: str, what: str, number: int, total: int) -> None:
        nonlocal last
        if terminal:
            line = f"{whose} {number + 1}/{total} {what}"
            click.echo(f"\r\x1b[2K{printable(line)[: shutil.get_terminal_size().columns - 1]}", err=True, nl=False)
        elif whose != last:
            note(f"{doing} {whose} …")
        last = whose

    try:
        yield report
    finally:
        if terminal and last:
            click.echo("\r\x1b[2K", err=True, nl=False)


def size(count: float) -> str:
    """Return a number of bytes in a readable unit: 1.4 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
