"""Samples in a terminal, a notebook, a picture and a text, from what their kind shows of each."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from zoo.errors import ZooError, printable
from zoo.samples.kind import Shown
from zoo.samples.pictures import Pixels, encode, grid, to_pictures

if TYPE_CHECKING:
    from rich.console import RenderableType
    from torch import Tensor


def pictures_of(shown: Sequence[Shown], captions: Sequence[str] | None) -> tuple[Tensor, list[str] | None] | None:
    """Return the pictures [n, c, h, w], and a line for each: its most probable class or its caption; None without.

    Raises:
        ZooError: they are not of one size.
    """
    import torch

    found = [one.picture for one in shown if one.picture is not None]
    if not shown or len(found) < len(shown):
        return None
    if any(one.shape != found[0].shape for one in found):
        raise ZooError(f"expected pictures of one size, got {', '.join(sorted({str(tuple(p.shape)) for p in found}))}")
    rows = [one.classes for one in shown]
    lines = [f"{row[0][0]} {row[0][1]:.0%}" for row in rows if row]
    return torch.stack(found), lines if len(lines) == len(shown) else None if captions is None else list(captions)


def text_of(shown: Sequence[Shown], captions: Sequence[str] | None) -> str | None:
    """Return one text as it is, several or captioned ones each under a heading; None where one shows no text."""
    texts = [one.text for one in shown if one.text is not None]
    if len(texts) < len(shown):
        return None
    if len(texts) == 1 and captions is None:
        return f"{texts[0]}\n"
    names = captions or [str(number) for number in range(1, len(texts) + 1)]
    return "\n".join(f"=== {name} ===\n{text}\n" for name, text in zip(names, texts, strict=True))


def rich_of(shown: Sequence[Shown], captions: Sequence[str] | None) -> RenderableType:
    """Return samples for a terminal: pictures as one grid, and of each its text and a line about its clip."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    parts: list[RenderableType] = []
    if (pictures := pictures_of(shown, None)) is not None:
        parts.append(Pixels(grid(pictures[0], captions=None, cell=1)))
    titles = captions or [""] * len(shown)
    for title, one in zip(titles, shown, strict=True):
        clip = None if one.clip is None else f"{one.clip.media_type}, {one.clip.about or f'{len(one.clip.data):,} B'}"
        lines = [line for line in (one.text, clip) if line is not None]
        if lines:  # Text, not str: brackets in a sample are no markup.
            inner = Text(printable("\n".join(lines)))
            parts.append(Panel(inner, title=Text(printable(title)) if title else None, title_align="left"))
    return Group(*parts)


def html_of(shown: Sequence[Shown], captions: Sequence[str] | None) -> str | None:
    """Return samples for a notebook; None where pictures alone are shown, which it has another way for."""
    if not any(one.text is not None or one.clip is not None for one in shown):
        return None
    return "".join(_figure(one, title) for one, title in zip(shown, captions or [""] * len(shown), strict=True))


def _figure(shown: Shown, title: str) -> str:
    parts = [f"<figcaption><b>{escape(title)}</b></figcaption>"] if title else []
    if shown.picture is not None:
        parts.append(f'<img src="{data_address(encode(to_pictures(shown.picture[None])[0]), "image/png")}">')
    if shown.clip is not None:
        address = data_address(shown.clip.data, shown.clip.media_type)
        kind = shown.clip.media_type.partition("/")[0]
        parts.append(f'<img src="{address}">' if kind == "image" else f'<{kind} controls src="{address}"></{kind}>')
    if shown.text is not None:
        parts.append(f'<pre style="white-space: pre-wrap">{escape(shown.text)}</pre>')
    return f"<figure>{''.join(parts)}</figure>"


def data_address(content: bytes, media_type: str) -> str:
    """Return a file as an address that holds it."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
