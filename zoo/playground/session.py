"""What the page does: draw samples, and measure, under weighted adapters, beside the base and each adapter alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zoo.comparison.quality import Quality, kept
from zoo.plugin import hooks

if TYPE_CHECKING:
    from zoo.model import Model
    from zoo.plugin.options import Option
    from zoo.samples import Samples

BASE = "base"
Tell = Callable[[str, int, int], None]  # a way's label, its number from 0, of how many
DRAWN = "samples"  # of a model that has no adapters
MOST = 64  # samples at once
SEEDS = 2**31


@dataclass(frozen=True)
class Way:
    """One way to use the model.

    Attributes:
        label: what the page calls it: "base", "serif", "serif × 0.5 + bold × 1".
        weights: adapter → its weight; empty for the base.
    """

    label: str
    weights: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Drawn:
    """Samples of one way to use the model.

    Attributes:
        label: which way.
        samples: what was drawn.
    """

    label: str
    samples: Samples


class Session:
    """A model that one page uses; calls wait for each other, as they change which adapters are active.

    Args:
        model: the model.

    Attributes:
        model: the model.
        options: what its plugin declares of its options; None if it declares nothing.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.options: tuple[Option, ...] | None = hooks.options_of(model)
        self._turn = threading.Lock()

    @property
    def adapters(self) -> tuple[str, ...]:
        """The adapters' names."""
        return tuple(self.model.adapters)

    def ways(self, weights: Mapping[str, float] | None = None, beside: Sequence[str] = ()) -> list[Way]:
        """Return which ways to use the model are asked for, each once.

        Args:
            weights: of each adapter; one of weight 0 is not used.
            beside: what else: "base", or adapters, each alone with its full weight.
        """
        used = {name: weight for name, weight in (weights or {}).items() if weight}
        found = [Way(BASE)] if BASE in beside else []
        found += [Way(name, {name: 1.0}) for name in beside if name != BASE]
        if used and used not in [one.weights for one in found]:
            found.append(Way(_mixed(used), used))
        return found or [Way(BASE if self.adapters else DRAWN)]

    def draw(
        self,
        n: int,
        seed: int,
        values: Mapping[str, Any],
        weights: Mapping[str, float] | None = None,
        beside: Sequence[str] = (),
        tell: Tell | None = None,
    ) -> list[Drawn]:
        """Return samples of the same seed, of one way to use the model after the other.

        Args:
            n: how many of each; where pictures are given of which each is a sample's, there are as many as these.
            seed: of them all.
            values: the options' values; None leaves one to its default.
            weights: as in `ways`.
            beside: as in `ways`.
            tell: is called before each way.

        Raises:
            ZooError: an option, a weight or a name cannot be. The active adapters are then, as always, those before.
        """
        options = {name: value for name, value in values.items() if value is not None}
        for option in self.options or ():
            if option.type == "images" and option.each and option.name in options:
                n = len(options[option.name])
        with self._turn, self._restored():
            return [
                Drawn(label, self.model.sample(n, seed=seed, **options))
                for label in self._activated(self.ways(weights, beside), tell)
            ]

    def measure(
        self,
        weights: Mapping[str, float] | None = None,
        beside: Sequence[str] = (),
        data: str | None = None,
        tell: Tell | None = None,
    ) -> list[Quality]:
        """Return the figures of one way after the other, on the same data.

        Args:
            weights: as in `ways`.
            beside: as in `ways`.
            data: a name, a folder or a file; None: the plugin's own.
            tell: is called before each way.

        Raises:
            ZooError: there are no such data, or the model cannot be evaluated on them.
        """
        with self._turn, self._restored():
            return [
                Quality(label, kept(self.model.evaluate(data)))
                for label in self._activated(self.ways(weights, beside), tell)
            ]

    def _activated(self, ways: Sequence[Way], tell: Tell | None) -> Iterator[str]:
        """Yield the label of each way while its adapters are the active ones."""
        for number, way in enumerate(ways):
            if tell is not None:
                tell(way.label, number, len(ways))
            if way.weights:
                self.model.activate(*way.weights, weights=list(way.weights.values()))
            else:
                self.model.deactivate()
            yield way.label

    @contextmanager
    def _restored(self) -> Iterator[None]:
        before = dict(self.model.active_weights)
        try:
            yield
        finally:
            if before:
                self.model.activate(*before, weights=list(before.values()))
            else:
                self.model.deactivate()


def _mixed(weights: Mapping[str, float]) -> str:
    if list(weights.values()) == [1.0]:
        return next(iter(weights))
    return " + ".join(f"{name} × {weight:g}" for name, weight in weights.items())
