"""Preprocess images as the checkpoint does, and number their labels as the model does.

Shapes: n images of c channels, h × w, as the model takes them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from zoo import CheckpointError, DataError
from zoo.data import letters
from zoo.data.images import ImageItems, image_items, open_image, with_channels
from zoo.data.stream import stream
from zoo.data.task_labels import label_tensor
from zoo.integrations import transformers as library
from zoo.integrations.transformers_heads import check_has_head
from zoo.samples import to_pictures

from .augment import disturb
from .facts import configuration, is_timm, label_names, task_of

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor
    from transformers.image_processing_utils import BaseImageProcessor

    from zoo import BatchRequest, Model

OWN = "letters:sans"


@dataclass(frozen=True)
class Preprocessing:
    """The checkpoint's own: timm's evaluation transform from its `pretrained_cfg`, or transformers' image processor.

    Attributes:
        apply: a picture of the right mode → [c, h, w], as the library has it.
        channels: of the images that the model takes.
        size: (h, w) of them.
        mean: [c, 1, 1], subtracted.
        std: [c, 1, 1], divided by.
        exact: whether `apply` leaves a picture of that size uncut and unscaled.
    """

    apply: Callable[[Image], Tensor]
    channels: int
    size: tuple[int, int]
    mean: Tensor
    std: Tensor
    exact: bool

    def __call__(self, images: Sequence[Any] | Tensor) -> Tensor:
        """Return `[n, c, h, w]` float32 of images as `zoo.data.images.ImageItems` holds them.

        Tensors of the right size keep their precision; others become pictures of 8 bits, so that images in memory
        and in files give the same.
        """
        if isinstance(images, torch.Tensor):
            images = with_channels(images, self.channels) / 2 + 0.5
            if self.exact and tuple(images.shape[2:]) == self.size:
                return (images - self.mean) / self.std
            made = [self.apply(picture) for picture in to_pictures(images)]
        else:
            made = [self._one(image) for image in images]
        return torch.stack(made) if made else torch.empty(0, self.channels, *self.size)

    def _one(self, image: Any) -> Tensor:
        if isinstance(image, torch.Tensor):
            return self(image[None])[0]
        return self.apply(_plain(open_image(image) if isinstance(image, Path) else image, self.channels))

    def undone(self, images: Tensor) -> Tensor:
        """Return what the model saw, as pictures in [0, 1] again."""
        return (images.float().cpu() * self.std + self.mean).clamp(0, 1)


def preprocessing(model: Model) -> Preprocessing:
    """Return the preprocessing of the checkpoint that the model came from."""
    return _timm(model) if is_timm(configuration(model.entry)) else _transformers(model)


def _timm(model: Model) -> Preprocessing:
    from timm.data import create_transform, resolve_model_data_config

    config = resolve_model_data_config(model.module)
    channels, *size = config["input_size"]
    for key in ("mean", "std"):  # the file of a greyscale model may still have those of colour
        values = tuple(config[key])
        config[key] = values if len(values) == channels else (sum(values) / len(values),) * channels
    mean, std = (_column(config[key]) for key in ("mean", "std"))
    transform = create_transform(**config, is_training=False)
    return Preprocessing(transform, channels, tuple(size), mean, std, exact=config["crop_pct"] == 1)


def _transformers(model: Model) -> Preprocessing:
    processor: Any = image_processor(model)
    size = dict(processor.size or {})
    cut = bool(getattr(processor, "do_center_crop", False))
    shape = dict(processor.crop_size) if cut else size
    height, width = (shape["height"], shape["width"]) if "height" in shape else (shape["shortest_edge"],) * 2
    same = size == {"height": height, "width": width}  # a shortest edge may be of more than is kept
    normal = getattr(processor, "do_normalize", True)
    return Preprocessing(
        lambda image: processor(images=image, return_tensors="pt")["pixel_values"][0],
        getattr(model.module.config, "num_channels", 3),
        (height, width),
        _column(processor.image_mean if normal else [0.0]),
        _column(processor.image_std if normal else [1.0]),
        exact=same and getattr(processor, "do_rescale", True),
    )


def _column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1)


def image_processor(model: Model) -> BaseImageProcessor:
    """Return transformers' image processor of the checkpoint; ViT's with the model's size if the files have none.

    Raises:
        CheckpointError: its file cannot be used.
    """
    from transformers import AutoImageProcessor, ViTImageProcessor

    def own() -> BaseImageProcessor:
        config = model.module.config
        config = getattr(config, "vision_config", None) or config  # CLIP and its kin see with a part
        edge = getattr(config, "image_size", 224)
        height, width = (edge, edge) if isinstance(edge, int) else edge
        middle = [0.5] * getattr(config, "num_channels", 3)
        return ViTImageProcessor(size={"height": height, "width": width}, image_mean=middle, image_std=middle)

    processor = library.image_processor(model.entry.folder, AutoImageProcessor, own)
    return processor if model.entry.head is None else _for_head(processor, model)


def _for_head(processor: Any, model: Model) -> BaseImageProcessor:
    """Return an image processor for the images that `model.entry.head` asks for."""
    head, processor = model.entry.head, copy.deepcopy(processor)
    if head is not None and head.image_size is not None:
        height, width = head.image_size
        shape, size = {"height": height, "width": width}, dict(processor.size or {})
        if getattr(processor, "do_center_crop", False):
            before = dict(processor.crop_size)
            share = min(height, width) / min(before["height"], before["width"])
            processor.size = {key: round(value * share) for key, value in size.items()}
            processor.crop_size = shape
        else:
            processor.size = shape
    channels = getattr(model.module.config, "num_channels", 3)
    for key in ("image_mean", "image_std"):  # those of colour may not fit
        values = getattr(processor, key, None)
        if isinstance(values, list | tuple) and len(values) != channels:
            setattr(processor, key, [sum(values) / len(values)] * channels)
    return processor


def _plain(image: Image, channels: int) -> Image:
    """Return a picture of mode L or RGB; what is transparent becomes white, 16 bits become 8."""
    from PIL import Image as PIL

    mode = "L" if channels == 1 else "RGB"
    if image.mode.startswith("I;16"):
        image = image.convert("I").point(lambda value: value / 257).convert("L")
    if "A" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        image = PIL.alpha_composite(PIL.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def names_of(model: Model) -> list[str]:
    """Return the classes' names, in order: the file's, else ImageNet's for its numbers of classes, else numbers."""
    config = configuration(model.entry)
    names, count = label_names(config), class_count_of(model)
    if not names and is_timm(config):
        from timm.data import ImageNetInfo, infer_imagenet_subset

        subset = infer_imagenet_subset(model.module)
        if subset:
            info = ImageNetInfo(subset)
            names = {index: info.index_to_description(index) for index in range(min(count, info.num_classes()))}
    return [names.get(index, str(index)) for index in range(count)]


def class_count_of(model: Model) -> int:
    """Return how many classes the head tells apart.

    Raises:
        CheckpointError: the model has no head.
    """
    module: Any = model.module
    if hasattr(module, "base_model_prefix"):  # transformers'
        check_has_head(model.entry.name, module)
    count = getattr(module, "num_classes", None)
    count = module.config.num_labels if count is None else count
    if not count:
        raise CheckpointError(f"{model.entry.name} has no classifier: take a checkpoint that was trained with one")
    return int(count)


def read(model: Model, data: Any, split: str, size: int) -> ImageItems:
    """Return the images of `data` with their labels as the model counts its classes: by name if the data have names.

    For several classes, or for numbers, these are float32 [n, classes].

    Raises:
        DataError: the classes do not fit.
    """
    task = task_of(configuration(model.entry))
    if task != "classify":
        images, labels = _apart(data)
        items = image_items(images, split=split, size=size, own=OWN)
        names = names_of(model)
        made = None if labels is None else label_tensor(task, labels, names, model=model.entry.name)
        return ImageItems(items.images, made, tuple(names))
    items = image_items(data, split=split, size=size, own=OWN)
    if items.labels is None:
        return items
    names = names_of(model)
    if items.classes:
        numbers = _numbers(model, items.classes, names)
        return ImageItems(items.images, torch.tensor(numbers)[items.labels], tuple(names))
    if len(items) and int(items.labels.max()) >= len(names):
        raise DataError(
            f"{model.entry.name} has the classes 0 to {len(names) - 1}, and the data have labels up to "
            f"{int(items.labels.max())}"
        )
    return items


def _apart(data: Any) -> tuple[Any, Any]:
    """Return images and labels of any kind; labels are None where there are none.

    Raises:
        DataError: the data are a folder or a name, which have classes alone.
    """
    if data is None or isinstance(data, str | Path):
        raise DataError(
            f"{data}: its labels can be one class for each image, and this head learns others: give (images, labels), "
            "or a list or Dataset of (image, label)"
        )
    if isinstance(data, Mapping):
        return next((data[key] for key in ("images", "pixel_values") if key in data), None), data.get("labels")
    if isinstance(data, tuple) and len(data) == 2 and not isinstance(data[0], tuple):
        return data
    rows = [data[index] for index in range(len(data))]
    pairs = [(row["image"], row.get("label", row.get("labels"))) if isinstance(row, Mapping) else row for row in rows]
    if not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
        return data, None
    return [image for image, _ in pairs], [label for _, label in pairs]


def _numbers(model: Model, classes: Sequence[str], names: Sequence[str]) -> list[int]:
    """Return the model's number of each of the data's classes."""
    known = {name: index for index, name in reversed(list(enumerate(names)))}
    for synonyms, index in list(known.items()):  # "tench, Tinca tinca"
        for name in synonyms.split(","):
            known.setdefault(name.strip(), index)
    known |= {name: index for index, name in enumerate(_synsets(model)) if name not in known}
    if all(name in known for name in classes):
        return [known[name] for name in classes]
    if len(classes) == len(names):  # names of the user's own, in the order of the head
        return list(range(len(classes)))
    unknown = next(name for name in classes if name not in known)
    raise DataError(
        f"{model.entry.name} tells {len(names)} classes apart ({', '.join(names[:3])}, …); the data have "
        f"{len(classes)}, and {unknown!r} is none of them: name the subfolders as the model's classes, or give the "
        "model a head of that size, see the vit plugin's README"
    )


def _synsets(model: Model) -> list[str]:
    """Return WordNet's ids, which ImageNet's folders are named by; [] for other classes."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": class_count_of(model)})
    return list(ImageNetInfo(subset).label_names()) if subset else []


def batches(model: Model, data: Any, request: BatchRequest) -> Iterable[dict[str, Tensor]]:
    """Return batches of "images" float32 [b, c, h, w], preprocessed, and "labels" int64 [b].

    Labels of several classes at once, and numbers, are float32 [b, classes].

    Files are opened batch by batch.

    Args:
        model: the model.
        data: as `zoo.data.images.image_items` takes it; None: sans letters. To train on "letters:<style>:fresh",
            letters are drawn anew all the time, and disturbed.
        request: batch size, split and seed. To train, the data need labels; another split may go without.

    Raises:
        DataError: the data cannot be used, or the classes do not fit.
    """
    prepare = preprocessing(model)
    if request.training and letters.is_fresh(data) and task_of(configuration(model.entry)) == "classify":
        numbers = torch.tensor(_numbers(model, letters.LETTERS, names_of(model)))
        drawn = letters.fresh(data, request, size=prepare.size[0], change=disturb)
        return ({"images": prepare(row["images"]), "labels": numbers[row["labels"]]} for row in drawn)
    items = read(model, data, request.split, prepare.size[0])
    if items.labels is None and request.training:
        raise DataError(
            f"{model.entry.name} learns classes, so its data need labels: give a folder with one subfolder per class, "
            "or (images, labels)"
        )
    rows = stream({"index": torch.arange(len(items)), "labels": items.labels}, request)
    return ({"images": prepare(_chosen(items, row.pop("index"))), **row} for row in rows)


def _chosen(items: ImageItems, index: Tensor) -> Sequence[Any] | Tensor:
    if isinstance(items.images, torch.Tensor):
        return items.images[index]
    return [items.images[i] for i in index.tolist()]
