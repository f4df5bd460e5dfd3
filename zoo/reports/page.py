"""A page: a title, sections, and one file that any browser opens without a network."""

from __future__ import annotations

import base64
import hashlib
import os
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from zoo.errors import one_line
from zoo.reports.markup import Markup, element, joined
from zoo.storage.atomic import write_text


@dataclass
class Page:
    """A page to which parts are added from top to bottom.

    >>> page = Page("gpt in 4 bit")
    >>> page.section("Quality").add(table(["bits", "perplexity"], [[32, Interval(4.1, 4.0, 4.2)], [4, 4.3]]))
    >>> page.write("report.html")

    Attributes:
        title: the page's heading, and the window's.
        lead: a sentence under it.
        script: JavaScript of ours that the page runs; no other runs, and none has access to a network.
    """

    title: str
    lead: str = ""
    script: str = ""
    parts: list[Markup] = field(default_factory=list)
    sections: list[str] = field(default_factory=list)

    def section(self, title: str) -> Page:
        """Begin a section, which the list at the page's top leads to, and return the page."""
        self.sections.append(title)
        self.parts.append(element("h2", title, id=f"s{len(self.sections)}"))
        return self

    def heading(self, title: str) -> Page:
        """Begin a part of a section, and return the page."""
        return self.add(element("h3", title))

    def text(self, *paragraphs: str) -> Page:
        """Add paragraphs, and return the page."""
        return self.add(*(element("p", paragraph) for paragraph in paragraphs))

    def add(self, *parts: Markup) -> Page:
        """Add what the functions of this package return, and return the page."""
        self.parts += parts
        return self

    def charts(self, *parts: Markup) -> Page:
        """Add charts, beside each other where a window is wide, and return the page."""
        return self.add(element("div", *parts, class_="charts"))

    def html(self) -> str:
        """Return the whole page. Nothing in it loads anything: its own policy forbids that too."""
        style = files("zoo.reports").joinpath("style.css").read_text("utf-8")
        allowed = ["default-src 'none'", "img-src data:", "media-src data:", f"style-src {_digest(style)}"]
        allowed += [f"script-src {_digest(self.script)}"] if self.script else []
        head = [
            element("meta", charset="utf-8"),
            element("meta", http_equiv="Content-Security-Policy", content="; ".join(allowed)),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("title", one_line(self.title, 200)),
            element("style", Markup(style)),
        ]
        links = [element("a", title, href=f"#s{at}") for at, title in enumerate(self.sections, start=1)]
        body = [
            element("h1", self.title),
            *([element("p", self.lead, class_="lead")] if self.lead else []),
            *([element("nav", *links)] if len(links) > 1 else []),
            *self.parts,
        ]
        script = [element("script", Markup(self.script))] if self.script else []
        main = element("main", joined([Markup(""), *body, Markup("")]))
        whole = element("html", element("head", *head), element("body", main, *script), lang="en")
        return f"<!DOCTYPE html>\n{whole}\n"

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the page to a file, whole or not at all, and return its path.

        Raises:
            OutputError: the file cannot be written.
        """
        write_text(path, self.html())
        return Path(path)


def _digest(content: str) -> str:
    """Return a content security policy's name for a style or a script that stands in the page."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
