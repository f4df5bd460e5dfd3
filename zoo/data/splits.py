"""One rule for all data that have no splits of their own: which examples are held out.

`divide` says which rows of a table are of which split, `rows_of` which of them a plugin is to have.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence

from zoo.data.spec import ALL, HOLD_OUT, Data, split_name
from zoo.data.table import Table
from zoo.errors import DataError, did_you_mean

_OTHER = {"validation": "test", "test": "validation"}


def divide(
    table: Table,
    given: Data,
    *,
    groups: Sequence[Hashable],
    labels: Sequence[Hashable] | None = None,
    sizes: Sequence[float] | None = None,
) -> tuple[dict[str, list[int]], str]:
    """Return split → its rows, for all rows of a table, and how that was done, in words.

    The table's own splits are kept; of one for training alone, and of a table without splits, a part is held out.

    Args:
        table: n rows.
        given: how much is held out, by which column and seed; with `split="all"` the only split is "all".
        groups: for each row what it has in common with rows that equal it: `zoo.data.report.key_of` of its content.
        labels: the class of each row.
        sizes: what each row counts; None: 1.

    Raises:
        DataError: the column that groups are to be made by does not exist.
    """
    if given.split == ALL:
        return {ALL: list(range(len(table)))}, "every split is all of the data, as was asked"
    own = {split: list(rows) for split, rows in table.splits.items() if len(rows)}
    if own.keys() - {"train"}:
        return own, "as the data have them"
    if given.group is not None:
        if given.group not in table.columns:
            raise DataError(
                f"{table.origin}: has no column {given.group!r} to make groups by; it has {', '.join(table.columns)}."
                f"{did_you_mean(given.group, table.columns)}"
            )
        groups = [_hashable(value) for value in table.columns[given.group]]
    rows = own.get("train", list(range(len(table))))
    share, chosen = given.hold_out, [groups[i] for i in rows]
    if share and len(rows) > 1 and len(set(chosen)) == 1 and given.group is None:
        return {
            "train": rows,
            "test": rows,
        }, "all examples are equal: nothing can be held out, each split is all of them"
    out = held_out(
        chosen,
        labels=None if labels is None else [labels[i] for i in rows],
        sizes=None if sizes is None else [sizes[i] for i in rows],
        share=share,
        seed=given.seed,
    )
    parts = {
        "train": [i for i, held in zip(rows, out, strict=True) if not held],
        "test": [i for i, held in zip(rows, out, strict=True) if held],
    }
    by = f" by {given.group}" if given.group else ", equal ones together"
    return {split: part for split, part in parts.items() if part}, f"{share:.0%} held out{by}, seed {given.seed}"


def rows_of(parts: Mapping[str, list[int]], split: str, given: Data, origin: str) -> list[int]:
    """Return the rows of a split among those that `divide` found; what there is for evaluation is both of such splits.

    Args:
        parts: split → its rows.
        split: what a plugin is asked for, by any of its names.
        given: whose `split`, if any, counts instead.
        origin: what an error calls the data.

    Raises:
        DataError: there is no such split, or nothing of it.
    """
    if ALL in parts:
        return parts[ALL]
    wanted = split_name(given.split or split)
    found = parts.get(wanted) or parts.get(_OTHER.get(wanted, wanted))
    if found:
        return found
    every = 'zoo.Data(…, split="all") to use all of it for both'
    if wanted == "train":
        raise DataError(f"{origin}: has nothing for training, only {', '.join(parts)}: give {every}")
    count = len(parts.get("train", ()))
    if given.hold_out == 0:
        raise DataError(f"{origin}: nothing is held out, as hold_out=0 was asked for: give a share, or {every}")
    raise DataError(
        f"{origin}: {'one example' if count == 1 else f'{count} examples of one group'} cannot be held out and trained "
        f"on: give more, or {every}"
    )


def held_out(
    groups: Sequence[Hashable],
    *,
    labels: Sequence[Hashable] | None = None,
    sizes: Sequence[float] | None = None,
    share: float = HOLD_OUT,
    seed: int = 0,
) -> list[bool]:
    """Return for each of n examples whether it is held out: whole groups, drawn by the seed, evenly over the labels.

    Of two groups or more at least one is held out, unless the share is 0, and at least one is not. The order of the
    examples changes nothing.

    Args:
        groups: the group of each example, which stays together; equal examples should be of one group.
        labels: the class of each example, of which each gives its part.
        sizes: what each example counts; None: 1.
        share: of all that is counted.
        seed: of the draw.

    >>> sum(held_out(range(200), labels=[i % 4 for i in range(200)]))
    20
    """
    weight: dict[Hashable, float] = defaultdict(float)
    label: dict[Hashable, Hashable] = {}
    for i, group in enumerate(groups):
        weight[group] += 1 if sizes is None else sizes[i]
        label.setdefault(group, None if labels is None else labels[i])
    if len(weight) < 2 or share == 0:
        return [False] * len(groups)
    ranked = sorted(weight, key=lambda group: rank(group, seed))
    order = _evenly(ranked, weight, label, seed)
    room, chosen = share * sum(weight.values()), set[Hashable]()
    for group in order:
        if len(chosen) < len(weight) - 1 and (weight[group] / 2 <= room or not chosen):
            chosen.add(group)
            room -= weight[group]
    return [group in chosen for group in groups]


def rank(group: Hashable, seed: int = 0) -> float:
    """Return a number in [0, 1) that depends on nothing but the group and the seed: of a stream, the lowest are out."""
    value = group if isinstance(group, bytes) else repr(group).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(str(seed).encode() + b"\0" + value, digest_size=8).digest(), "big") / 2**64


def _evenly(
    ranked: list[Hashable], weight: dict[Hashable, float], label: dict[Hashable, Hashable], seed: int
) -> list[Hashable]:
    """Return the groups in an order in which every label comes in its share all along."""
    total: dict[Hashable, float] = defaultdict(float)
    for group in ranked:
        total[label[group]] += weight[group]
    seen: dict[Hashable, float] = defaultdict(float)
    place = {}
    for group in ranked:
        own = label[group]
        place[group] = (seen[own] + weight[group] / 2) / (total[own] or 1)
        seen[own] += weight[group]
    return sorted(ranked, key=lambda group: (place[group], rank(group, seed)))


def _hashable(value: object) -> Hashable:
    return value.item() if hasattr(value, "item") else value if isinstance(value, Hashable) else repr(value)
