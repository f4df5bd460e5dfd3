"""A page on which a person chooses between samples of two ways without knowing which is which."""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files
from itertools import combinations
from typing import TYPE_CHECKING

from zoo.comparison.grid import BASE, FULL, LORA
from zoo.reports import Markup, Page, element, only_pictures, sample_cells
from zoo.samples import Samples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo.comparison.results import Cell, Comparison


def blind_page(found: Comparison) -> Page:
    """Return the page: it works from its file alone, counts the picks with Wilson's interval, and saves them."""
    drawn = [(cell, samples) for cell in found.measured if (samples := cell.samples) is not None and len(samples)]
    page = Page(f"{found.plan.name}: which is better?")
    page.lead = (
        "Two samples from the same seed, one of each of two ways; which is left and which is right is drawn anew each "
        "time. Click the better one, or press ← or →."
    )
    if len(drawn) < 2:
        return page.text("There are not two ways with samples to choose between.")
    names = [cell.way.name for cell, _ in drawn]
    count = min(len(samples) for _, samples in drawn)
    page.add(_controls([cell for cell, _ in drawn]))
    page.add(
        element(
            "div",
            *(element("div", id=side, role="button", tabindex=0, aria_label=side) for side in ("left", "right")),
            class_="choices",
        )
    )
    page.add(
        element("p", "0 picked", id="count", class_="none"), _results(), _store(names, [one for _, one in drawn], count)
    )
    page.script = files("zoo.comparison").joinpath("blind.js").read_text("utf-8")
    return page


def _controls(cells: Sequence[Cell]) -> Markup:
    """Return the choice of two ways, the one that most ask for first, and the buttons."""
    usual = _usual(cells)
    options = [
        element("option", f"{cells[a].way.name}  and  {cells[b].way.name}", value=f"{a}-{b}", selected=(a, b) == usual)
        for a, b in combinations(range(len(cells)), 2)
    ]
    options.append(element("option", "any two", value="all"))
    buttons = [("show", "Show the results"), ("save", "Save the picks"), ("again", "Start again")]
    return element(
        "p",
        element("label", "Between ", element("select", *options, id="pair")),
        *(element("button", text, id=name, type="button") for name, text in buttons),
        class_="controls",
    )


def _usual(cells: Sequence[Cell]) -> tuple[int, int]:
    """Return the numbers of two ways: full fine-tuning, or else the first way, and LoRA in the fewest bits."""
    order = sorted(
        range(len(cells)), key=lambda at: (cells[at].way.kind != LORA, cells[at].way.bits, cells[at].way.merged)
    )
    small = order[0]
    whole = next((at for at, cell in enumerate(cells) if cell.way.kind == FULL), None)
    if whole is None:
        whole = next((at for at, cell in enumerate(cells) if cell.way.kind == BASE and at != small), None)
    if whole is None or whole == small:
        whole = next(at for at in range(len(cells)) if at != small)
    return (min(small, whole), max(small, whole))


def _results() -> Markup:
    heads = ("picked", "times", "share", "95 % interval (Wilson)")
    return element(
        "div",
        element("h2", "Results"),
        element(
            "table",
            element("thead", element("tr", *(element("th", head, scope="col") for head in heads))),
            element("tbody", id="rows"),
        ),
        id="results",
        hidden=True,
    )


def _store(names: Sequence[str], samples: Sequence[Samples], count: int) -> Markup:
    """Return every sample once, hidden, for the script to show."""
    listed = element("div", *(element("span", data_name=name) for name in names), id="ways")
    held = [
        element("div", _captioned(one, at, cell), data_way=way, data_at=at)
        for way, one in enumerate(samples)
        for at, cell in enumerate(sample_cells(one, count))
    ]
    key = hashlib.sha256(json.dumps([list(names), *map(str, held)]).encode()).hexdigest()[:16]
    return element("div", listed, *held, id="store", data_count=count, data_key=key, hidden=True)


def _captioned(samples: Samples, at: int, cell: Markup) -> Markup:
    """Return a sample with its caption, which pictures have already."""
    if only_pictures(samples) or not samples.captions:
        return cell
    return element("div", element("p", samples.captions[at], class_="none"), cell)
