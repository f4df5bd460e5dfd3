"""Which rows of a table are whose: the splits that the data have, else those that the one rule draws."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from zoo.data.spec import ALL, Data, split_name
from zoo.data.splits import held_out
from zoo.errors import DataError

T = TypeVar("T")


@dataclass(frozen=True)
class Division:
    """The rows of each split.

    Attributes:
        rows: split → the numbers of its rows, ascending.
        rule: how they were told apart, in words.
        notes: what else there is to say, such as rows that two splits of the data have in common.
    """

    rows: Mapping[str, Sequence[int]]
    rule: str
    notes: tuple[str, ...] = ()

    def of(self, split: str, data: Data, origin: str) -> Sequence[int]:
        """Return the rows of the split that is asked for, or of `data.split` where the user chose one.

        What is asked for as "test" is "validation" where there is no test, and the reverse.

        Raises:
            DataError: it has no row; the message says what to give.
        """
        chosen = choose(self.rows, split, data)
        if chosen == ALL:
            return sorted(row for rows in self.rows.values() for row in rows)
        if chosen is None:
            raise no_split(split, data, origin, sum(map(len, self.rows.values())))
        return self.rows[chosen]


def divide(
    groups: Sequence[Hashable],
    data: Data,
    *,
    own: Mapping[str, Sequence[int]] | None = None,
    labels: Sequence[Hashable] | None = None,
    sizes: Sequence[float] | None = None,
    counted: str = "",
) -> Division:
    """Return the splits of n rows: those the data have, "test" drawn by the one rule where they have none.

    Args:
        groups: the group of each row, equal for equal rows.
        data: the share and the seed.
        own: split → its rows, as `Table.splits`.
        labels: the class of each row, of which each gives its share.
        sizes: what each row counts; None: 1.
        counted: what the sizes are, in words: "characters".
    """
    own = {split: sorted(rows) for split, rows in (own or {}).items() if len(rows)}
    if len(own) > 1 or (own and "train" not in own):
        return Division(own, "the data's own", tuple(_shared(own, groups)))
    rows = own.get("train", range(len(groups)))
    out = held_out(
        [groups[row] for row in rows],
        labels=None if labels is None else [labels[row] for row in rows],
        sizes=None if sizes is None else [sizes[row] for row in rows],
        share=data.hold_out,
        seed=data.seed,
    )
    parts = {"train": False, "test": True}
    return Division(
        {name: [row for row, held in zip(rows, out, strict=True) if held == side] for name, side in parts.items()},
        rule_of(data, counted),
    )


def rule_of(data: Data, counted: str = "") -> str:
    """Return the rule by which examples are held out, in words: "10 % held out, seed 0"."""
    group = f" by {data.group}" if data.group else ""
    return f"{100 * data.hold_out:g} %{f' of the {counted}' if counted else ''} held out{group}, seed {data.seed}"


def choose(there: Mapping[str, Sequence[object]], split: str, data: Data) -> str | None:
    """Return which of the splits that are there is meant, ALL for all of them; None: it has nothing."""
    wanted = data.split or split
    if wanted == ALL:
        return ALL
    wanted = split_name(wanted)
    other = {"test": "validation", "validation": "test"}.get(wanted)
    return next((name for name in (wanted, other) if name is not None and there.get(name)), None)


def as_used(parts: Mapping[str, Sequence[T]], rule: str, data: Data) -> tuple[Mapping[str, Sequence[T]], str]:
    """Return parts and their rule as a report has them: one part where the user takes all for everything."""
    if data.split != ALL:
        return parts, rule
    return {ALL: [one for part in parts.values() for one in part]}, "nothing held out"


def no_split(split: str, data: Data, origin: str, count: int) -> DataError:
    """Return the error about a split that has nothing in it."""
    wanted = data.split or split
    advice = 'zoo.Data(…, split="all") uses all of them for it'
    if wanted == "train":
        return DataError(f"{origin}: has nothing to train on, its splits are for evaluation alone: {advice}")
    if data.hold_out == 0:
        return DataError(f"{origin}: nothing is held out (hold_out is 0), so nothing is left for {wanted!r}: {advice}")
    if count == 1:
        return DataError(f"{origin}: one example alone is not split, so none is held out: give more, or {advice}")
    return DataError(f"{origin}: none of its {count} examples is held out, as all are of one group: {advice}")


def _shared(own: Mapping[str, Sequence[int]], groups: Sequence[Hashable]) -> list[str]:
    trained = {groups[row] for row in own.get("train", ())}
    notes = []
    for split, rows in own.items():
        count = sum(groups[row] in trained for row in rows) if split != "train" else 0
        if count:
            notes.append(f"{count} of the {len(rows)} examples of {split} are in train too")
    return notes
