"""What a language model learns from, whatever a user has: prose, documents, conversations, pairs, or token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zoo.data.columns import USUAL, find_columns
from zoo.data.conversations import Message, answered, as_messages
from zoo.data.documents import Documents, split_documents
from zoo.data.examples import is_missing, read_examples, rows_only
from zoo.data.named_texts import NAMED, named_text
from zoo.data.paragraphs import paragraphs
from zoo.data.report import Report, key_of
from zoo.data.sources import read_table
from zoo.data.spec import ALL, Data, as_data, split_name
from zoo.data.table import Table
from zoo.data.token_rows import PADDING, TOKENS, token_rows
from zoo.errors import DataError, did_you_mean

LONGEST_PATH = 1000  # characters; a longer string is text, not a file's name
SHORTEST_TEXT = 200  # characters that one text needs at least

PROSE = "prose"  # one continuous text: items are its paragraphs, blank lines between them
DOCUMENTS = "documents"  # items are `zoo.data.documents.Document`s
CONVERSATIONS = "conversations"  # items are `Conversation`s
PAIRS = "pairs"  # items are (prompt, completion)
TOKEN_ROWS = "tokens"  # items are rows as `token_rows` returns them
KINDS = (PROSE, DOCUMENTS, CONVERSATIONS, PAIRS, TOKEN_ROWS)


@dataclass(frozen=True)
class Conversation:
    """Messages, of which the model learns the assistant's from number `first` on."""

    messages: list[Message]
    first: int = 0


@dataclass(frozen=True)
class Corpus:
    """What one split of the data has.

    Attributes:
        kind: one of KINDS, which says what the items are.
        items: in the order of the data.
        report: what was taken, of all splits; not recorded yet, as the model may have more to say.
    """

    kind: str
    items: Sequence[Any]
    report: Report


def read_corpus(
    data: Any,
    *,
    split: str,
    own: str = "text:english",
    kinds: Sequence[str] = KINDS,
    takes: Sequence[str] = tuple(PADDING),
    called: str = "the model",
) -> Corpus:
    """Return what a user's data hold for a language model in one split.

    One text file or one string is prose; several files of a folder, the strings of a list and the column "text" of a
    table are documents. A column "messages" (or "conversations") is conversations, "prompt" and "completion" are pairs,
    "input_ids" are token ids. Where the user says what the columns are, that alone counts.

    Args:
        data: a name ("text:english"), a file, a folder, a string, a list, a table, token ids; or a `zoo.Data` of one.
        split: "train", "validation" or "test".
        own: the data that None means.
        kinds: those that the model can learn from.
        takes: what the model uses beside token ids, and "input_ids"; as `token_rows` takes it.
        called: what errors call the model.

    Raises:
        DataError: the data cannot be used, or hold another kind.
    """
    data = as_data(data, own)
    split_name(split)
    source = data.source
    if isinstance(source, str) and source.startswith("text:") and "\n" not in source:
        return _named(source, data, split)
    table = _table(source, data)
    kind = kind_of(table, data)
    if kind not in kinds:
        held = kind.replace(TOKEN_ROWS, "token ids")
        raise DataError(f"{table.origin}: holds {held}; {called} learns from {', '.join(kinds)}")
    if kind == CONVERSATIONS:
        return _conversations(table, data, split)
    if kind == PAIRS:
        return _pairs(table, data, split)
    if kind == TOKEN_ROWS:
        return _tokens(table, data, split, takes)
    one = isinstance(source, str | Path) and list(table.columns) == ["text"] and len(table) == 1
    return _prose(table, data, split) if one and PROSE in kinds else _documents(table, data, split)


def kind_of(table: Table, data: Data) -> str:
    """Return which kind of corpus a table is: what the user says, else by the usual names of its columns.

    Raises:
        DataError: it is none.
    """
    names = {name.lower() for name in table.columns}
    said = set(data.columns)
    if TOKENS in names and not said:
        return TOKEN_ROWS
    for kind, roles in ((CONVERSATIONS, ("messages",)), (PAIRS, ("prompt", "completion")), (DOCUMENTS, ("text",))):
        if (said and said & set(roles)) or (not said and all(names.intersection(USUAL[role]) for role in roles)):
            return kind
    # No such column: the error says how to name one.
    others = ("messages", "prompt", "completion")
    find_columns(list(table.columns), ("text",), others, given=data.columns, origin=table.origin)
    return DOCUMENTS


def _named(name: str, data: Data, split: str) -> Corpus:
    if name not in NAMED:
        raise DataError(f"{name!r}: expected one of {', '.join(NAMED)}.{did_you_mean(name, NAMED)}")
    parts = {part: named_text(name, split=part) for part in ("train", "test")}
    rule = "one paragraph in twenty, by its words"
    chosen = data.split or split
    if chosen == ALL:
        parts, rule = {ALL: [*parts["train"], *parts["test"]]}, "every split is all of the data, as was asked"
    else:
        chosen = "train" if split_name(chosen) == "train" else "test"
    sizes = {part: len(found) for part, found in parts.items()}
    keys = {part: [key_of(paragraph) for paragraph in found] for part, found in parts.items()}
    return Corpus(PROSE, parts[chosen], Report(name, "paragraphs", sizes, rule, keys=keys, served=(chosen,)))


def _table(source: Any, data: Data) -> Table:
    if isinstance(source, str | Path):
        is_text = isinstance(source, str) and ("\n" in source or len(source) > LONGEST_PATH)
        if not is_text and not Path(source).expanduser().exists():
            raise DataError(
                f"{source}: expected a text file, a table, a folder of them or one of {', '.join(NAMED)}; found "
                f"nothing there.{did_you_mean(str(source), NAMED)}"
            )
    elif hasattr(source, "ndim") and hasattr(source, "dtype") and (source.ndim != 2 or "int" not in str(source.dtype)):
        raise DataError(f"expected token ids as an integer Tensor [n, t], got {source.dtype} {tuple(source.shape)}")
    return read_table(data, kind="text")


def _prose(table: Table, data: Data, split: str) -> Corpus:
    [text] = table.columns["text"]
    found = split_documents([text], data)
    if found.size < SHORTEST_TEXT:
        raise DataError(
            f"{table.origin}: expected at least {SHORTEST_TEXT} characters of text, found {found.size}; give a longer "
            f"text, or one of {', '.join(NAMED)}"
        )
    name, documents = found.of(split, data, table.origin)
    items = [piece for document in documents for piece in paragraphs(document.text)]
    return Corpus(PROSE, items, _report(found, table, {}, (), name))


def _documents(table: Table, data: Data, split: str) -> Corpus:
    names = find_columns(list(table.columns), ("text",), given=data.columns, origin=table.origin)
    column = list(table.columns[names["text"]])
    kept, skipped = [], []
    for row, value in enumerate(column):
        if isinstance(value, str) and value.strip():
            kept.append(row)
        elif not isinstance(value, str) and not is_missing(value):
            raise DataError(
                f"{table.origin}: expected texts, row {row} has {type(value).__name__} in {names['text']!r}: say which "
                'column has the texts, columns={"text": "NAME"}'
            )
        elif data.broken == "refuse":
            raise DataError(f"{table.origin}: row {row} cannot be used, it has no text: mend it, or skip such rows")
        else:
            skipped.append((f"row {row}", "it has no text"))
    if not kept:
        raise DataError(f"{table.origin}: none of its {len(table)} rows has a text: give at least one")
    used = rows_only(table, kept, data.group)
    found = split_documents([column[row] for row in kept], data, table=used)
    name, documents = found.of(split, data, table.origin)
    return Corpus(DOCUMENTS, documents, _report(found, table, names, skipped, name))


def _report(
    found: Documents, table: Table, names: Mapping[str, str], skipped: Sequence[tuple[str, str]], served: str
) -> Report:
    plain = list(table.columns) == ["text"]
    return Report(
        table.origin,
        "parts of documents" if found.cut else "documents",
        splits={name: len(part) for name, part in found.parts.items()},
        rule=found.rule,
        columns={} if plain else names,
        unused=tuple(name for name in table.columns if not plain and name not in (*names.values(), "file")),
        skipped=(*table.skipped, *skipped),
        notes=(*table.notes, *found.notes),
        keys={name: [key_of(document.text) for document in part] for name, part in found.parts.items()},
        served=(served,),
    )


def _conversations(table: Table, data: Data, split: str) -> Corpus:
    def why_not(row: Mapping[str, Any]) -> str | None:
        try:
            messages = as_messages(row["messages"])
        except DataError as error:
            return str(error)
        return None if answered(messages) else "it has no answer of the assistant"

    found = read_examples(data, ("messages",), split=split, table=table, check=why_not)
    items = [Conversation(as_messages(value)) for value in found.column("messages")]
    return Corpus(CONVERSATIONS, items, found.report("conversations"))


def _pairs(table: Table, data: Data, split: str) -> Corpus:
    def why_not(row: Mapping[str, Any]) -> str | None:
        return next((f"its {role} is no text" for role, value in row.items() if not _is_said(value)), None)

    found = read_examples(data, ("prompt", "completion"), split=split, table=table, check=why_not)
    pairs = list(zip(found.column("prompt"), found.column("completion"), strict=True))
    if all(isinstance(side, str) for pair in pairs for side in pair):
        return Corpus(PAIRS, pairs, found.report("pairs"))
    return Corpus(CONVERSATIONS, [_joined(*pair) for pair in pairs], found.report("conversations"))


def _is_said(value: Any) -> bool:
    if isinstance(value, str):
        return True
    try:
        return bool(as_messages(value))
    except DataError:
        return False


def _joined(prompt: Any, completion: Any) -> Conversation:
    before = as_messages(prompt)
    after = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else as_messages(completion)
    return Conversation([*before, *after], len(before))


def _tokens(table: Table, data: Data, split: str, takes: Sequence[str]) -> Corpus:
    used = {name: column for name, column in table.columns.items() if name != data.group}
    rows = token_rows(used, table.origin, takes=takes)
    numbers = {TOKENS: list(range(len(rows)))}
    groups = {name: column for name, column in table.columns.items() if name == data.group}
    found = read_examples(
        replace(data, columns={}),
        (TOKENS,),
        split=split,
        table=Table({**numbers, **groups}, table.origin, splits=table.splits, notes=table.notes),
        key=lambda row: b"".join(values.numpy().tobytes() for _, values in sorted(rows[row[TOKENS]].items())),
    )
    report = replace(found.report("rows of tokens"), columns={})
    return Corpus(TOKEN_ROWS, [rows[number] for number in found.column(TOKENS)], report)
