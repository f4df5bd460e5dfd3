"""Token ids that a user brings, with what belongs to them: used as they are, or refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zoo.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100  # label of a token that is not to be predicted, as in transformers
TOKENS = "input_ids"
# What a row of token ids may come with, and what a place has where a row is padded.
PADDING = {TOKENS: 0, "labels": IGNORED, "attention_mask": 0, "position_ids": 0, "token_type_ids": 0}

Row = dict[str, "Tensor"]


def token_rows(
    columns: Mapping[str, Sequence[Any]], origin: str, *, takes: Sequence[str] = tuple(PADDING)
) -> list[Row]:
    """Return rows of token ids, int64 [t] each, with what belongs to them.

    Args:
        columns: name → a tensor [n, t] or a list of n rows: "input_ids", and any of "labels" (a number for each token,
            or one for the row), "attention_mask", "position_ids", "token_type_ids".
        origin: what errors call the data.
        takes: which of them the model uses.

    Raises:
        DataError: a column would be ignored, or one of them does not fit the token ids.
    """
    for name in columns:
        if name not in takes:
            raise DataError(
                f"{origin}: the model does not use {name!r} beside token ids, it would be ignored: leave it out. "
                f"It uses {', '.join(takes)}.{did_you_mean(name, takes)}"
            )
    ids: Any = columns[TOKENS]
    if hasattr(ids, "ndim") and ids.ndim != 2:
        raise DataError(f"{origin}: expected token ids as an integer Tensor [n, t], got {ids.dtype} {tuple(ids.shape)}")
    found: list[Row] = []
    for number in range(len(ids)):
        row = {name: _integers(column[number], name, number, origin) for name, column in columns.items()}
        length = row[TOKENS].shape
        for name, values in row.items():
            if values.shape != length and not (name == "labels" and values.ndim == 0):
                raise DataError(
                    f"{origin}: row {number} has {tuple(length)} token ids and {tuple(values.shape)} {name}: "
                    "give one for each token"
                )
        if not len(row[TOKENS]):
            raise DataError(f"{origin}: row {number} has no token ids: leave it out")
        mask = row.get("attention_mask")
        if mask is not None and not bool(((mask == 0) | (mask == 1)).all()):
            raise DataError(f"{origin}: expected an attention_mask of 0 and 1, row {number} has other values")
        found.append(row)
    return found


def padded(rows: Sequence[Row], filler: int) -> dict[str, Tensor]:
    """Return rows as tensors int64 [n, t], padded on the right; rows of several lengths get an attention_mask.

    Args:
        rows: what `token_rows` returns, all with the same names.
        filler: token id of a place that is padding.
    """
    import torch

    lengths = [len(row[TOKENS]) for row in rows]
    if len(set(lengths)) > 1:
        rows = [{"attention_mask": torch.ones_like(row[TOKENS]), **row} for row in rows]
    found = {}
    for name in rows[0]:
        fill = filler if name == TOKENS else PADDING[name]
        if rows[0][name].ndim == 0:
            found[name] = torch.stack([row[name] for row in rows])
            continue
        whole = torch.full((len(rows), max(lengths)), fill)
        for at, row in enumerate(rows):
            whole[at, : len(row[name])] = row[name]
        found[name] = whole
    return found


def trimmed(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a batch without the columns at its end that are padding in all of its rows, by its attention_mask.

    What has a number for each token is cut; labels of whole rows, several classes or numbers, are floats and stay.
    """
    if "attention_mask" not in batch:
        return batch
    used = batch["attention_mask"].any(0).nonzero()
    length = int(used[-1]) + 1 if len(used) else 1
    by_token = {name for name, tensor in batch.items() if tensor.ndim == 2 and not tensor.is_floating_point()}
    return {name: tensor[:, :length].contiguous() if name in by_token else tensor for name, tensor in batch.items()}


def _integers(values: Any, name: str, number: int, origin: str) -> Tensor:
    import torch

    try:
        found = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):
        raise DataError(f"{origin}: expected {name} as whole numbers, row {number} has other values") from None
    if found.ndim > 1 or (found.is_floating_point() and found.numel()) or found.is_complex():
        raise DataError(
            f"{origin}: expected {name} as whole numbers, one row of them, got {found.dtype} {tuple(found.shape)} "
            f"in row {number}"
        )
    return found.long()
