"""Pictures that matplotlib, scikit-learn and scikit-image carry, and random crops of them.

The photographs that are measured are never calibrated or trained on.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from bed import folder
from PIL import Image
from torch import Tensor

SKIMAGE, SKLEARN, MATPLOTLIB = "skimage/data", "sklearn/datasets/images", "matplotlib/mpl-data/sample_data"


class Photograph(NamedTuple):
    """A picture in a package's files, and the ImageNet classes that are right for it, where some are."""

    folder: str
    file: str
    classes: tuple[int, ...] = ()


MEASURED = (
    Photograph(SKIMAGE, "camera.png", (872,)),  # tripod
    Photograph(SKIMAGE, "chelsea.png", (281, 282, 285)),  # tabby, tiger cat, Egyptian cat
    Photograph(SKIMAGE, "coffee.png", (504, 967, 968)),  # coffee mug, espresso, cup
    Photograph(SKIMAGE, "coins.png"),
    Photograph(SKIMAGE, "motorcycle_left.png", (665, 670)),  # moped, motor scooter
    Photograph(SKIMAGE, "rocket.jpg"),
    Photograph(SKLEARN, "china.jpg"),
    Photograph(MATPLOTLIB, "grace_hopper.jpg", (652,)),  # military uniform
)
OTHERS = (
    *(Photograph(SKIMAGE, f"{name}.png") for name in ("astronaut", "clock_motion", "horse", "color", "ihc", "moon")),
    *(Photograph(SKIMAGE, f"{name}.png") for name in ("brick", "grass", "gravel", "cell", "page", "text", "logo")),
    Photograph(SKIMAGE, "hubble_deep_field.jpg"),
    Photograph(SKIMAGE, "retina.jpg"),
    Photograph(SKLEARN, "flower.jpg"),
    Photograph(MATPLOTLIB, "Minduka_Present_Blue_Pack.png"),
)
AREA = (0.25, 1.0)  # of the photograph, in a crop
# How often each of OTHERS is drawn to train on: photographs of things more often than surfaces and pages.
WEIGHTS = tuple(one / 26 for one in (3, 2, 1, 1, 2, 1, *7 * (1,), 2, 2, 4, 1))


@cache
def read(photograph: Photograph) -> Image.Image:
    """Return a photograph, in colour."""
    package, _, inside = photograph.folder.partition("/")
    with Image.open(folder(package) / inside / photograph.file) as image:
        return image.convert("RGB")


def crop(image: Image.Image, size: int, random: np.random.Generator, area: tuple[float, float] = AREA) -> Tensor:
    """Return a random crop of a picture, flipped in half of the cases (3, size, size), from -1 to 1.

    Args:
        image: the whole picture.
        size: of the crop in pixels, after resizing.
        random: where it lies.
        area: from which share of the picture to which.
    """
    pixels = random.uniform(*area) * image.width * image.height
    aspect = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
    width = min(image.width, round(float(np.sqrt(pixels * aspect))))
    height = min(image.height, round(float(np.sqrt(pixels / aspect))))
    left, top = random.integers(image.width - width + 1), random.integers(image.height - height + 1)
    box = (int(left), int(top), int(left) + width, int(top) + height)
    found = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))
    if random.random() < 0.5:
        found = found[:, ::-1]
    return torch.from_numpy(found / np.float32(127.5) - np.float32(1)).permute(2, 0, 1)  # height, width, 3 → 3, …


def crops(photographs: tuple[Photograph, ...], n: int, size: int, seed: int) -> Tensor:
    """Return n random crops, equally many of each photograph, in turn (n, 3, size, size)."""
    random = np.random.default_rng(seed)
    return torch.stack([crop(read(photographs[k % len(photographs)]), size, random) for k in range(n)])


def classes(photographs: tuple[Photograph, ...], n: int) -> list[tuple[int, ...]]:
    """Return the right classes of each of n crops, in the order of `crops`."""
    return [photographs[k % len(photographs)].classes for k in range(n)]
