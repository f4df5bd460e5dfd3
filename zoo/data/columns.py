"""Columns by name: what the user says, else the usual names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zoo.errors import DataError, did_you_mean

_MORE_LABELS = ("rating", "score", "intent", "emotion", "topic", "genre", "species")
_MORE_TEXTS = ("review_text", "utterance", "tweet", "post", "abstract")
# What a column is -> the names that data have for it; the first one that is there counts.
USUAL = {
    "image": ("image", "images", "img", "picture", "photo", "pixel_values", "file_name", "image_path", "png", "jpg"),
    "label": (
        "label",
        "labels",
        "class",
        "classes",
        "category",
        "target",
        "y",
        "cls",
        "fine_label",
        "sentiment",
        "stars",
        *_MORE_LABELS,
    ),
    "caption": ("caption", "captions", "text", "description", "prompt", "title"),
    "text": (
        "text",
        "texts",
        "content",
        "sentence",
        "document",
        "review",
        "body",
        "article",
        "comment",
        "message",
        *_MORE_TEXTS,
    ),
    "messages": ("messages", "conversations", "conversation", "chat", "dialog", "dialogue"),
    "prompt": ("prompt", "instruction", "question", "query", "input", "inputs", "source"),
    "completion": ("completion", "response", "answer", "output", "outputs", "reply", "target"),
    "words": ("tokens", "words"),
    "tags": ("tags", "ner_tags", "labels", "pos_tags"),
}


def find_columns(
    names: Sequence[str],
    needed: Sequence[str],
    optional: Sequence[str] = (),
    *,
    given: Mapping[str, str],
    origin: str,
) -> dict[str, str]:
    """Return what a column is → its name among `names`, for all of `needed` and those of `optional` that are there.

    Args:
        names: of the columns that the data have.
        needed: what has to be found, keys of `USUAL`.
        optional: what may be missing.
        given: what the user says, as `zoo.Data.columns`.
        origin: what the error calls the data.

    Raises:
        DataError: the user names a column that is not there or something that is no column of this kind of data, or
            what is needed is not found.
    """
    wanted = (*needed, *optional)
    for role, name in given.items():
        if role not in wanted:
            raise DataError(
                f"columns: expected {' or '.join(map(repr, wanted))}, got {role!r}.{did_you_mean(role, wanted)}"
            )
        if name not in names:
            raise DataError(
                f"{origin}: has no column {name!r}; it has {', '.join(names) or 'none'}.{did_you_mean(name, names)}"
            )
    lower: dict[str, str] = {}
    for name in names:
        lower.setdefault(name.lower(), name)
    found = dict(given)
    for role in wanted:
        if role in found:
            continue
        taken = set(found.values())
        usual = (lower[name] for name in USUAL.get(role, (role,)) if name in lower and lower[name] not in taken)
        column = next(usual, None)
        if column is not None:
            found[role] = column
        elif role in needed:
            listed = ", ".join(names) or "none"
            raise DataError(
                f"{origin}: found no column of the {role}s; its columns are {listed}: say which one it is, "
                f'columns={{"{role}": "NAME"}} (--column {role}=NAME)'
            )
    return found
