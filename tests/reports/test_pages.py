"""Pages: what stands in them is shown and nothing else; they load nothing; a browser draws them."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image

from zoo.reports import (
    Interval,
    Page,
    Point,
    Series,
    byte_size,
    curves,
    duration,
    element,
    facts,
    number,
    picture,
    points,
    samples_table,
    table,
    text_block,
)
from zoo.reports.axes import axis
from zoo.reports.charts import smooth
from zoo.samples import Samples

EVIL = (
    "</pre></style><script>document.title='run'</script><img src=x onerror=\"document.title='run'\">\x00\x1b\ud800&\""
)
BROWSER = next(
    (found for name in ("chromium", "google-chrome", "chromium-browser") if (found := shutil.which(name))), None
)


class Reader(HTMLParser):
    """What a page holds: its tags, their attributes, and its text; every tag that opens is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.values: list[str] = []
        self.said: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.values += [f"{name}={value}" for name, value in attrs]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.values += [f"{name}={value}" for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said.append(data)


def whole(said: str = "a text", script: str = "") -> Page:
    """A page with one of everything, all of which says `said`."""
    page = Page(said, lead=said, script=script)
    page.section(said).heading(said).text(said).add(facts({said: said, "none": None, "nested": {said: [said, 1]}}))
    page.add(table([said, "figure"], [[said, Interval(1.0, 0.9, 1.1)], [said, None]], caption=said))
    steps = list(range(2000))
    page.section("Curves").charts(
        curves(
            [
                Series(said, steps, [math.exp(-step / 500) for step in steps], faint=True),
                Series(said, [0, 1000, 1999], [1, math.nan, 0.5], [0.9, 0, 0.4], [1.1, 0, math.inf]),
            ],
            x=said,
            y=said,
            marks={1000: said},
        ),
        points(
            [Point(said, 1e3, 2.0, said, y_interval=(1.5, 2.5)), Point(said, 1e5, 1.0, "b", x_interval=(1e4, 1e6))],
            x=said,
            y=said,
            log_x=True,
            joined=True,
        ),
    )
    page.section("Samples").add(text_block(said), picture(Image.new("RGB", (4, 4), "red"), said, enlarge=True))
    page.add(
        samples_table(
            [
                (said, Samples(torch.rand(2, 3, 8, 8), "image", [said, said])),
                ("b", Samples(torch.rand(2, 1, 8, 8), "image")),
            ]
        )
    )
    page.add(samples_table([(said, Samples([said, said], "text")), ("b", Samples([said], "text"))]))
    chances = Samples(
        torch.tensor([[0.25, 0.75]]), "posterior", [said], labels=[said, "y"], images=torch.rand(1, 1, 8, 8)
    )
    return page.add(samples_table([(said, chances)]))


def test_a_page_holds_what_it_was_given_and_loads_nothing() -> None:
    reader = Reader()
    html = whole().html()
    reader.feed(html)
    assert reader.open == []
    assert "script" not in reader.tags
    assert {"table", "svg", "polyline", "path", "img", "pre", "figure"} <= set(reader.tags)
    assert not re.search(r"(?:src|href|action)=\"(?!data:|#)|url\(|@import|https?:", html)
    text = " ".join(reader.said)
    assert "1.000" in text and "0.9000 … 1.100" in text  # noqa: PT018
    assert max(len(value) for value in reader.values if value.startswith("points=")) < 20_000, (
        "2,000 steps are drawn by fewer"
    )


def test_nothing_that_a_page_says_is_markup_or_breaks_it(tmp_path: Path) -> None:
    harmless, hostile = Reader(), Reader()
    harmless.feed(whole().html())
    hostile.feed(whole(EVIL).html())
    assert hostile.tags == harmless.tags
    assert hostile.open == []
    assert not [value for value in hostile.values if value.startswith("onerror")]
    path = whole(EVIL).write(tmp_path / "page.html")
    assert not re.search("[\x00-\x08\x0b-\x1f]", path.read_text("utf-8"))


def test_empty_and_odd_values_have_a_page_too() -> None:
    page = Page("").add(facts({}), table(["a"], []), samples_table([]), samples_table([("a", Samples([], "text"))]))
    page.charts(
        curves([], x="x", y="y"), curves([Series("a", [1], [math.nan])], x="x", y="y"), points([], x="x", y="y")
    )
    page.charts(curves([Series("a", [3], [7])], x="x", y="y", log_y=True))
    page.charts(points([Point("a", -1, 1), Point("b", 0, 1)], x="x", y="y", log_x=True))
    assert page.html().count("There are no values to draw.") == 4
    assert "nan" not in page.html()


@pytest.mark.parametrize("values", [[0, 1], [1, 1], [0, 0], [-3, 1e-9], [1e-12, 1e12], [5e9, 5e9 + 1], [-1e-5, -2e-5]])
@pytest.mark.parametrize("log", [False, True])
def test_an_axis_shows_all_values_with_some_ticks(values: list[float], log: bool) -> None:
    found = axis(values, log=log)
    assert all(0 <= found.place(value) <= 1 for value in values if value > 0 or not found.log)
    assert 2 <= len(found.ticks) <= 14
    assert len({found.label(tick) for tick in found.ticks}) == len(found.ticks)


def test_numbers_are_written_with_what_counts() -> None:
    assert [number(value) for value in (0.0, 0.012345, 12345.6, 7, True, 1.23e-9, math.nan)] == [
        "0", "0.01235", "12,346", "7", "yes", "1.230e-09", "nan"]  # fmt: skip
    assert [byte_size(count) for count in (0, 999, 1000, 1_250_000, 7e9)] == [
        "0 B",
        "999 B",
        "1.00 kB",
        "1.25 MB",
        "7.00 GB",
    ]
    assert [duration(seconds) for seconds in (0.0123, 12.3, 200, 7500)] == [
        "0.0123 s",
        "12.3 s",
        "3 min 20 s",
        "2 h 05 min",
    ]
    assert str(Interval(1.5, 1.0, 2.0)) == "1.500 [1.000, 2.000]"
    assert smooth([1.0, math.nan, 1.0]) == [1, 1, 1]


@pytest.mark.skipif(BROWSER is None, reason="no chromium and no google-chrome here")
@pytest.mark.parametrize("said", ["a text", EVIL], ids=["harmless", "hostile"])
def test_a_browser_draws_the_page_and_runs_its_own_script_only(said: str, tmp_path: Path) -> None:
    script = "document.body.append(document.querySelectorAll('svg.bar, figure.chart svg').length + ' charts drawn')"
    path = whole(said, script).add(element("p", "the end")).write(tmp_path / "page.html")
    done = browse(path, tmp_path)
    assert "4 charts drawn" in done
    assert "the end" in done
    assert "<title>run</title>" not in done


def test_captions_that_differ_stand_with_their_own_samples() -> None:
    same, other = (Samples(["a", "b"], "text", captions) for captions in (["one", "two"], ["one", "three"]))
    for ways, rows in (((same, same), ["one", "two"]), ((same, other), ["1", "2"])):
        made = samples_table([("x", ways[0]), ("y", ways[1])])
        assert re.findall(r'scope="row">([^<]*)<', made) == rows
    assert made.index("<small>two</small>") < made.index("<small>three</small>")


def browse(path: Path, home: Path) -> str:
    """Return a page as the browser has it after its scripts."""
    command = [
        str(BROWSER),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--dump-dom",
        f"--user-data-dir={home / 'browser'}",
    ]
    done = subprocess.run([*command, path.as_uri()], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout
