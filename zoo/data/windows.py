"""Windows of tokens for a causal model: of one continuous text, of texts packed together, of one text in each row.

Notation of the shapes: n windows, t tokens in a window.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from zoo.errors import DataError
from zoo.integrations.tokens import IGNORED, Sequenced

if TYPE_CHECKING:
    from torch import Tensor


def continuous(ids: Sequence[int], size: int, filler: int) -> dict[str, Tensor]:
    """Return "input_ids" and "labels" int64 [n, t]: one text in windows that overlap by one token.

    So every token but the first of the text is predicted once. Labels are the inputs, IGNORED for the first of a
    window and where the last one is padded.

    Args:
        ids: the text's tokens.
        size: of a window.
        filler: token of the padding.

    Raises:
        DataError: there are fewer than two tokens.
    """
    import torch

    if len(ids) < 2:
        raise DataError("expected a text of at least two tokens, got fewer: give a longer text")
    size = min(size, len(ids))
    starts = range(0, len(ids) - 1, size - 1)
    inputs = torch.full((len(starts), size), filler)
    labels = torch.full((len(starts), size), IGNORED)
    for row, start in enumerate(starts):
        window = torch.tensor(ids[start : start + size])
        inputs[row, : len(window)] = labels[row, : len(window)] = window
    labels[:, 0] = IGNORED  # nothing is before it
    return {"input_ids": inputs, "labels": labels}


def in_windows(texts: Iterable[Sequenced], size: int) -> list[Sequenced]:
    """Return texts with those longer than `size` in windows that overlap by one token; each token is predicted once.

    The first token of a window is not to be predicted. A window in which nothing is to be predicted is left out.
    """
    found = []
    for ids, labels in texts:
        for start in range(0, max(1, len(ids) - 1), size - 1):
            part = labels[start : start + size]
            part = [IGNORED, *part[1:]]
            if any(label != IGNORED for label in part):
                found.append(Sequenced(ids[start : start + size], part))
    return found


def cut(texts: Iterable[Sequenced], size: int) -> tuple[list[Sequenced], int, int]:
    """Return texts cut at `size` tokens, how many are cut, and how many have nothing to predict and are left out."""
    found, longer, empty = [], 0, 0
    for ids, labels in texts:
        part = [IGNORED, *labels[1:size]]
        if all(label == IGNORED for label in part):
            empty += 1
            continue
        longer += len(ids) > size
        found.append(Sequenced(ids[:size], part))
    return found, longer, empty


def packed(texts: Sequence[Sequenced], size: int, filler: int) -> dict[str, Tensor]:
    """Return "input_ids", "labels" and "position_ids" int64 [n, t]: as few windows as hold all texts, none of them cut.

    Positions begin at 0 with every text, by which transformers' attention keeps them apart.

    Args:
        texts: of at most `size` tokens each, their first label IGNORED.
        size: of a window, at most.
        filler: token of the padding.
    """
    import torch

    rows: list[list[Sequenced]] = []
    room: list[tuple[int, int]] = []  # (free places, number of the row), ascending
    for text in sorted(texts, key=lambda text: -len(text.ids)):  # stable: equal lengths stay in their order
        at = bisect_left(room, (len(text.ids), -1))
        free, row = room.pop(at) if at < len(room) else (size, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(text)
        insort(room, (free - len(text.ids), row))
    width = max(sum(len(text.ids) for text in row) for row in rows)
    inputs = torch.full((len(rows), width), filler)
    labels = torch.full((len(rows), width), IGNORED)
    positions = torch.zeros((len(rows), width), dtype=torch.int64)
    for number, together in enumerate(rows):
        start = 0
        for ids, wanted in together:
            end = start + len(ids)
            inputs[number, start:end] = torch.tensor(ids)
            labels[number, start:end] = torch.tensor(wanted)
            positions[number, start:end] = torch.arange(len(ids))
            start = end
        positions[number, start:] = torch.arange(width - start)
    return {"input_ids": inputs, "labels": labels, "position_ids": positions}


def one_in_each(texts: Sequence[Sequenced], filler: int) -> dict[str, Tensor]:
    """Return "input_ids", "labels" and "attention_mask" int64 [n, t]: a text in every row, padded on the right."""
    import torch

    shape = (len(texts), max(len(text.ids) for text in texts))
    inputs, labels = torch.full(shape, filler), torch.full(shape, IGNORED)
    mask = torch.zeros(shape, dtype=torch.int64)
    for row, (ids, wanted) in enumerate(texts):
        inputs[row, : len(ids)] = torch.tensor(ids)
        labels[row, : len(ids)] = torch.tensor(wanted)
        mask[row, : len(ids)] = 1
    return {"input_ids": inputs, "labels": labels, "attention_mask": mask}
