"""Draw images: latents from a seed, truncation, noise, style mixing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from zoo import Samples
from zoo.data.labels import class_captions, class_labels

from .config import class_names

if TYPE_CHECKING:
    from torch import Tensor

    from zoo import Model, SampleRequest

_PIXELS = 1 << 22  # in one call of the generator, and not more than _CHUNK images
_CHUNK = 64


def sample(model: Model, request: SampleRequest) -> Samples:
    """Return images [n, c, h, w] in [0, 1] with, for a conditional generator, the classes as captions.

    All random numbers are drawn on the CPU from the seed, so a seed gives the same images on every device, up to
    rounding.

    Args:
        model: the model.
        request: its options are `psi`, truncation w_avg + psi (w - w_avg): 1 (default) all variety, 0 the average
            image, between them fewer failures; `cutoff`: in how many layers (None: all); `noise`: "const" (default; the
            network's own), "random", "none"; `crossover`: the layer from which a second latent's styles apply (None: no
            mixing); `labels`: the classes as `zoo.data.labels.class_labels` takes them (default: all in turn).

    Raises:
        ZooError: an option cannot be.
    """
    options = request.take()
    generator = model.module.generator
    names = class_names(model.module.config)
    labels = class_labels(options["labels"], request.n, count=model.module.config["c_dim"], names=names)  # [n] or None
    if labels is not None and options["labels"] is None and request.seeds is not None:
        labels = labels[:1].expand_as(labels)  # as of one sample

    draws = request.draws()
    z = draws.normal((request.n, generator.mapping.inputs))  # [n, z]
    second = draws.normal(z.shape) if options["crossover"] is not None else None
    step = max(1, min(_CHUNK, _PIXELS // model.module.config["img_resolution"] ** 2))
    images = []
    for start in range(0, request.n, step):
        classes = None if labels is None else labels[start : start + step]
        ws = _styles(model, z[start : start + step], classes, options)  # [step, layers, w]
        if second is not None:
            others = _styles(model, second[start : start + step], classes, options)
            ws = torch.cat([ws[:, : options["crossover"]], others[:, options["crossover"] :]], dim=1)
        own = draws.of(slice(start, start + step))
        images.append(generator.synthesis(ws, options["noise"], own).float().cpu())
    return Samples((torch.cat(images) / 2 + 0.5).clamp(0, 1), "image", class_captions(labels, names))


def _styles(model: Model, z: Tensor, labels: Tensor | None, options: dict[str, Any]) -> Tensor:
    """Map z [n, z], labels [n] to truncated styles [n, layers, w], on the model's device."""
    generator = model.module.generator
    w = generator.mapping(z.to(model.device, model.dtype), None if labels is None else labels.to(model.device))
    return generator.styles(w, options["psi"], options["cutoff"])
