from __future__ import annotations

import io

import pytest

from zoo.cli import main


def talk(monkeypatch: pytest.MonkeyPatch, lines: str, *words: str) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    return main(["chat", *words, "-o", "max_new_tokens=8", "--seed", "0"])


def test_a_conversation_through_a_pipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert talk(monkeypatch, "Hello\n\n/waht\n/reset\nHello\n/exit\nno\n", "gpt", "--system", "Be brief.") == 0
    out, err = capsys.readouterr()
    assert out.strip()
    assert "there is no /waht" in err
    assert "\x1b" not in out + err


def test_only_models_that_take_messages_talk(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert talk(monkeypatch, "Hello\n", "vit") == 1
    assert "vit takes no messages: `zoo sample vit`" in capsys.readouterr().err


def test_a_text_is_printed_as_it_comes(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sample", "gpt", "--seed", "1", "-o", "prompt=The list", "-o", "max_new_tokens=8"]
    assert main(words) == 0
    whole = capsys.readouterr().out
    assert main([*words, "--stream"]) == 0
    assert capsys.readouterr().out == whole
    assert main([*words, "--stream", "-n", "2"]) == 2
