"""What was taken of a user's data, and what was left: said before the first step, and kept with what was trained."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

SEEN = "seen_in_training"  # the metric: the share of what was evaluated that the model was trained on
_LISTED = 3  # of what was skipped, named one by one
_reports: ContextVar[Reports | None] = ContextVar("reports", default=None)


@dataclass(frozen=True)
class Report:
    """What became of one source.

    Attributes:
        origin: what the source is called.
        unit: what its examples are, in the plural: "images", "texts", "nodes".
        splits: split → how many examples of it.
        rule: how the splits were made, in words.
        columns: what a column is → its name.
        unused: the columns that nothing uses.
        classes: class → how many examples, in the order of the classes.
        skipped: (what was left out, why).
        notes: what else there is to know.
        keys: split → a key of 8 bytes for each example, which depends on its content alone.
        served: the splits whose examples this reading handed out; "all" stands for all.
    """

    origin: str
    unit: str
    splits: Mapping[str, int] = field(default_factory=dict)
    rule: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    classes: Mapping[str, int] = field(default_factory=dict)
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    keys: Mapping[str, Sequence[bytes]] = field(default_factory=dict, repr=False)
    served: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """A digest of all the examples, in whatever order; "" where their keys are not known."""
        if not self.keys:
            return ""
        hashed = hashlib.blake2b(digest_size=16)
        for split in sorted(self.keys):
            hashed.update(split.encode() + b"\0" + b"".join(sorted(self.keys[split])))
        return hashed.hexdigest()

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        used = sum(self.splits.values())
        parts = [f"{used} used"]
        if self.skipped:
            named = "; ".join(f"{name}: {why}" for name, why in self.skipped[:_LISTED])
            rest = len(self.skipped) - _LISTED
            parts.append(f"{len(self.skipped)} skipped ({named}{f'; and {rest} more' if rest > 0 else ''})")
        found = [f"{self.origin}: {used + len(self.skipped)} {self.unit}: {', '.join(parts)}"]
        if not self.splits and not self.skipped:  # a stream, or what a model makes of its data
            found = [self.origin] if self.columns or self.classes else []
        if self.columns:
            unused = f"; not used: {', '.join(self.unused)}" if self.unused else ""
            found.append("columns: " + ", ".join(f"{what} is {name}" for what, name in self.columns.items()) + unused)
        if self.classes:
            shown = list(self.classes.items())[:30]
            more = f", … ({len(self.classes)} classes)" if len(self.classes) > len(shown) else ""
            found.append("classes: " + ", ".join(f"{name} {count}" for name, count in shown) + more)
        if self.splits:
            sizes = ", ".join(f"{name} {count}" for name, count in self.splits.items())
            found.append(f"splits: {sizes}{f' ({self.rule})' if self.rule else ''}")
        return [*found, *self.notes]

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON has it; keys as their digest."""
        return {
            "origin": self.origin,
            "unit": self.unit,
            "splits": dict(self.splits),
            "rule": self.rule,
            "columns": dict(self.columns),
            "unused": list(self.unused),
            "classes": dict(self.classes),
            "skipped": [list(one) for one in self.skipped],
            "notes": list(self.notes),
            "digest": self.digest,
        }


class Reports(list[Report]):
    """The reports of a block, and how many items one pass over its training data has (None: nobody said)."""

    items: int | None = None


@contextmanager
def collecting() -> Iterator[Reports]:
    """Yield a list that gets the report of every source that is read within the block."""
    reports = Reports()
    token = _reports.set(reports)
    try:
        yield reports
    finally:
        _reports.reset(token)


def record(report: Report) -> None:
    """Hand a report to whoever collects them; once if it says what an earlier one says."""
    reports = _reports.get()
    if reports is not None and report not in reports:
        reports.append(report)


def record_items(count: int) -> None:
    """Say how many items one pass over the training data has; `zoo.data.stream.stream` does."""
    reports = _reports.get()
    if reports is not None:
        reports.items = count


def key_of(*parts: bytes | str) -> bytes:
    """Return the key of an example: 8 bytes that depend on its content alone."""
    hashed = hashlib.blake2b(digest_size=8)
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        hashed.update(len(raw).to_bytes(8, "big") + raw)
    return hashed.digest()
