"""Documents: texts that are read whole, split by their size, and cut only where one is too large to be held out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from zoo.data.division import choose, divide, no_split, rule_of
from zoo.data.paragraphs import cut_near, paragraphs, same
from zoo.data.spec import ALL, Data
from zoo.data.splits import held_out
from zoo.errors import DataError

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

    def of(self, split: str, data: Data, origin: str) -> Sequence[Document]:
        """Return the documents of the split that is asked for, or of `data.split` where the user chose one.

        Raises:
            DataError: it has none.
        """
        chosen = choose(self.parts, split, data)
        if chosen == ALL:
            return [document for part in self.parts.values() for document in part]
        if chosen is None:
            raise no_split(split, data, origin, sum(map(len, self.parts.values())))
        return self.parts[chosen]


def split_documents(
    texts: Sequence[str],
    data: Data,
    *,
    groups: Sequence[Hashable] | None = None,
    own: Mapping[str, Sequence[int]] | None = None,
) -> Documents:
    """Return texts as documents by split, `data.hold_out` of their characters held out.

    Whole documents are held out. One that is more than twice what is to be held out is cut: some of its paragraphs are
    held out, of a paragraph that is as large itself the end, from a sentence or a word on. Equal documents, and equal
    paragraphs of those that are cut, are in one split.

    Args:
        texts: the documents.
        data: the share and the seed.
        groups: the group of each, which stays together; with groups no document is cut.
        own: split → the numbers of its texts, where the data have splits of their own.
    """
    keys: list[bytes] = [same(text) for text in texts]
    notes = _equal(keys)
    if groups is not None or len(own or ()) > 1 or "train" not in (own or {"train": ()}) or data.hold_out == 0:
        sizes = [float(len(text)) for text in texts]
        found = divide(keys if groups is None else groups, data, own=own, sizes=sizes, counted="characters")
        parts = {name: [Document(texts[row]) for row in rows] for name, rows in found.rows.items()}
        return Documents(parts, found.rule, (*notes, *found.notes))
    if own:
        texts = [texts[row] for row in own["train"]]
        keys = [keys[row] for row in own["train"]]
    limit = min(TOO_LARGE * data.hold_out, 0.5) * sum(map(len, texts))
    pieces: list[list[_Piece]] = []
    for text, key in zip(texts, keys, strict=True):
        if len(text) <= limit:
            pieces.append([_Piece(text, key)])
        else:
            pieces.append([part for block in paragraphs(text) for part in _lending(block, limit, data.hold_out)])
    drawn = [piece for document in pieces for piece in document if piece.held is None]
    if not any(piece.held for document in pieces for piece in document) or _size(drawn) > limit:
        out = held_out(
            [piece.key for piece in drawn],
            sizes=[len(piece.text) for piece in drawn],
            share=data.hold_out,
            seed=data.seed,
        )
        for piece, held in zip(drawn, out, strict=True):
            piece.held = held
    parts = {"train": [], "test": []}
    for document in pieces:
        for name, side in (("train", False), ("test", True)):
            own_pieces = [piece for piece in document if bool(piece.held) == side]
            if own_pieces:
                text = "\n\n".join(piece.text for piece in own_pieces)
                parts[name].append(Document(text, own_pieces[-1] is document[-1], len(own_pieces) == len(document)))
    return Documents(parts, rule_of(data, "characters"), notes)


@dataclass
class _Piece:
    text: str
    key: bytes
    held: bool | None = None  # None: to be drawn


def _lending(block: str, limit: float, share: float) -> list[_Piece]:
    """Return a paragraph as one piece; as two, the second of which is held out, where it is too large."""
    if len(block) <= limit or len(block) < 2:
        return [_Piece(block, same(block))]
    at = cut_near(block, round(len(block) * (1 - share)))
    first, second = block[:at].rstrip(), block[at:].strip("\n ")
    return [_Piece(first, same(first), False), _Piece(second, same(second), True)]


def _size(pieces: Sequence[_Piece]) -> int:
    return sum(len(piece.text) for piece in pieces)


def _equal(keys: Sequence[Hashable]) -> tuple[str, ...]:
    more = sum(count - 1 for count in Counter(keys).values())
    return (f"{more} of {len(keys)} documents are equal to another: all are used, in one split",) if more else ()


def check_length(documents: Documents, least: int, origin: str, advice: str) -> None:
    """Check that documents have so many characters together.

    Raises:
        DataError: they have fewer.
    """
    size = sum(len(document.text) for part in documents.parts.values() for document in part)
    if size < least:
        raise DataError(f"{origin}: expected at least {least} characters of text, found {size}; {advice}")
