"""What a comparison found."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.comparison.cell import SAMPLES
from zoo.comparison.grid import Plan, Way
from zoo.comparison.quality import Quality
from zoo.loading.resolve import resolve
from zoo.metrics import Difference
from zoo.runs import kept_samples
from zoo.samples import Samples


@dataclass(frozen=True)
class Cell:
    """One way, measured.

    Attributes:
        way: which.
        folder: where its samples are.
        measured: what `zoo.comparison.cell.measure` returned.
        error: why it could not be measured; "" if it was.
        name: the model's, as `zoo.load` takes it.
    """

    way: Way
    folder: Path
    measured: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    name: str = ""

    @property
    def quality(self) -> Quality:
        """Its figures."""
        return Quality(self.way.name, self.measured["quality"])

    @property
    def figures(self) -> dict[str, float]:
        """Its figures, the main one first."""
        return self.quality.figures

    def interval(self, name: str) -> tuple[float, float] | None:
        """Return the interval of a figure."""
        return self.quality.interval(name)

    @property
    def samples(self) -> Samples | None:
        """What it drew."""
        return kept_samples.kept(self.folder / SAMPLES, lambda: resolve(self.name, download=False))

    def against(self, other: Cell) -> tuple[str, Difference] | None:
        """Return the first figure whose values of each example both have, and its difference in pairs."""
        return self.quality.against(other.quality)


@dataclass(frozen=True)
class Comparison:
    """All ways, side by side.

    Attributes:
        plan: what is the same for all of them.
        cells: in the order of the grid.
        out: the folder: `report.html`, `report.json`, `blind.html`, and a folder for each way.
    """

    plan: Plan
    cells: tuple[Cell, ...]
    out: Path

    @property
    def measured(self) -> list[Cell]:
        """The ways that could be measured."""
        return [cell for cell in self.cells if not cell.error]

    @property
    def report(self) -> Path:
        """The page with everything."""
        return self.out / "report.html"

    @property
    def blind(self) -> Path:
        """The page on which a person chooses."""
        return self.out / "blind.html"

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as JSON has it, without the values of each example."""
        rows = []
        for cell in self.cells:
            told: dict[str, Any] = {"name": cell.way.name, "way": vars(cell.way), "folder": cell.folder.name}
            if cell.error:
                rows.append({**told, "error": cell.error})
                continue
            quality = {key: value for key, value in cell.measured["quality"].items() if key != "each"}
            rows.append({**told, **cell.measured, "quality": quality})
        return {"plan": self.plan.as_dict(), "ways": rows}
