"""What can be chosen when images are drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo import Option

if TYPE_CHECKING:
    from zoo import Entry

MODES = ("prior", "reconstruct", "interpolate")


def sample_kinds(entry: Entry) -> list[str]:
    """Return that samples are pictures."""
    return ["image"]


def sample_options(entry: Entry) -> list[Option]:
    """Return where latents come from, and how far from their mean."""
    return [
        Option(
            "mode",
            None,
            "points of the prior (default), images of the data again, or the way between them",
            choices=MODES,
        ),
        Option("data", None, "images to reconstruct, or to go between", type="images"),
        Option("temperature", None, "standard deviations: by default 1 for the prior, else 0", "float", 0, 100),
        Option("ends", 2, "how many images the way goes through", low=2),
        Option("size", None, "pixels of an edge; None: the model's own", "int", 1, 4096),
    ]
