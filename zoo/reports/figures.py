"""Pictures, texts and samples in a page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING

from zoo.reports.markup import Markup, element
from zoo.samples import Clip, Samples, Shown, data_address, encode, to_pictures

if TYPE_CHECKING:
    from PIL.Image import Image

_SHOWN = 96  # pixels: smaller pictures are enlarged to about this many
_LONGEST = 4000  # characters of a text that are shown


def picture(image: Image, caption: str | None = None, *, enlarge: bool = False, edge: int = _SHOWN) -> Markup:
    """Return a picture with its caption, held in the page itself.

    Args:
        image: any Pillow picture.
        caption: what stands under it.
        enlarge: whether a small one is enlarged by a whole factor and without smoothing.
        edge: to about how many pixels.
    """
    data = base64.b64encode(encode(image)).decode()
    factor = max(1, round(edge / max(image.size))) if enlarge else 1
    shown = element(
        "img",
        src=Markup(f"data:image/png;base64,{data}"),
        alt=caption or "",
        width=image.width * factor,
        class_="pixels" if enlarge else None,
    )
    return element("figure", shown, None if not caption else element("figcaption", caption), class_="picture")


def text_block(text: str) -> Markup:
    """Return a text with its line ends; of a long one, its start."""
    more = len(text) - _LONGEST
    return element("pre", text if more <= 0 else f"{text[:_LONGEST]}\n… ({more:,} characters more)")


def samples_table(ways: Sequence[tuple[str, Samples]], most: int = 16) -> Markup:
    """Return samples of several ways side by side: a line for each way, or for each text, so that they compare.

    Args:
        ways: (what it is called, its samples), such as "before" and "after"; of one kind and drawn with one seed.
        most: samples of each that are shown.
    """
    ways = [(name, samples) for name, samples in ways if len(samples)]
    if not ways:
        return element("p", "There are no samples.", class_="none")
    across = all(only_pictures(samples) for _, samples in ways)
    columns = [(name, sample_cells(samples, most)) for name, samples in ways]
    if across:
        rows = [
            element("tr", element("th", name, scope="row"), *(element("td", one) for one in cells))
            for name, cells in columns
        ]
        return element("div", element("table", element("tbody", *rows), class_="pictures"), class_="scroll")
    told = [samples.captions[:most] for _, samples in ways if samples.captions]
    captions = told[0] if told and all(one == told[0] for one in told) else None
    if told and captions is None:  # each way says something else of its samples
        columns = [
            (name, _captioned(samples, cells)) for (name, samples), (_, cells) in zip(ways, columns, strict=True)
        ]
    count = max(len(cells) for _, cells in columns)
    head = element("tr", element("th", ""), *(element("th", name, scope="col") for name, _ in columns))
    body = [
        element(
            "tr",
            element("th", captions[at] if captions and at < len(captions) else str(at + 1), scope="row"),
            *(element("td", cells[at] if at < len(cells) else "–") for _, cells in columns),
        )
        for at in range(count)
    ]
    inner = element("table", element("thead", head), element("tbody", *body), class_="samples")
    return element("div", inner, class_="scroll")


def _captioned(samples: Samples, cells: Sequence[Markup]) -> list[Markup]:
    """Return samples with their captions above them."""
    captions = samples.captions or [""] * len(samples)
    return [element("div", element("small", one), cell) for one, cell in zip(captions, cells, strict=False)]


def sample_cells(samples: Samples, most: int, edge: int = _SHOWN) -> list[Markup]:
    """Return what is shown of each sample: a picture, a text, the most probable classes, a clip that plays.

    Args:
        samples: what was drawn.
        most: of how many.
        edge: to about how many pixels small pictures are enlarged.
    """
    shown = samples[:most].shown()
    if only_pictures(samples):
        captions = (samples.captions or [""] * len(samples))[:most]
        return [_drawn(one, caption, edge) for one, caption in zip(shown, captions, strict=True)]
    return [_cell(one, edge) for one in shown]


def only_pictures(samples: Samples) -> bool:
    """Return whether a picture is all that is shown of each sample."""
    return all(one.picture is not None and (one.text, one.classes, one.clip) == (None,) * 3 for one in samples.shown())


def _cell(shown: Shown, edge: int) -> Markup:
    parts = [] if shown.picture is None else [_drawn(shown, None, edge if shown.classes is None else _SHOWN)]
    parts += [] if shown.classes is None else [_bars(shown.classes)]
    parts += [] if shown.clip is None else [_player(shown.clip)]
    parts += [] if shown.text is None else [text_block(shown.text)]
    return parts[0] if len(parts) == 1 and shown.classes is None else element("div", *parts, class_="classes")


def _drawn(shown: Shown, caption: str | None, edge: int) -> Markup:
    assert shown.picture is not None
    return picture(to_pictures(shown.picture[None])[0], caption, enlarge=True, edge=edge)


def _player(clip: Clip) -> Markup:
    """Return what plays a clip that the page itself holds."""
    address = Markup(data_address(clip.data, clip.media_type))
    kind = clip.media_type.partition("/")[0]
    if kind == "image":
        played = element("img", src=address, alt=clip.about, width=160)
    elif kind in ("audio", "video"):
        played = element(kind, src=address, controls=True)
    else:
        played = element("a", f"{clip.media_type}, {len(clip.data):,} bytes", href=address, download="")
    return element("figure", played, element("figcaption", clip.about) if clip.about else None, class_="picture")


def _bars(row: Sequence[tuple[str, float]]) -> Markup:
    """Return the most probable classes of a sample, each with a bar."""
    lines = [
        element(
            "tr",
            element("td", label),
            element("td", _bar(value)),
            element("td", f"{value:.1%}", class_="number"),
        )
        for label, value in row
    ]
    return element("table", element("tbody", *lines), class_="bars")


def _bar(share: float) -> Markup:
    whole = element("rect", width=90, height=10, rx=2, class_="rest")
    part = element("rect", width=f"{90 * share:.1f}", height=10, rx=2, class_="c0")
    return element("svg", whole, part, width=90, height=10, class_="bar")
