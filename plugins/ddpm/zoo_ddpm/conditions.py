"""What a U-Net is conditioned on: nothing, classes, numbers or vectors. Shapes: n images, d numbers of a vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from zoo import DataError, ZooError
from zoo.data.labels import check_labels, class_labels

from . import files

if TYPE_CHECKING:
    from zoo import Model

Kind = Literal["nothing", "classes", "numbers", "vectors"]


def kind_of(model: Model) -> Kind:
    """Return what `class_labels` of the U-Net are: diffusers' `class_embed_type` None, "timestep" and "identity"."""
    layer = getattr(model.module, "class_embedding", None)
    if layer is None:
        return "nothing"
    if isinstance(layer, torch.nn.Identity):
        return "vectors"
    return "numbers" if model.module.config.class_embed_type == "timestep" else "classes"


def classes(model: Model) -> int:
    """Return the number of classes that the U-Net is conditioned on; 0 if it is not, or on something else."""
    return (model.module.config.num_class_embeds or 0) if kind_of(model) == "classes" else 0


def valued(model: Model, values: Sequence[Any] | None) -> Tensor | None:
    """Return the labels of training data that are numbers or vectors, as the U-Net takes them, from the data's values.

    Raises:
        DataError: there are none, or they do not fit.
    """
    if values is None:
        return checked(model, None)
    names = files.class_names(model.entry)
    try:
        if all(isinstance(value, str) for value in values):
            found = torch.tensor([names.index(value) if value in names else int(value) for value in values])
        else:
            found = torch.stack([torch.as_tensor(value) for value in values])
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{model.entry.name} takes {kind_of(model)} with each image, and the data's labels are none ({error}): "
            "give (images, labels) with labels a Tensor"
        ) from error
    return checked(model, found)


def checked(model: Model, labels: Tensor | None) -> Tensor | None:
    """Return the labels of training data, as the U-Net takes them; None for one without conditions.

    Raises:
        DataError: there are none, or they do not fit.
    """
    kind, name = kind_of(model), model.entry.name
    if kind == "nothing":
        return None
    if kind == "classes":
        return check_labels(labels, count=classes(model), model=name)
    if labels is None:
        raise DataError(f"{name} is conditioned on {kind}, so its data need labels: give (images, labels)")
    shape = (len(labels),) if kind == "numbers" else (len(labels), width(model))
    if labels.shape != shape or (kind == "vectors" and not labels.is_floating_point()):
        raise DataError(f"{name}: expected labels as {kind} {list(shape)}, got {labels.dtype} {list(labels.shape)}")
    return labels


def wanted(model: Model, given: Any, n: int) -> Tensor | None:
    """Return the labels of `n` samples, as `sample` is asked for them, repeated to `n`; None without conditions.

    Raises:
        ZooError: they are missing or do not fit.
    """
    kind = kind_of(model)
    names = files.class_names(model.entry)
    if kind in ("nothing", "classes") or (kind == "numbers" and given is None and names):
        count = len(names) if kind == "numbers" else classes(model)
        return class_labels(given, n, count=count, names=names)
    if given is None:
        raise ZooError(f"{model.entry.name} is conditioned on {kind}: give them, labels=")
    try:
        found = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ZooError(f"labels: expected {kind}, got {given!r}") from error
    ends = 0 if kind == "numbers" else 1
    found = found[None] if found.ndim == ends else found
    found = found.float() if kind == "vectors" else found
    checked(model, found)
    return found[torch.arange(n) % len(found)]


def width(model: Model) -> int:
    """Return how many numbers the vector of a time, and so of a condition, has."""
    return int(model.module.time_embedding.linear_2.out_features)
