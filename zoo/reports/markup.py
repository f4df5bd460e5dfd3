"""HTML and SVG elements as text. Whatever is not `Markup` is escaped, so nothing in it can be a tag or a script."""

from __future__ import annotations

from html import escape

from zoo.errors import printable

_EMPTY = frozenset({"br", "circle", "img", "input", "line", "meta", "path", "polyline", "rect"})  # have no children


class Markup(str):
    """Text that is HTML already, made by the functions of this package."""

    __slots__ = ()


def text(value: object) -> Markup:
    """Return `value` as it is shown: escaped unless it is `Markup`, with control characters written out."""
    return value if isinstance(value, Markup) else Markup(escape(_valid(str(value))))


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """Return `<tag …>children</tag>`.

    Args:
        tag: the element's name, of ours.
        children: what stands in it, one after the other; all but `Markup` is escaped, and None is left out.
        attributes: by name, where `class_` is `class` and other `_` are `-`; None is left out, True has no value.
    """
    given = "".join(
        f" {name}" if value is True else f' {name}="{escape(_valid(str(value)))}"'
        for name, value in ((_attribute(name), value) for name, value in attributes.items())
        if value is not None and value is not False
    )
    if tag in _EMPTY:
        return Markup(f"<{tag}{given}>" if tag in ("br", "img", "input", "meta") else f"<{tag}{given}/>")
    return Markup(f"<{tag}{given}>{''.join(text(child) for child in children if child is not None)}</{tag}>")


def joined(parts: list[Markup], between: str = "\n") -> Markup:
    """Return parts one after the other."""
    return Markup(between.join(parts))


def _attribute(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


def _valid(value: str) -> str:
    """Return characters that a file in UTF-8 may have: control characters and halves of pairs are written out."""
    return printable(value).encode("utf-8", errors="backslashreplace").decode()
