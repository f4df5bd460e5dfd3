"""Samples that are texts: a list of n strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from zoo.errors import ZooError, printable
from zoo.samples.kind import Content, Kind

if TYPE_CHECKING:
    from rich.console import RenderableType


def _check(data: Any, labels: Sequence[str] | None) -> tuple[list[str], None]:
    if isinstance(data, str) or not all(isinstance(item, str) for item in data):
        raise ZooError(f"expected texts as a list of strings, got {type(data).__name__}")
    return list(data), None


def _text(samples: Content) -> str:
    if len(samples.data) == 1 and samples.captions is None:
        return f"{samples.data[0]}\n"
    names = samples.captions or [str(index + 1) for index in range(len(samples.data))]
    return "\n".join(f"=== {name} ===\n{text}\n" for name, text in zip(names, samples.data, strict=True))


def _html(samples: Content) -> str:
    from html import escape

    captions = samples.captions or [""] * len(samples.data)
    items = (
        f"<figure>{f'<figcaption><b>{escape(caption)}</b></figcaption>' if caption else ''}"
        f'<pre style="white-space: pre-wrap">{escape(text)}</pre></figure>'
        for caption, text in zip(captions, samples.data, strict=True)
    )
    return "".join(items)


def _rich(samples: Content) -> RenderableType:
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    titles = samples.captions or [""] * len(samples.data)
    # Text, not str: brackets in a sample are no markup.
    return Group(
        *(
            Panel(Text(printable(text)), title=Text(printable(title)) if title else None, title_align="left")
            for title, text in zip(titles, samples.data, strict=True)
        )
    )


TEXTS = Kind(
    "text",
    (".txt", ".md"),
    check=_check,
    details=lambda data: "",
    rich=_rich,
    text=_text,
    json=lambda samples: list(samples.data),
    html=_html,
)
