"""Write Markdown with untrusted text: nothing in the text becomes markup, a link or a script."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.bounded.yaml_text import yaml_value

BEGIN = "<!-- zoo: from here to the end mark, written anew at each push -->"
END = "<!-- zoo: end -->"

_PLAIN = re.compile(r"[A-Za-z0-9 ,;%/=()'…–→×\u00c0-\u024f]")
_FRONT = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)


def inline(value: object, longest: int = 200) -> str:
    """Return `value` as text within a line: characters that could be Markdown or HTML are written as entities."""
    text = "".join(c for c in " ".join(str(value).split()) if c.isprintable())
    text = text if len(text) <= longest else text[: longest - 1] + "…"
    return "".join(c if _is_plain(text, place) else f"&#{ord(c)};" for place, c in enumerate(text))


def _is_plain(text: str, place: int) -> bool:
    """Return whether a character has no special meaning there. Dots and colons may make a link (www., http://)."""
    c, before, after = text[place], text[place - 1 : place], text[place + 1 : place + 2]
    if c == ":":
        return after != "/"
    if c in "._-+":
        return before.isalnum() and after.isalnum() and not text[:place].lower().endswith("www")
    return _PLAIN.match(c) is not None


def block(text: str, language: str = "text") -> str:
    """Return `text` as a fenced code block, with a fence that does not occur in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    shown = "".join(c for c in text.rstrip() if c == "\n" or c.isprintable() or c == "\t")
    return f"{fence}{language}\n{shown.replace('<!--', '< !--')}\n{fence}"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table whose cells are plain text."""
    lines = [list(head), ["---"] * len(head)]
    shown = [[inline(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [*lines, *shown])


def compose(existing: str | None, metadata: Mapping[str, Any], body: str) -> str | None:
    """Return the README with our metadata and, between our marks, our text; everything else stays.

    Existing metadata stays unless ours has the same key; tags are merged, and an existing licence takes precedence.
    Returns None if the existing metadata cannot be parsed: that README is better left alone.

    Args:
        existing: the present README, if there is one.
        metadata: ours, for its YAML header.
        body: our text.
    """
    theirs, text = split(existing or "")
    if theirs is None:
        return None
    merged = {**theirs, **metadata}
    tags = theirs.get("tags")
    merged["tags"] = list(dict.fromkeys([*(tags if isinstance(tags, list) else ()), *metadata.get("tags", ())]))
    if "license" in theirs:
        merged |= {key: theirs[key] for key in ("license", "license_name", "license_link") if key in theirs}
        if "license_name" not in theirs:
            merged.pop("license_name", None)
    ours = f"{BEGIN}\n{body.strip()}\n{END}\n"
    start, end = text.find(BEGIN), text.rfind(END)
    if 0 <= start < end:
        text = text[:start] + ours + text[end + len(END) :].lstrip("\n")
    else:
        text = f"{text.rstrip()}\n\n{ours}" if text.strip() else ours
    return f"---\n{_dump(merged)}---\n\n{text.lstrip()}"


def split(text: str) -> tuple[dict[str, Any] | None, str]:
    """Return a README's metadata and the text below it; None for metadata that is no mapping in YAML."""
    found = _FRONT.match(text)
    if found is None:
        return {}, text
    try:
        metadata = yaml_value(found[1])
    except ValueError:
        return None, text
    if metadata is None:
        metadata = {}
    return (metadata if isinstance(metadata, dict) else None), text[found.end() :]


def _dump(metadata: Mapping[str, Any]) -> str:
    from huggingface_hub.utils import yaml_dump

    return str(yaml_dump(dict(metadata), sort_keys=False, line_break="\n"))
