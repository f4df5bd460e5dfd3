"""Text as paragraphs, and what text plugins share: for a model that reads prose and nothing else.

`corpus.py` reads all that a language model can learn from; `text_data` is the prose of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from zoo.data.corpus import DOCUMENTS, PROSE, read_corpus
from zoo.data.named_texts import package_prose
from zoo.data.paragraphs import LONGEST, paragraphs
from zoo.data.report import record
from zoo.errors import DataError, ZooError, did_you_mean

__all__ = ["LONGEST", "SPLITS", "beginning", "given_texts", "package_prose", "text_data"]

SPLITS = ("train", "test")


def text_data(data: object = None, *, split: str = "train", own: str = "text:english") -> list[str]:
    """Return the paragraphs of `data` that belong to a split, in the order of the text.

    Paragraphs are separated by blank lines. A tenth of the characters is held out: whole documents, and of a document
    that is too large for that some of its paragraphs or its end. Equal documents and paragraphs are in one split.

    Args:
        data: None (then `own`), a name ("text:english", "text:documentation", "text:python", "text:licences"), a text
            file, a folder of text files, one string of text with line breaks, a list or torch Dataset of str, a table
            with a column of texts (JSON lines, CSV, Parquet, a Dataset, a list of {"text": str}), or a `zoo.Data`.
        split: "train" or "test".
        own: the data that None means.

    Raises:
        DataError: there is no such name or file, a file is not UTF-8 text, a table has no column of texts, or the text
            is too short to be split in two.
    """
    if split not in SPLITS:
        raise DataError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}.{did_you_mean(str(split), SPLITS)}")
    corpus = read_corpus(data, split=split, own=own, kinds=(PROSE, DOCUMENTS), called="a model of plain text")
    record(corpus.report)
    if corpus.kind == PROSE:
        return list(corpus.items)
    return [piece for document in corpus.items for piece in paragraphs(document.text)]


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
