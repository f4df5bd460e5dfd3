"""Samples that are pictures: float Tensor `[n, c, h, w]` in [0, 1], c = 1, 3 or 4."""

from __future__ import annotations

from zoo.samples.kind import Kind
from zoo.samples.pictures import SUFFIXES, Pixels, checked_images, grid

IMAGES = Kind(
    "image",
    SUFFIXES,
    check=lambda data, labels: (checked_images(data), None),
    details=lambda data: f" of {'x'.join(map(str, data.shape[1:]))}",
    rich=lambda samples: Pixels(grid(samples.data, captions=None, cell=1)),
    pictures=lambda samples: (samples.data, samples.captions),
    image=lambda samples, columns: grid(samples.data, columns=columns, captions=samples.captions),
)
