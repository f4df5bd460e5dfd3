"""Drawing images: latents from a seed, truncation, noise, style mixing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from zoo import Samples, ZooError

from .config import class_names
from .layers import NOISE

if TYPE_CHECKING:
    from torch import Tensor

    from zoo import Model, SampleRequest

_PIXELS = 1 << 22  # in one call of the generator, and not more than _CHUNK images
_CHUNK = 64


def sample(model: Model, request: SampleRequest) -> Samples:
    """Images `[n, c, h, w]` in [0, 1] with, for a conditional generator, the classes as captions.

    Options: `psi`, truncation w_avg + psi (w - w_avg): 1 (default) all variety, 0 the average image, between them fewer
    failures; `cutoff`: in how many layers (None: all); `noise`: "const" (default; the network's own), "random", "none";
    `crossover`: the layer from which a second latent's styles apply (None: no mixing); `labels`: a class, a list of
    classes, or a string of one-letter classes, repeated to `n` (default: all classes in turn). All random numbers are
    drawn on the CPU from the seed, so a seed gives the same images on every device, up to rounding.
    """
    options = request.take(psi=1.0, cutoff=None, noise="const", crossover=None, labels=None)
    generator = model.module.generator
    layers = generator.synthesis.num_ws
    if not 0 <= options["psi"] <= 2:
        raise ZooError(f"psi lies between 0 (the average image) and 2, usually 0.5 to 1; got {options['psi']}")
    if options["noise"] not in NOISE:
        raise ZooError(f"noise is one of {', '.join(NOISE)}; got {options['noise']!r}")
    for name in ("cutoff", "crossover"):
        value = options[name]
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= layers):
            raise ZooError(f"{name} counts layers from 0 to {layers}, or is None; got {value!r}")
    labels = chosen_labels(model, options["labels"], request.n)

    random = request.generator()
    z = torch.randn(request.n, generator.mapping.inputs, generator=random)
    second = torch.randn(z.shape, generator=random) if options["crossover"] is not None else None
    step = max(1, min(_CHUNK, _PIXELS // model.module.config["img_resolution"] ** 2))
    images = []
    for start in range(0, request.n, step):
        classes = None if labels is None else labels[start : start + step]
        ws = _styles(model, z[start : start + step], classes, options)
        if second is not None:
            others = _styles(model, second[start : start + step], classes, options)
            ws = torch.cat([ws[:, : options["crossover"]], others[:, options["crossover"] :]], dim=1)
        images.append(generator.synthesis(ws, options["noise"], random).float().cpu())
    return Samples((torch.cat(images) / 2 + 0.5).clamp(0, 1), "image", _captions(model, labels))


def _styles(model: Model, z: Tensor, labels: Tensor | None, options: dict[str, Any]) -> Tensor:
    """z [n, z], labels [n] → truncated styles [n, layers, w], on the model's device."""
    generator = model.module.generator
    w = generator.mapping(z.to(model.device, model.dtype), None if labels is None else labels.to(model.device))
    return generator.styles(w, options["psi"], options["cutoff"])


def chosen_labels(model: Model, wanted: Any, n: int) -> Tensor | None:
    """One class per image `[n]`, or None for an unconditional generator."""
    count = model.module.config["c_dim"]
    if not count:
        if wanted is not None:
            raise ZooError(f"{model.entry.name} knows no classes; leave out the option labels.")
        return None
    if wanted is None:
        chosen = list(range(count))
    elif isinstance(wanted, str):
        chosen = _named(model, wanted, count)
    elif isinstance(wanted, torch.Tensor):
        chosen = wanted.flatten().tolist()
    else:
        chosen = list(wanted) if isinstance(wanted, Iterable) else [wanted]
    if not chosen or not all(isinstance(label, int) and 0 <= label < count for label in chosen):
        raise ZooError(f"labels are classes from 0 to {count - 1}; got {wanted!r}.")
    return torch.tensor([chosen[i % len(chosen)] for i in range(n)])


def _named(model: Model, wanted: str, count: int) -> list[int]:
    """Classes written as text: "HELLO" by one-letter names, else numbers with commas."""
    names = class_names(model.module.config)
    if wanted and all(letter in names for letter in wanted):
        return [names.index(letter) for letter in wanted]
    parts = [part.strip() for part in wanted.split(",")]
    if all(part in names or part.isdecimal() for part in parts):
        return [names.index(part) if part in names else int(part) for part in parts]
    known = f"names ({', '.join(names)}) or " if names else ""
    raise ZooError(f"labels are {known}numbers from 0 to {count - 1}, with commas between them; got {wanted!r}.")


def _captions(model: Model, labels: Tensor | None) -> list[str] | None:
    if labels is None:
        return None
    names = class_names(model.module.config)
    return [names[label] if label < len(names) else str(label) for label in labels.tolist()]
