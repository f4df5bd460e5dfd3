"""What was drawn, side by side, as the page and its downloads have it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from zoo.comparison.outputs import apart
from zoo.comparison.quality import Quality
from zoo.comparison.tables import differences, qualities
from zoo.playground.session import BASE, DRAWN, MOST, Drawn
from zoo.reports import Interval, Markup, element, only_pictures, sample_cells, table

FEW = 8  # pictures of a way that are shown large
_BESIDE = 3  # ways in a row at most, where there is room
_LARGE, _SMALL = 160, 96  # pixels of a small picture's edge, enlarged


def side_by_side(drawn: Sequence[Drawn]) -> Markup:
    """Return the samples of each way: pictures in rows, one under the other; of others, sample beside sample.

    Everything wraps where a window is narrow.
    """
    if all(only_pictures(one.samples) for one in drawn):
        return _shown(*(_pictures(one, named=len(drawn) > 1) for one in drawn))
    cells = [sample_cells(one.samples, MOST) for one in drawn]
    captions = [one.samples.captions or [] for one in drawn]
    shared = all(one == captions[0] for one in captions)
    lines = []
    for at in range(max(map(len, cells))):
        beside = [
            element(
                "div",
                element("h5", one.label) if len(drawn) > 1 else None,
                None if shared or at >= len(said) else element("small", said[at]),
                own[at] if at < len(own) else element("p", "–"),
                class_="way",
            )
            for one, own, said in zip(drawn, cells, captions, strict=True)
        ]
        above = captions[0][at] if shared and at < len(captions[0]) else str(at + 1)
        columns = -(-len(drawn) // -(-len(drawn) // _BESIDE))  # of equal length
        row = element("div", *beside, class_="ways", style=f"--columns: {columns}")
        lines.append(element("section", element("h4", above), row))
    return _shown(*lines)


def apart_table(drawn: Sequence[Drawn]) -> Markup | None:
    """Return how far each way's samples are from the base's, or else the first way's; None if nothing is comparable."""
    reference = next((one for one in drawn if one.label == BASE), drawn[0])
    rows, what = [], ""
    for one in drawn:
        found = None if one is reference else apart(one.samples, reference.samples)
        if found is not None:
            ends = (min(found.values), max(found.values))
            rows.append([one.label, Interval(found.mean, *ends, level=1.0), f"{found.equal} of {len(found.values)}"])
            what = found.what
    if not rows:
        return None
    caption = f"How far from “{reference.label}” at the same seed: {what}. Mean, and from the least to the most."
    return _shown(table(["way", "apart", "equal samples"], rows, caption=caption))


def measured(ways: Sequence[Quality]) -> Markup:
    """Return the figures of each way and, of several, how they differ from the first one's in pairs."""
    return _shown(qualities(ways), differences(ways) if len(ways) > 1 else None)


def note(text: str) -> Markup:
    """Return a line that stands where nothing is yet."""
    return _shown(element("p", text, class_="none"))


def written(drawn: Sequence[Drawn], seed: int, folder: Path) -> list[str]:
    """Write each way's samples into files, and return their paths."""
    paths: list[Path] = []
    for number, one in enumerate(drawn, start=1):
        words = re.sub(r"[^\w.-]+", "-", one.label.replace("×", "x")).strip("-.")[:60]
        kind, place = one.samples.sample_kind, folder / f"{number}-{words or DRAWN}-seed{seed}"
        suffixes = dict.fromkeys((one.samples.suffixes[0], *kind.files))
        if kind.single:
            paths += sorted(one.samples.save(f"{place}/").iterdir())
        paths += [
            one.samples.save(Path(f"{place}{suffix}"))
            for suffix in suffixes
            if suffix not in kind.single or len(one.samples) == 1
        ]
    return [str(path) for path in paths]


def _pictures(drawn: Drawn, named: bool) -> Markup:
    samples = drawn.samples
    cells = sample_cells(samples, MOST, _LARGE if len(samples) <= FEW else _SMALL)
    return element("section", element("h4", drawn.label) if named else None, element("div", *cells, class_="grid"))


def _shown(*parts: Markup | None) -> Markup:
    return element("div", *parts, class_="zoo-shown")
