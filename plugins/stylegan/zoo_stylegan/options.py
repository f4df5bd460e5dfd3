"""What can be chosen when images are drawn."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from zoo import Option

from .config import class_names, complete, stored, with_classes

if TYPE_CHECKING:
    from zoo import Entry

NOISE = ("const", "random", "none")


def sample_kinds(entry: Entry) -> list[str]:
    """Return that samples are pictures."""
    return ["image"]


def sample_options(entry: Entry) -> list[Option]:
    """Return truncation, noise, style mixing, and the classes of a conditional generator."""
    config = complete(with_classes(stored(entry), entry), entry.name)
    layers = 2 * (int(math.log2(config["img_resolution"])) - 1)
    return [
        Option("psi", 1.0, "truncation: 1 all variety, 0 the average image", low=0, high=2),
        Option("cutoff", None, "in how many layers styles are truncated; None: in all", "int", 0, layers),
        Option("noise", "const", "the network's own, new for each image, or none", choices=NOISE),
        Option("crossover", None, "the layer from which a second latent's styles apply", "int", 0, layers),
        Option(
            "labels",
            None,
            "the classes to draw, repeated to n" if config["c_dim"] else "the model has no classes",
            type="classes",
            choices=tuple(class_names(config)),
            each=True,
        ),
    ]
