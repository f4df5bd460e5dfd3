"""Terminals: narrow ones, without colours, completion of words, names by patterns."""

from __future__ import annotations

import io
import re
import subprocess
import sys

import pytest

import zoo
from zoo.cli import main
from zoo.cli.names import SHELLS


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def run(monkeypatch: pytest.MonkeyPatch, words: list[str], columns: int = 40) -> str:
    """Return what a terminal of some columns shows that wants no colours."""
    shown = Terminal()
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    main(words)
    return shown.getvalue()


@pytest.mark.parametrize(
    "words",
    [
        ["list"],
        ["list", "vit*"],
        ["info", "gpt"],
        ["plugins", "--quick", "gat"],
        ["sample", "--help"],
        ["merge", "--help"],
        ["list", "xit*"],
    ],
    ids=" ".join,
)
def test_nothing_is_wider_than_a_narrow_terminal_or_has_colours(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = run(monkeypatch, words)
    assert text
    assert not re.search(r"\x1b\[[0-9;]*[34]\d[0-9;]*m", text)
    if "--help" in words:  # examples are lines to copy
        text = text.partition("Examples:")[0]
    if words == ["list", "xit*"]:  # an error is one line
        return
    wide = [line for line in text.splitlines() if len(line) > 40 and " " in line.strip()]
    assert not wide


def test_a_wide_terminal_has_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    first = re.sub(r"\x1b\[\d*m", "", run(monkeypatch, ["list", "vit*"], 150)).strip().splitlines()[0].strip()
    assert re.split(r"\s{2,}", first) == ["name", "plugin", "weights", "license", "summary"]


def test_names_by_pattern(capsys: pytest.CaptureFixture[str]) -> None:
    every = [entry.name for entry in zoo.entries()]
    assert zoo.list() == every
    assert zoo.list("VIT*") == [name for name in every if name.startswith("vit")]
    assert set(zoo.list(plugin="gat")) < set(every)
    assert zoo.list("gat", plugin="gat") == ["gat"]
    with pytest.raises(zoo.UnknownNameError, match=r"no model's name matches 'xit\*'. Did you mean 'vit'"):
        zoo.list("xit*")
    with pytest.raises(zoo.UnknownNameError, match="no plugin 'gta'"):
        zoo.list(plugin="gta")
    assert main(["list", "gat*"]) == 0
    assert all(line.startswith(("name ", "gat")) for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize(
    ("words", "word", "expected"),
    [
        ("zoo inf", 1, "plain,info"),
        ("zoo sample vit-t", 2, "plain,vit-tiny"),
        ("zoo export gat --form", 3, "plain,--format"),
        ("zoo export gat --format to", 4, "plain,torch"),
        ("zoo sample ./fol", 2, "file,./fol"),
    ],
)
def test_a_shell_asks(
    words: str, word: int, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("COMP_WORDS", words), ("COMP_CWORD", str(word)), ("_ZOO_COMPLETE", "bash_complete")):
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as done:
        main([])
    assert done.value.code == 0
    assert capsys.readouterr().out.split() == [expected]


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_is_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    out, err = capsys.readouterr()
    assert f"_ZOO_COMPLETE={shell}_complete" in out
    assert f"zoo completion {shell}" in err
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=out, text=True, check=True)


def test_completing_imports_no_torch() -> None:
    code = """
import os, sys
os.environ |= {"COMP_WORDS": "zoo sample g", "COMP_CWORD": "2", "_ZOO_COMPLETE": "bash_complete"}
from zoo.cli import main
try:
    main([])
except SystemExit:
    print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [*(f"plain,{name}" for name in zoo.list("g*")), "False"]
