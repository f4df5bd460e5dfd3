"""What the page does: draw samples under weighted adapters, beside the base and beside each adapter alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo.plugin import hooks
from zoo.samples import Samples, sheet

if TYPE_CHECKING:
    from PIL.Image import Image

    from zoo.model import Model
    from zoo.plugin.options import Option

BASE = "base"
TUNED = "with adapters"
DRAWN = "samples"  # of a model that has no adapters
MOST = 64  # samples at once
SEEDS = 2**31


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

    def draw(
        self,
        n: int,
        seed: int,
        values: Mapping[str, Any],
        weights: Mapping[str, float] | None = None,
        beside: Sequence[str] = (),
    ) -> list[Drawn]:
        """Return samples of the same seed, of one way to use the model after the other.

        Args:
            n: how many of each.
            seed: of them all.
            values: the options' values; None leaves one to its default.
            weights: of each adapter; one of weight 0 is not used.
            beside: what else to draw: "base", or adapters, each alone with its full weight.

        Raises:
            ZooError: an option, a weight or a name cannot be. The active adapters are then, as always, those before.
        """
        options = {name: value for name, value in values.items() if value is not None}
        used = {name: weight for name, weight in (weights or {}).items() if weight}
        ways: list[tuple[str, dict[str, float]]] = [(BASE, {})] if BASE in beside else []
        ways += [(name, {name: 1.0}) for name in beside if name != BASE]
        ways += [(TUNED, used)] if used else [] if ways else [(BASE if self.adapters else DRAWN, {})]
        found = []
        with self._turn, self._restored():
            for label, chosen in ways:
                if chosen:
                    self.model.activate(*chosen, weights=list(chosen.values()))
                else:
                    self.model.deactivate()
                found.append(Drawn(label, self.model.sample(n, seed=seed, **options)))
        return found

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


def picture(drawn: Sequence[Drawn]) -> Image | None:
    """Return all samples as one picture, a row for each way; None for samples that are none."""
    if not all(".png" in one.samples.suffixes for one in drawn):
        return None
    if len(drawn) == 1:
        return drawn[0].samples.image()
    if all(one.samples.kind == "image" for one in drawn):
        return sheet([(one.label, one.samples) for one in drawn])
    return _stacked([(one.label, one.samples.image()) for one in drawn])


def text(drawn: Sequence[Drawn]) -> str | None:
    """Return all samples as one text, each way under its name; None for samples that have none."""
    if not all(".txt" in one.samples.suffixes for one in drawn):
        return None
    if len(drawn) == 1:
        return drawn[0].samples.text()
    return "\n".join(f"— {one.label} —\n{one.samples.text()}" for one in drawn)


def _stacked(rows: Sequence[tuple[str, Image]]) -> Image:
    """Return pictures one below the other, each under its label."""
    from PIL import Image, ImageDraw

    from zoo.samples.pictures import CAPTION, caption_font, ink, paper

    font = caption_font(CAPTION + 3)
    line = CAPTION * 2 + 4
    width = max(image.width for _, image in rows)
    canvas = Image.new("RGB", (width, sum(image.height + line for _, image in rows)), paper("RGB"))
    draw, top = ImageDraw.Draw(canvas), 0
    for label, image in rows:
        draw.text((8, top + line / 2), label, fill=ink("RGB"), font=font, anchor="lm")
        canvas.paste(image.convert("RGB"), (0, top + line))
        top += line + image.height
    return canvas
