"""Text that needs no download: paragraphs, deduplicated, then split by a stable hash.

Four texts are on every machine that runs zoo, and none of them is imported or executed to be read:

- `text:english`: prose of the language reference in `pydoc_data.topics` and of the standard library's docstrings;
- `text:documentation`: the same, and the docstrings of numpy, torch and transformers, for training from random weights;
- `text:python`: the source code of the standard library;
- `text:licences`: the licence of Python and the licence files of the installed distributions.

They follow the installed Python and packages, so two machines with different versions read slightly different text. A
paragraph that both machines have is in the same split on both, because its split depends on its words alone.
"""

from __future__ import annotations

import ast
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import chain
from pathlib import Path

from zoo.data.paragraphs import one_line, paragraphs, same, unique
from zoo.errors import DataError, did_you_mean

TEST_SHARE = 0.05  # of the paragraphs; models that are carried were trained on the others
PACKAGES = ("numpy", "torch", "transformers")  # whose docstrings "text:documentation" has

# Not in every distribution of Python (Debian ships some apart), or not written for a reader.
_SKIPPED = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idle_test",
    "idlelib",
    "lib2to3",
    "ensurepip",
    "distutils",
}
_BLANK_LINES = re.compile(r"\n[ \t]*\n\s*")
_WORD = re.compile(r"[A-Za-z]+(?:['’-][A-Za-z]+)*[.,;:!?)]*$")


def named_text(name: str, *, split: str) -> list[str]:
    """Return the paragraphs of a named text in one split, in the order of the text.

    Args:
        name: such as "text:english".
        split: "train", or any other for those held out.

    Raises:
        DataError: there is no such text.
    """
    if name not in NAMED:
        raise DataError(f"{name!r}: expected one of {', '.join(NAMED)}.{did_you_mean(name, NAMED)}")
    return _part(NAMED[name](), split)


def package_prose(folder: Path, *, split: str = "train") -> list[str]:
    """Return the English of a package's docstrings, read from its source files: one line per paragraph.

    Args:
        folder: the package's.
        split: "train" or "test", which are told apart as in `named_text`.
    """
    return _part(tuple(unique(_prose_lines(_docstrings(_python_files(folder))))), split)


@cache
def _english() -> tuple[str, ...]:
    from pydoc_data.topics import topics

    return tuple(unique(_prose_lines(chain((topics[name] for name in sorted(topics)), _docstrings(_library_files())))))


def _prose_lines(texts: Iterable[str]) -> Iterator[str]:
    return (line for text in texts for line in map(_prose, _BLANK_LINES.split(text)) if line)


@cache
def _documentation() -> tuple[str, ...]:
    from importlib.util import find_spec

    found = (find_spec(package) for package in PACKAGES)
    folders = (Path(spec.origin).parent for spec in found if spec is not None and spec.origin)
    further = (_prose_lines(_docstrings(_python_files(folder))) for folder in folders)
    return tuple(unique(chain(_english(), *further)))


@cache
def _python() -> tuple[str, ...]:
    sources = (_read_source(path) for path in _library_files())
    return tuple(unique(piece for source in sources if source for piece in paragraphs(source)))


@cache
def _licences() -> tuple[str, ...]:
    from importlib.metadata import distributions

    files = {Path(sysconfig.get_path("stdlib")) / "LICENSE.txt"}
    for distribution in distributions():
        for file in distribution.files or ():
            if ".dist-info" in file.parts[0] and re.match(r"(LICEN[CS]E|COPYING|NOTICE)", file.name, re.IGNORECASE):
                files.add(Path(str(distribution.locate_file(file))))
    # By name and content, not by path: the order must not depend on where the environment lies.
    texts = sorted({(path.parent.name, path.name, text) for path in files if (text := _read_source(path))})
    return tuple(
        unique(line for *_, text in texts for line in map(one_line, _BLANK_LINES.split(text)) if len(line) > 40)
    )


NAMED: dict[str, Callable[[], tuple[str, ...]]] = {
    "text:english": _english,
    "text:documentation": _documentation,
    "text:python": _python,
    "text:licences": _licences,
}


def _docstrings(files: Iterable[Path]) -> Iterator[str]:
    """Yield the docstrings in Python files, parsed and never run; skip a file that this Python cannot parse."""
    for path in files:
        try:
            with warnings.catch_warnings():  # an old file's invalid escape does not matter here
                warnings.simplefilter("ignore")
                tree = ast.parse(_read_source(path))
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                docstring = ast.get_docstring(node)
                if docstring:
                    yield docstring


def _library_files() -> list[Path]:
    # pydoc_data is the topics themselves, as one dictionary.
    return [path for path in _python_files(Path(sysconfig.get_path("stdlib"))) if path.parent.name != "pydoc_data"]


def _python_files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*.py") if not _SKIPPED.intersection(path.relative_to(root).parts))


def _read_source(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _prose(paragraph: str) -> str:
    """Return the paragraph on one line if it reads as English, else an empty string.

    English: at least eight words, four of five of which are plain words, and no prompt of the interpreter.
    """
    lines = [line for line in paragraph.splitlines() if not re.fullmatch(r"\s*([*=~^+-]{3,}|\+[-+=]+\+)\s*", line)]
    if ">>>" in paragraph or not lines:
        return ""
    words = " ".join(lines).split()
    plain = sum(1 for word in words if _WORD.match(word.strip("*`\"'(“”‘")))
    return " ".join(words) if len(words) >= 8 and plain >= 0.8 * len(words) else ""


def _part(paragraphs: tuple[str, ...], split: str) -> list[str]:
    ranks = [int.from_bytes(same(paragraph), "big") / 2**64 for paragraph in paragraphs]
    if len(paragraphs) < 2:
        return list(paragraphs) if split == "train" else []
    # A text of a few paragraphs may have none below the threshold, or all: either way one is held out, one is not.
    ordered = sorted(ranks)
    threshold = min(max(TEST_SHARE, ordered[0]), ordered[-2])
    return [text for text, rank in zip(paragraphs, ranks, strict=True) if (rank <= threshold) == (split != "train")]
