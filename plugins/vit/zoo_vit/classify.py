"""Class probabilities, the loss, and metrics on held-out images. Shapes: n images of c channels, h × w."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from zoo import BatchRequest, DataError, Samples, ZooError
from zoo.data.images import ImageItems, image_items
from zoo.data.pictures import is_picture
from zoo.data.task_scores import task_loss, task_metrics
from zoo.data.walk import walk
from zoo.torch_state.spread import spread

from .data import batches, names_of, preprocessing, read
from .facts import configuration, task_of

if TYPE_CHECKING:
    from torch import Tensor

    from zoo import Model, SampleRequest
    from zoo.metrics import Figures

_CHUNK = 64  # images in one call of the model


def logits(model: Model, images: Tensor) -> Tensor:
    """Return logits float32 [n, classes] of preprocessed images [n, c, h, w]."""
    output = model.module(images.to(model.device, model.dtype))
    return getattr(output, "logits", output).float()


def sample(model: Model, request: SampleRequest) -> Samples:
    """Return class probabilities, softmax(logits) [n, classes], with the class names and the images.

    Of a head for numbers, a text for each image.

    Args:
        model: the model.
        request: its options are `images` to classify (a Tensor, a PIL image, a list) or `paths` (a file or folder, or a
            list of files): all of them, so n is 1, the default, or their number. Otherwise n images are drawn by the
            seed from the held-out split of `data` (default: sans letters), each once before one comes again. `top_k`:
            how many classes are shown.

    Raises:
        ZooError: an option cannot be, or there is nothing to classify.
    """
    options = request.take()
    given = [name for name in ("data", "images", "paths") if options[name] is not None]
    if len(given) > 1:
        raise ZooError(f"expected one of data, images and paths to classify, got {' and '.join(given)}")
    prepare = preprocessing(model)
    names = names_of(model)
    if given in ([], ["data"]):
        items, captions = _drawn(model, options["data"], request, prepare.size[0], names)
    else:
        items, captions = _given(options["images"], options["paths"])
        if request.n not in (1, len(items)):
            raise ZooError(f"there are {len(items)} images to classify, and n is {request.n}: leave n out")
    seen = [prepare(items.images[start : start + _CHUNK]) for start in range(0, len(items), _CHUNK)]
    scores = torch.cat([logits(model, part).cpu() for part in seen])  # [n, classes]
    task = task_of(configuration(model.entry))
    if task == "regress":
        return Samples([_said(row, names) for row in scores], "text", captions)
    several = task == "multilabel"
    probabilities = scores.sigmoid() if several else scores.softmax(-1)  # [n, classes]
    kind = "probabilities" if several else "posterior"
    shown = torch.cat([prepare.undone(part) for part in seen])  # [n, c, h, w] in [0, 1]
    return Samples(probabilities, kind, captions, labels=names, images=shown, top=options["top_k"])


def _said(scores: Tensor, names: Sequence[str]) -> str:
    """Return the numbers that the model gives an image."""
    return ", ".join(f"{name} {score:.6g}" for name, score in zip(names, scores.tolist(), strict=True))


def _drawn(
    model: Model, data: Any, request: SampleRequest, size: int, names: Sequence[str]
) -> tuple[ImageItems, list[str] | None]:
    """Return `request.n` held-out images, and what they truly show if the data have labels, else the files' names."""
    items = read(model, data, "test", size)
    if not len(items):
        raise DataError("there are no held-out images to classify: give at least one")
    generator = request.generator()
    rounds = -(-request.n // len(items))
    order = torch.cat([torch.randperm(len(items), generator=generator) for _ in range(rounds)])[: request.n]  # [n]
    images: Any = items.images
    images = images[order] if isinstance(images, torch.Tensor) else [images[i] for i in order.tolist()]
    if items.labels is not None:
        return ImageItems(images, items.labels[order]), [names[i] for i in items.labels[order].tolist()]
    files = [image.name for image in images if isinstance(image, Path)]
    return ImageItems(images), files if len(files) == len(images) else None


def _given(images: Any, paths: Any) -> tuple[ImageItems, list[str] | None]:
    """Return all the images that the user gives, with their file names."""
    from PIL.Image import Image

    if images is not None:
        if isinstance(images, Image):
            images = [images]
        if isinstance(images, torch.Tensor) and images.ndim == 3 and images.shape[0] in (1, 3, 4):
            images = images[None]
        items = image_items(images, split="shown")
        return _some(ImageItems(items.images)), None
    listed = [paths] if isinstance(paths, str | Path) else list(paths)
    found: list[Path] = []
    for path in (Path(each).expanduser() for each in listed):
        files = [file for file in walk(path)[0] if is_picture(file)] if path.is_dir() else [path]
        for file in files:
            if not file.is_file() or not is_picture(file):
                raise DataError(f"expected paths as files of images that Pillow reads or folders of them, got {file}")
        found += files
    return _some(ImageItems(found)), [path.name for path in found]


def _some(items: ImageItems) -> ImageItems:
    if not len(items):
        raise DataError("there is nothing to classify: give at least one image")
    return items


def loss(model: Model, batch: dict[str, Tensor]) -> Tensor:
    """Return the mean loss of the model's task, see `zoo.data.task_scores.task_loss`: a scalar."""
    if "labels" not in batch:
        raise DataError(f"{model.entry.name} learns classes: a batch needs images and labels, got {', '.join(batch)}")
    return task_loss(task_of(configuration(model.entry)), logits(model, batch["images"]), batch["labels"])


def evaluate(model: Model, data: Any) -> Figures:
    """Return the metrics of the model's task on held-out images, see `zoo.data.task_scores.task_metrics`.

    Of classes "accuracy", the share of images whose likeliest class is right, "loss" in nats, "top5_accuracy" where
    there are more than five, and "calibration_error".
    """

    def predicted(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        if "labels" not in batch:
            raise DataError("metrics need labels: give a folder with one subfolder per class, or (images, labels)")
        return logits(model, batch["images"]).cpu(), batch["labels"]

    parts = spread(batches(model, data, BatchRequest(_CHUNK, split="test")), predicted)
    if not parts:
        raise DataError("there are no held-out images: give at least one")
    scores, labels = map(torch.cat, zip(*parts, strict=True))
    task = task_of(configuration(model.entry))
    return task_metrics(task, scores, labels, names_of(model), "images")
