"""The bar of samplers of many steps."""

from __future__ import annotations

from zoo.samples.progress import track


def test_items_come_through_and_nothing_is_shown_without_a_terminal(capfd):
    assert list(track([3, 1, 2], "sampling 4")) == [3, 1, 2]
    assert capfd.readouterr() == ("", "")


def test_a_terminal_shows_a_bar_on_stderr(capfd, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert list(track([3, 1, 2], "sampling 4")) == [3, 1, 2]
    shown = capfd.readouterr()
    assert "sampling 4" in shown.err
    assert not shown.out
