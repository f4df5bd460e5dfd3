"""What `make docs` adds to mkdocs: pages from outside docs/, the API reference, and links as the site needs them.

A link of the README to docs/hub.md is right on GitHub, and has to be another one on the site. Links to what is no page
of the site, such as a source file, become plain text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any, NamedTuple

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import zoo

ROOT = Path(__file__).resolve().parents[1]
# Page of the site → file of the repository.
OUTSIDE = {
    "index.md": "README.md",
    "architecture.md": "ARCHITECTURE.md",
    "changelog.md": "CHANGELOG.md",
    "conduct.md": "CODE_OF_CONDUCT.md",
    "contributing.md": "CONTRIBUTING.md",
    "examples/index.md": "examples/README.md",
    "other-benchmarks.md": "benchmarks/README.md",
    "security.md": "SECURITY.md",
}
for _readme in sorted((*ROOT.glob("plugins/*/README.md"), *ROOT.glob("examples/plugins/*/README.md"))):
    _source = _readme.relative_to(ROOT).as_posix()
    _folder = "examples" if _source.startswith("examples") else "architectures"
    OUTSIDE[f"{_folder}/{_readme.parent.name}.md"] = _source
_FENCE = re.compile(r"^(```.*?^```)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(!?)\[([^]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def _modules(package: str) -> tuple[str, ...]:
    return tuple(f"zoo.{package}.{path.stem}" for path in sorted((ROOT / "zoo" / package).glob("[!_]*.py")))


class Reference(NamedTuple):
    """A page of the API reference: the public names that are defined in `homes`, and what else it documents."""

    title: str
    text: str
    homes: tuple[str, ...]
    others: tuple[str, ...] = ()


REFERENCE = {
    "models": Reference(
        "Loading and models",
        "What a model is loaded with, what it can do, and what it gives back.",
        (
            "zoo.loading",
            "zoo.model",
            "zoo.catalog",
            "zoo.samples",
            "zoo.tuning",
            "zoo.hub",
            "zoo.formats",
            "zoo.planning",
            "zoo.weights.footprint",
        ),
    ),
    "adapters": Reference(
        "Adapters",
        "What `lora=` takes, and what merging and combining report. [Adapters](../adapters.md) shows them at work.",
        ("zoo.methods", "zoo.adapters"),
    ),
    "weights": Reference(
        "Weights",
        "How weights are quantized, and what an adapter does to one. Users need `Quantization` alone.",
        ("zoo.weights",),
    ),
    "plugins": Reference(
        "Writing plugins",
        "What a plugin needs beside its [hooks](../hooks.md). [Write a plugin](../plugins.md) goes step by step.",
        ("zoo.plugin",),
        (
            *(f"zoo.testing.{name}" for name in ("check_plugin", "conformance", "checks", "examine", "Options")),
            *(f"zoo.testing.{name}" for name in ("Check", "Result", "Site")),
            *(f"zoo.storage.{name}" for name in ("checkpoint", "config_json", "model_folder")),
            "zoo.samples.progress",
            *_modules("integrations"),
        ),
    ),
    "data": Reference(
        "Data and metrics",
        "Data sets that need no download, readers for what users bring, metrics and comparisons.",
        ("zoo.data", "zoo.metrics", "zoo.comparison"),
        (*_modules("data"), *_modules("metrics"), *_modules("comparison")),
    ),
    "errors": Reference("Errors", "Everything that zoo raises on purpose, in one line each.", ("zoo.errors",)),
}


def on_config(config: Any) -> Any:
    """Write out the parts of the navigation that are folders of plugins."""
    config.nav = _navigation(config.nav)
    return config


def _navigation(entries: list[Any]) -> list[Any]:
    made: list[Any] = []
    for entry in entries:
        ((title, value),) = entry.items()
        if isinstance(value, list):
            value = _navigation(value)
        elif value.endswith("/*"):
            pages = [uri for uri in OUTSIDE if uri.startswith(value.removesuffix("*"))]
            value = [{Path(uri).stem: uri} if Path(uri).stem != "index" else uri for uri in pages]
        made.append({title: value})
    return made


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie outside docs/, and the API reference."""
    pages = {uri: (ROOT / source).read_text(encoding="utf-8") for uri, source in OUTSIDE.items()}
    for uri, text in {**pages, **reference()}.items():
        files.append(File.generated(config, uri, content=text))
    return files


def reference() -> dict[str, str]:
    """Return the pages of the API reference: every public name of zoo, on the page of the package that defines it."""
    names: dict[str, list[str]] = {home: [] for one in REFERENCE.values() for home in one.homes}
    for name, module in zoo._HOME.items():
        homes = [home for home in names if f"{module}.".startswith(f"{home}.")]
        if not homes:
            raise SystemExit(f"docs/site_pages.py: no page of REFERENCE takes zoo.{name}, which is in {module}")
        names[max(homes, key=len)].append(f"zoo.{name}")
    pages = {}
    for page, one in REFERENCE.items():
        documented = [name for home in one.homes for name in names[home]]
        parts = [f"# {one.title}", one.text, *(f"::: {name}" for name in (*documented, *one.others))]
        pages[f"api/{page}.md"] = "\n\n".join(parts)
    return pages


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Make a page's links the site's, and the title of a block that is added to a file say so."""
    uri = page.file.src_uri
    source = OUTSIDE.get(uri, f"docs/{uri}")
    parts = _FENCE.split(markdown)
    parts[::2] = [_LINK.sub(lambda match: _link(match, uri, source), text) for text in parts[::2]]
    parts[1::2] = [re.sub(r'\A(```\w+ title="[^"]+)" append', r'\1 (at its end)"', text) for text in parts[1::2]]
    return "".join(parts)


def on_page_content(html: str, **_: Any) -> str:
    """Show `::` before an example, which reStructuredText wants and Markdown does not, as a colon."""
    return html.replace("::</p>", ":</p>")


def _link(match: re.Match[str], uri: str, source: str) -> str:
    picture, text, target, anchor = match.groups()
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    pages = {source: uri for uri, source in OUTSIDE.items()}
    for candidate in (path, f"{path}/README.md"):
        if candidate in pages or candidate.startswith("docs/"):
            there = pages.get(candidate) or candidate.removeprefix("docs/")
            return f"{picture}[{text}]({posixpath.relpath(there, posixpath.dirname(uri) or '.')}{anchor or ''})"
    return str(text)
