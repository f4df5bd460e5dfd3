"""Nothing that a terminal would obey is printed, whether zoo or a library prints it."""

from __future__ import annotations

import io
import json
import sys
import warnings

import pytest

from zoo import cli
from zoo.cli import output
from zoo.cli.screen import Screen, printable_streams

EVIL = "a\x1b]0;pwned\x07\x1b[31m\x9b2J\u202ex\x08"
PLAIN = r"a\x1b]0;pwned\x07\x1b[31m\x9b2J\u202ex\x08"


def test_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_facts({EVIL: EVIL})
    output.print_table(["name"], [[EVIL]])
    output.note(EVIL)
    output.print_json({EVIL: [EVIL, "\x7f"]})
    seen = capsys.readouterr()
    assert seen.out.startswith(f"{PLAIN}  {PLAIN}\nname\n{PLAIN}\n")
    assert seen.err == PLAIN + "\n"
    for text in (seen.out, seen.err):
        assert not {*text} & {*EVIL[1:], "\x7f"} - {*PLAIN}
    assert json.loads(seen.out.split("\n", 3)[3]) == {EVIL: [EVIL, "\x7f"]}


@pytest.mark.parametrize("words", [[EVIL], ["info", EVIL], ["sample", "gpt", "-o", EVIL], ["list", f"--{EVIL}"]])
def test_what_was_typed(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) != 0
    seen = capsys.readouterr()
    assert "pwned" in seen.err
    assert not {*seen.out, *seen.err} & {"\x1b", "\x07", "\x9b", "\u202e", "\x08"}


def test_what_a_library_prints(capsys: pytest.CaptureFixture[str]) -> None:
    with printable_streams():
        print(EVIL)
        print(EVIL, file=sys.stderr)
        warnings.showwarning(UserWarning(EVIL), UserWarning, "x.py", 1)
    seen = capsys.readouterr()
    assert seen.out == PLAIN + "\n"
    assert PLAIN in seen.err
    assert "\x1b" not in seen.err
    assert not isinstance(sys.stdout, Screen)


def test_progress_moves_the_cursor_of_a_terminal_and_nothing_else() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, passed in ((Terminal(), "\r\x1b[2K\x1b[1A\x1b[32m"), (io.StringIO(), "\r")):
        Screen(stream).write("\r\x1b[2K\x1b[1A\x1b[32m" + EVIL[:8])
        assert stream.getvalue().startswith(passed)
        assert "\x1b]" not in stream.getvalue()
