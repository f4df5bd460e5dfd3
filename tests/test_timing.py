"""What the benchmarks make of times: orders, ratios, which run is due, the page of figures."""

from __future__ import annotations

import functools
import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lets a test import the scripts, and no other test find them."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    for name in set(sys.modules) - before:
        if Path(str(getattr(sys.modules[name], "__file__", None))).parent == FOLDER:
            del sys.modules[name]


def test_rounds_rotate_and_reverse() -> None:
    seen: list[str] = []
    calls = {name: functools.partial(seen.append, name) for name in "abc"}
    found = importlib.import_module("timing").interleaved(calls, 6, warm_up=1)
    rounds = ["".join(seen[at : at + 3]) for at in range(0, len(seen), 3)]
    assert rounds == ["abc", "abc", "cba", "bca", "acb", "cab", "bac"]
    assert {name: len(seconds) for name, seconds in found.items()} == {"a": 6, "b": 6, "c": 6}


def test_ratios_are_of_one_round_with_quartiles() -> None:
    floor = [1.0, 2.0, 4.0, 8.0, 16.0]
    seconds = [one * times for one, times in zip(floor, (1, 2, 3, 4, 5), strict=True)]
    shown = importlib.import_module("timing").spread(seconds, floor)
    assert shown == (2.0, 3.0, 4.0)
    assert str(shown) == "3.00 (2.00–4.00)"


def test_what_was_not_measured_or_long_ago_is_due_first(tmp_path: Path) -> None:
    bench = importlib.import_module("bench")
    pieces = [bench.Piece(name, "step.py") for name in ("new", "old", "never", "also never")]
    for name, date in (("old", "2026-11-01 10:00"), ("new", "2026-11-02 09:00")):
        (tmp_path / f"{name}.json").write_text(json.dumps({"date": date}))
    assert [one.name for one in bench.due(pieces, tmp_path)] == ["never", "also never", "old", "new"]


def test_every_subject_is_a_piece() -> None:
    pieces = importlib.import_module("bench").PIECES
    subjects = importlib.import_module("subjects").SUBJECTS
    assert {piece.arguments[1] for piece in pieces if piece.script == "step.py"} == set(subjects)
    assert len({piece.name for piece in pieces}) == len(pieces)


def test_the_page_is_made_of_the_results_that_are_kept() -> None:
    bench, pages = importlib.import_module("bench"), importlib.import_module("bench_page")
    kept = [(piece, bench.read(FOLDER / "results", piece)) for piece in bench.PIECES]
    assert pages.page(kept) == PAGE.read_text(encoding="utf-8")
    measured = [one for _, one in kept if one is not None]
    assert measured
    assert not any(one["quick"] for one in measured)
    floors = re.findall(r"\| frozen floor \| 1 \(", PAGE.read_text(encoding="utf-8"))
    assert len(floors) == sum("figures" in one["result"] for one in measured)
