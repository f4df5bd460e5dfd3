"""Documents: texts that are read whole, split by their size, and cut only where one is too large to be held out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zoo.data.paragraphs import cut_near, paragraphs, same
from zoo.data.spec import ALL, Data
from zoo.data.splits import divide, held_out, rows_of
from zoo.data.table import Table

TOO_LARGE = 2.0  # a document of more than so many times what is to be held out is cut


@dataclass(frozen=True)
class Document:
    """One document, or what one split has of it.

    Attributes:
        text: its text.
        ends: whether the end of the document is its end.
        whole: whether it is all of the document.
    """

    text: str
    ends: bool = True
    whole: bool = True


@dataclass(frozen=True)
class Documents:
    """Documents by split, with what to say about them.

    Attributes:
        parts: split → its documents, in the order of the data.
        rule: how they were told apart, in words.
        notes: what else there is to say.
    """

    parts: Mapping[str, Sequence[Document]]
    rule: str
    notes: tuple[str, ...] = ()

    @property
    def cut(self) -> bool:
        """Whether a document is in two splits, each with a part of it."""
        return any(not document.whole for part in self.parts.values() for document in part)

    @property
    def size(self) -> int:
        """Characters of all splits together."""
        return sum(len(document.text) for part in self.parts.values() for document in part)

    def of(self, split: str, data: Data, origin: str) -> tuple[str, Sequence[Document]]:
        """Return the split that is meant where one is asked for, and its documents; see `rows_of`.

        Raises:
            DataError: it has none.
        """
        numbers = {name: list(range(len(part))) for name, part in self.parts.items()}
        found = rows_of(numbers, split, data, origin)
        name = next(name for name, rows in numbers.items() if rows is found)
        return name, self.parts[name]


def split_documents(texts: Sequence[str], data: Data, *, table: Table | None = None) -> Documents:
    """Return texts as documents by split, `data.hold_out` of their characters held out.

    Whole documents are held out. One that is more than twice what is to be held out is cut: some of its paragraphs are
    held out, of a paragraph that is as large itself the end, from a sentence or a word on. Equal documents, and equal
    paragraphs of those that are cut, are in one split. With groups, or splits of the data's own, none is cut.

    Args:
        texts: the documents.
        data: the share, the seed and the column of groups.
        table: one row for each text, with the splits of the data's own and the column of groups; None: there is none.
    """
    keys = [same(text) for text in texts]
    table = Table({"text": texts}, "the texts given") if table is None else table
    own = {split for split, rows in table.splits.items() if len(rows)}
    if data.split == ALL or data.hold_out == 0 or data.group is not None or own - {"train"}:
        parts, rule = divide(table, data, groups=keys, sizes=[float(len(text)) for text in texts])
        found = {name: [Document(texts[row]) for row in rows] for name, rows in parts.items()}
        return Documents(found, rule, _equal(keys) if not own else ())
    rows = table.splits.get("train", range(len(texts)))
    pieces = _pieces([texts[row] for row in rows], data.hold_out)
    drawn = [piece for document in pieces for piece in document if piece.held is None]
    limit = _limit([texts[row] for row in rows], data.hold_out)
    if not any(piece.held for document in pieces for piece in document) or _size(drawn) > limit:
        sizes = [float(len(piece.text)) for piece in drawn]
        out = held_out([piece.key for piece in drawn], sizes=sizes, share=data.hold_out, seed=data.seed)
        for piece, held in zip(drawn, out, strict=True):
            piece.held = held
    made: dict[str, list[Document]] = {"train": [], "test": []}
    for document in pieces:
        for name, side in (("train", False), ("test", True)):
            part = [piece for piece in document if bool(piece.held) == side]
            if part:
                text = "\n\n".join(piece.text for piece in part)
                made[name].append(Document(text, part[-1] is document[-1], len(part) == len(document)))
    rule = f"{data.hold_out:.0%} of the characters held out, equal ones together, seed {data.seed}"
    return Documents({name: part for name, part in made.items() if part}, rule, _equal(keys))


@dataclass
class _Piece:
    text: str
    key: bytes
    held: bool | None = None  # None: to be drawn


def _pieces(texts: Sequence[str], share: float) -> list[list[_Piece]]:
    """Return each document as what is held out or not as a whole."""
    limit = _limit(texts, share)
    found = []
    for text in texts:
        if len(text) <= limit:
            found.append([_Piece(text, same(text))])
        else:
            found.append([piece for block in paragraphs(text) for piece in _lending(block, limit, share)])
    return found


def _lending(block: str, limit: float, share: float) -> list[_Piece]:
    """Return a paragraph as one piece; as two, the second of which is held out, where it is too large."""
    if len(block) <= limit or len(block) < 2:
        return [_Piece(block, same(block))]
    at = cut_near(block, round(len(block) * (1 - share)))
    first, second = block[:at].rstrip(), block[at:].strip("\n ")
    return [_Piece(first, same(first), False), _Piece(second, same(second), True)]


def _limit(texts: Sequence[str], share: float) -> float:
    return min(TOO_LARGE * share, 0.5) * sum(map(len, texts))


def _size(pieces: Sequence[_Piece]) -> int:
    return sum(len(piece.text) for piece in pieces)


def _equal(keys: Sequence[bytes]) -> tuple[str, ...]:
    more = sum(count - 1 for count in Counter(keys).values())
    return (f"{more} of {len(keys)} documents are equal to another: all are used, in one split",) if more else ()
