"""Text that needs no download, and the user's own: paragraphs, deduplicated, then split by a stable hash.

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
import hashlib
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from zoo.errors import DataError, ZooError, did_you_mean

SPLITS = ("train", "test")
TEST_SHARE = 0.05
LONGEST = 4000  # characters; a longer paragraph is cut, so that a file without blank lines still has two splits
LONGEST_PATH = 1000  # characters; a longer string is text, not a file's name
PACKAGES = ("numpy", "torch", "transformers")  # whose docstrings "text:documentation" has
SHORTEST_TEXT = 200  # characters that a user's text needs at least

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


def text_data(data: object = None, *, split: str = "train", own: str = "text:english") -> list[str]:
    """Return the paragraphs of `data` that belong to a split, in the order of the text.

    Paragraphs are separated by blank lines; equal paragraphs count once, before the split, so none is in both splits.

    Args:
        data: None (then `own`), a name ("text:english", "text:documentation", "text:python", "text:licences"), a text
            file, a folder whose .txt files are read recursively, one string of text with line breaks, or a list or
            torch Dataset of str or of {"text": str}.
        split: "train" or "test".
        own: the data that None means.

    Raises:
        DataError: there is no such name or file, a file is not UTF-8 text, or the text is too short to be split in two.
    """
    if split not in SPLITS:
        raise DataError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}.{did_you_mean(str(split), SPLITS)}")
    if data is None:
        data = own
    if isinstance(data, str) and data in _NAMED:
        paragraphs = _NAMED[data]()
        label = data
    else:
        texts, label = _given(data)
        paragraphs = tuple(_unique(piece for text in texts for piece in _paragraphs(text)))
    size = sum(map(len, paragraphs))
    if size < SHORTEST_TEXT:
        raise DataError(
            f"{label}: expected at least {SHORTEST_TEXT} characters of text, found {size}; give a longer text, or one "
            f"of {', '.join(_NAMED)}"
        )
    return _part(paragraphs, split)


def beginning(paragraphs: Iterable[str], size: int) -> Iterator[str]:
    """Yield as many paragraphs as `size` bytes of UTF-8 hold, with a blank line after each, and at least one."""
    total = 0
    for paragraph in paragraphs:
        length = len(paragraph.encode()) + 2
        total += length
        if total > size and total > length:
            return
        yield paragraph


def given_texts(options: Mapping[str, Any], one: str, several: str) -> list[str] | None:
    """Return a sampling option that may be given as one text or as a list of texts; None where it is not given.

    Args:
        options: the options of a sample request.
        one: name of the option that is meant for one text, such as "prompt".
        several: name of the option that is meant for a list, such as "prompts".

    Raises:
        ZooError: both are given, or what is given is no text, an empty one among them.
    """
    if options[one] is not None and options[several] is not None:
        raise ZooError(f"expected {one} or {several}, got both: give one of them, a string or a list of strings")
    given = options[several] if options[one] is None else options[one]
    if given is None:
        return None
    found = [given] if isinstance(given, str) else given
    if not isinstance(found, list | tuple) or not found or not all(isinstance(text, str) for text in found):
        raise ZooError(f"{several}: expected a string or a list of strings, got {given!r}")
    if not all(text.strip() for text in found):
        raise ZooError(f"{several}: expected text, got an empty {one} in {given!r}: leave {several} out instead")
    return list(found)


def package_prose(folder: Path, *, split: str = "train") -> list[str]:
    """Return the English of a package's docstrings, read from its source files: one line per paragraph.

    Args:
        folder: the package's.
        split: "train" or "test", which are told apart as in `text_data`.
    """
    return _part(tuple(_unique(_prose_lines(_docstrings(_python_files(folder))))), split)


@cache
def _english() -> tuple[str, ...]:
    from pydoc_data.topics import topics

    return tuple(_unique(_prose_lines(chain((topics[name] for name in sorted(topics)), _docstrings(_library_files())))))


def _prose_lines(texts: Iterable[str]) -> Iterator[str]:
    return (line for text in texts for line in map(_prose, _BLANK_LINES.split(text)) if line)


@cache
def _documentation() -> tuple[str, ...]:
    from importlib.util import find_spec

    found = (find_spec(package) for package in PACKAGES)
    folders = (Path(spec.origin).parent for spec in found if spec is not None and spec.origin)
    further = (_prose_lines(_docstrings(_python_files(folder))) for folder in folders)
    return tuple(_unique(chain(_english(), *further)))


@cache
def _python() -> tuple[str, ...]:
    sources = (_read_source(path) for path in _library_files())
    return tuple(_unique(piece for source in sources if source for piece in _paragraphs(source)))


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
        _unique(line for *_, text in texts for line in map(_reflow, _BLANK_LINES.split(text)) if len(line) > 40)
    )


_NAMED: dict[str, Callable[[], tuple[str, ...]]] = {
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


def _reflow(paragraph: str) -> str:
    return " ".join(paragraph.split())


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


def _given(data: object) -> tuple[Iterable[str], str]:
    """Return the texts that a user gave, and what to call them in an error."""
    if isinstance(data, str) and ("\n" in data or len(data) > LONGEST_PATH):
        return [data], "the text given"
    if isinstance(data, str) and data.startswith("text:"):
        raise DataError(f"{data!r}: expected one of {', '.join(_NAMED)}.{did_you_mean(data, _NAMED)}")
    if isinstance(data, str | Path):
        path = Path(data).expanduser()
        if path.is_dir():
            files = sorted(path.rglob("*.txt"))
            if not files:
                raise DataError(
                    f"{path}: expected a folder with .txt files, found none; name a file instead, or add some"
                )
            return [_read_text(file) for file in files], str(path)
        if path.is_file():
            return [_read_text(path)], str(path)
        raise DataError(
            f"{data}: expected a text file, a folder of .txt files or one of {', '.join(_NAMED)}; found nothing there."
            f"{did_you_mean(str(data), _NAMED)}"
        )
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, dict | bytes):
        items = [data[index] for index in range(len(data))]
        items = [item["text"] if isinstance(item, dict) and "text" in item else item for item in items]
        wrong = next((item for item in items if not isinstance(item, str)), None)
        if wrong is None:
            return items, f"the {len(items)} texts given"
        raise DataError(
            f"expected a list or Dataset of str, found an item of type {type(wrong).__name__}; map it to its text first"
        )
    raise DataError(
        f"expected a text file, a folder of .txt files, a list or Dataset of str, or one of {', '.join(_NAMED)}; "
        f"got {type(data).__name__}"
    )


def _read_text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: expected a readable text file; {error.strerror or error}") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: expected UTF-8 text, found bytes that are not ({error.reason} at {error.start}); convert it first"
        ) from None
    if "\0" in text:
        raise DataError(f"{path}: expected a text file, found a binary one (it holds zero bytes)")
    return text.replace("\r\n", "\n")


def _paragraphs(text: str) -> Iterator[str]:
    """Yield blocks between blank lines, without trailing space.

    One over LONGEST characters is cut at a line or a space.
    """
    for block in re.split(r"\n[ \t]*\n(?:[ \t]*\n)*", text):
        rest = block.rstrip().strip("\n")
        while len(rest) > LONGEST:
            cut = max(rest.rfind("\n", 1, LONGEST), rest.rfind(" ", 1, LONGEST) if "\n" not in rest[1:LONGEST] else -1)
            cut = cut if cut > 0 else LONGEST
            yield rest[:cut].rstrip()
            rest = rest[cut:].strip("\n")
        if rest.strip():
            yield rest


def _unique(paragraphs: Iterable[str]) -> Iterator[str]:
    """Yield each paragraph once; two that differ in white space or case alone are the same."""
    seen: set[bytes] = set()
    for paragraph in paragraphs:
        key = _digest(paragraph)
        if key not in seen:
            seen.add(key)
            yield paragraph


def _digest(paragraph: str) -> bytes:
    return hashlib.sha256(_reflow(paragraph).lower().encode("utf-8", "replace")).digest()[:8]


def _part(paragraphs: tuple[str, ...], split: str) -> list[str]:
    ranks = [int.from_bytes(_digest(paragraph), "big") / 2**64 for paragraph in paragraphs]
    if len(paragraphs) == 1:  # one short block: its end is held out
        [only] = paragraphs
        cut = only.rfind(" ", 1, int(len(only) * (1 - 2 * TEST_SHARE)))
        cut = cut if cut > 0 else len(only) // 2
        return [only[:cut] if split == "train" else only[cut:].strip()]
    # A text of a few paragraphs may have none below the threshold, or all: either way one is held out, one is not.
    ordered = sorted(ranks)
    threshold = min(max(TEST_SHARE, ordered[0]), ordered[-2])
    return [text for text, rank in zip(paragraphs, ranks, strict=True) if (rank <= threshold) == (split == "test")]
