"""Samples that are pictures: float Tensor `[n, c, h, w]` in [0, 1], c = 1, 3 or 4."""

from __future__ import annotations

from zoo.samples.kind import Content, Distances, SampleKind, Shown
from zoo.samples.pictures import checked_images


def _apart(first: Content, second: Content) -> Distances:
    distances = (first.data.float() - second.data.float()).cpu().abs().flatten(1)
    return "mean difference of pixels (0 to 1)", distances.mean(1).tolist()


IMAGES = SampleKind(
    "image",
    show=lambda samples: [Shown(picture=one) for one in samples.data],
    check=lambda data, labels: (checked_images(data), None),
    details=lambda data: f" of {'x'.join(map(str, data.shape[1:]))}",
    apart=_apart,
)
