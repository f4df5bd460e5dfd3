"""The mark `turns`: each case has its day, none is left out, and what a person names runs."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any

import pytest

from .reader import ROOT

NAMES = [f"tests/a.py::test_x[{number}]" for number in range(40)]


class Item(SimpleNamespace):
    """What the mark is looked up on."""

    def get_closest_marker(self, name: str) -> Any:
        return self.marks.get(name)

    def add_marker(self, mark: pytest.MarkDecorator) -> None:
        self.skipped = True


def run_on(monkeypatch: pytest.MonkeyPatch, day: str, slow: bool = True, asked: str = "tests") -> set[str]:
    """Return the names that run on a day."""
    spec = importlib.util.spec_from_file_location("root_conftest", ROOT / "conftest.py")
    conftest = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(conftest)  # type: ignore[union-attr]
    monkeypatch.setenv("ZOO_TEST_DAY", day)
    marks = {"turns": pytest.mark.turns(3).mark} | ({"slow": pytest.mark.slow.mark} if slow else {})
    config = SimpleNamespace(args=[asked])
    items = [Item(nodeid=name, config=config, marks=marks, skipped=False) for name in NAMES]
    conftest._take_turns(items)
    return {item.nodeid for item in items if not item.skipped}


def test_in_three_days_each_case_has_one_turn(monkeypatch):
    days = [run_on(monkeypatch, str(day)) for day in (739_000, 739_001, 739_002)]
    assert sorted(name for day in days for name in day) == sorted(NAMES)
    assert all(days)
    assert run_on(monkeypatch, "739003") == days[0]


def test_all_of_them_run_if_asked_for_and_where_they_are_quick(monkeypatch):
    assert run_on(monkeypatch, "all") == run_on(monkeypatch, "1", slow=False) == set(NAMES)
    assert run_on(monkeypatch, "1", asked="tests/a.py::test_x") == set(NAMES)
