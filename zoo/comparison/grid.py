"""What is compared: the ways, and what is the same for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from zoo.errors import TuningError

BASE, LORA, FULL = "base", "lora", "full"
_BITS = (4, 8, 16, 32)


@dataclass(frozen=True)
class Way:
    """One way to have the model.

    Attributes:
        kind: "base": as it is loaded; "lora": with an adapter that is tuned; "full": with every weight tuned.
        bits: the precision of the base's weights.
        rank: of the adapter.
        merged: whether the adapter is merged into the base in the end.
    """

    kind: str
    bits: int
    rank: int | None = None
    merged: bool = False

    @property
    def name(self) -> str:
        """What a report calls it: "4 bit + LoRA 8, merged"."""
        if self.kind == BASE:
            return f"{self.bits} bit"
        if self.kind == FULL:
            return f"full, {self.bits} bit"
        return f"{self.bits} bit + LoRA {self.rank}{', merged' if self.merged else ''}"

    @property
    def folder(self) -> str:
        """The name of its folder."""
        parts = [self.kind if self.kind != LORA else f"lora{self.rank}", f"{self.bits}bit"]
        return "-".join([*parts, *(["merged"] if self.merged else [])])


@dataclass(frozen=True)
class Plan:
    """What is the same for all ways.

    Attributes:
        name: the model, as `zoo.load` takes it.
        data: what to tune and evaluate on, as text; None: the plugin's own.
        columns: what a column is → its name.
        weights, revision, device: as `zoo.load` takes them.
        steps: of tuning.
        batch_size, lr: of tuning; None: the plugin's and zoo's.
        seed: of tuning, of new factors and of samples.
        samples: how many each way draws, from the same seed.
        options: of sampling.
        metrics: more of them than the usual.
        judge: in whose features pictures are compared, by name.
        repeats: how often the latency is measured; the median counts.
    """

    name: str
    data: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    weights: str | None = None
    revision: str | None = None
    device: str | None = None
    steps: int = 200
    batch_size: int | None = None
    lr: float | None = None
    seed: int = 0
    samples: int = 16
    options: dict[str, Any] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    judge: str | None = None
    repeats: int = 5

    def __post_init__(self) -> None:
        for name in ("steps", "samples", "repeats"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise TuningError(f"expected {name} as a whole number, at least 1, got {value!r}")

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as JSON has it."""
        return {**asdict(self), "metrics": list(self.metrics)}


def ways(bits: Iterable[int] = (32, 16, 8, 4), lora: int | Sequence[int] | None = 8, full: bool = False) -> list[Way]:
    """Return the grid: each precision as it is and with each adapter, and full fine-tuning in the highest of them.

    Args:
        bits: precisions, of 4, 8, 16 and 32.
        lora: a rank, or several; None: no adapters.
        full: whether to tune every weight too.

    Raises:
        TuningError: a precision or a rank cannot be, or there is nothing to compare.
    """
    widths = list(dict.fromkeys(bits))
    for width in widths:
        if width not in _BITS:
            raise TuningError(f"expected bits of {', '.join(map(str, _BITS))}, got {width!r}")
    ranks = [] if lora is None else [lora] if isinstance(lora, int) else list(dict.fromkeys(lora))
    for rank in ranks:
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise TuningError(f"expected ranks as whole numbers, at least 1, got {rank!r}")
    found = [Way(BASE, width) for width in widths]
    found += [Way(FULL, max([width for width in widths if width >= 16], default=32))] if full else []
    found += [Way(LORA, width, rank) for rank in ranks for width in widths]
    if len(found) < 2:
        raise TuningError("there is nothing to compare: give at least two precisions, or a rank, or full=True")
    return found
