"""Batches, the contrastive loss, and the probabilities of an image's texts. Shapes: b images, t texts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo import DataError, Samples, ZooError
from zoo.data.images import image_items, open_image, with_channels
from zoo.data.stream import redrawn, stream
from zoo.metrics import Scores, add_classification
from zoo.samples import to_pictures

from .model import processor_of, tokenizer_of
from .pairs import FRESH, OWN, all_strings, drawn, read

if TYPE_CHECKING:
    from zoo import BatchRequest, Model, SampleRequest
    from zoo.metrics import Figures

_CHUNK = 64  # images in one call of the model


def prepared(model: Model, images: Any) -> Tensor:
    """Return pixel_values [b, 3, s, s] of images as `zoo.data.images.ImageItems` holds them.

    Tensors that have the model's size already are only normalised, and keep their precision.
    """
    processor: Any = processor_of(model)
    size = model.module.config.vision_config.image_size
    if isinstance(images, Tensor) and images.shape[2:] == (size, size):
        mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (processor.image_mean, processor.image_std))
        return (with_channels(images, 3) / 2 + 0.5 - mean) / std
    pictures = []
    for image in images:
        if isinstance(image, Tensor):
            image = to_pictures(with_channels(image[None], 3) / 2 + 0.5)[0]
        pictures.append((image if hasattr(image, "convert") else open_image(image)).convert("RGB"))
    return processor(images=pictures, return_tensors="pt")["pixel_values"]


def tokens(model: Model, texts: Sequence[str]) -> dict[str, Tensor]:
    """Return {"input_ids", "attention_mask"}, int64 [t, length]; texts longer than the model's context are cut."""
    context = model.module.config.text_config.max_position_embeddings
    found = tokenizer_of(model)(list(texts), padding=True, truncation=True, max_length=context, return_tensors="pt")
    return {name: found[name] for name in ("input_ids", "attention_mask")}


def batches(model: Model, data: Any, request: BatchRequest) -> Iterator[dict[str, Tensor]]:
    """Return {"pixel_values" [b, 3, s, s], "input_ids" and "attention_mask" [b, length]} of images and their texts."""
    pairs = read(data, request.split)
    words = tokens(model, pairs.texts)  # of each name [t, length]
    if data == FRESH and request.training:
        fresh = redrawn(_fresh, request, batches=65)
        return fresh.map(lambda row, _: _batch(model, row["images"], row["which"], words))
    rows = stream({"index": torch.arange(len(pairs)), "which": pairs.which}, request)
    return rows.map(lambda row, _: _batch(model, _chosen(pairs.images, row["index"]), row["which"], words))


def _batch(model: Model, images: Any, which: Tensor, words: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"pixel_values": prepared(model, images), **{name: ids[which] for name, ids in words.items()}}


def _fresh(seed: int) -> dict[str, Tensor | None]:
    """Return 1,040 letters of each style that are drawn from a seed, and the text of each."""
    pairs = drawn(OWN, "train", 1040, seed=1 + seed)
    return {"images": pairs.images, "which": pairs.which}


def _chosen(images: Any, index: Tensor) -> Any:
    return images[index] if isinstance(images, Tensor) else [images[i] for i in index.tolist()]


def loss(model: Model, batch: dict[str, Tensor]) -> Tensor:
    """Return the mean cross entropy, in nats, of finding each image's text among b, and each text's image: a scalar.

    Nothing tells equal texts of one batch apart: each pair of them adds a share of log 2 that no training takes away.
    """
    if model.entry.weights == "random":
        with torch.no_grad():
            model.module.logit_scale.clamp_(max=math.log(100))  # as the paper has it
    scores = _scores(model, batch["pixel_values"], batch)
    own = torch.arange(len(scores), device=scores.device)
    return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2


def _scores(model: Model, pixels: Tensor, words: dict[str, Tensor]) -> Tensor:
    """Return logits float32 [b, t]: cosines over a temperature."""
    words = {name: words[name].to(model.device) for name in ("input_ids", "attention_mask") if name in words}
    return model.module(pixel_values=pixels.to(model.device, model.dtype), **words).logits_per_image.float()


def _log_probabilities(model: Model, images: Any, words: dict[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (log-probabilities of the texts [chunk, t], pixel_values), chunk by chunk."""
    for start in range(0, len(images), _CHUNK):
        pixels = prepared(model, images[start : start + _CHUNK])
        yield _scores(model, pixels, words).log_softmax(1).cpu(), pixels


def evaluate(model: Model, data: Any) -> Figures:
    """Return "accuracy" and "loss" of choosing each held-out image's text among all those of the data.

    "accuracy": the share of images whose likeliest text is their own. "loss": the cross entropy, in nats. Also the
    other metrics of classifiers, see `zoo.metrics.add_classification`.
    """
    pairs = read(data, "test")
    found = torch.cat([part for part, _ in _log_probabilities(model, pairs.images, tokens(model, pairs.texts))])
    scores = Scores("images")
    add_classification(scores, found, pairs.which)
    return scores.figures()


def sample(model: Model, request: SampleRequest) -> Samples:
    """Return zero-shot class probabilities [n, texts]: to which of some texts an image belongs.

    Args:
        model: the model.
        request: its options are `labels`, the texts (default: those of `data`); `images` to classify, all of them, or
            else n held-out images are drawn from `data` (default: letters) by the seed; `top_k`, how many texts are
            shown.

    Raises:
        ZooError: an option cannot be, or there is nothing to classify.
    """
    options = request.take()
    labels, images = options["labels"], options["images"]
    if labels is not None and (not isinstance(labels, list | tuple) or not all_strings(labels)):
        raise ZooError(f"labels: expected a list of texts, got {labels!r}")
    captions = None
    if images is None:
        pairs = read(options["data"], "test")
        if not len(pairs):
            raise DataError("there are no held-out images to classify: give images=")
        drawn = _drawn(len(pairs), request)
        images, captions = _chosen(pairs.images, drawn), [pairs.texts[i] for i in pairs.which[drawn].tolist()]
        labels = labels or pairs.texts
    else:
        images = image_items([images] if hasattr(images, "convert") else images, split="shown").images
        labels = labels or read(options["data"], "test").texts
        if request.n not in (1, len(images)):
            raise ZooError(f"there are {len(images)} images to classify, and n is {request.n}: leave n out")
    parts = list(_log_probabilities(model, images, tokens(model, labels)))
    processor: Any = processor_of(model)
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (processor.image_mean, processor.image_std))
    seen = (torch.cat([pixels for _, pixels in parts]) * std + mean).clamp(0, 1)
    found = torch.cat([part for part, _ in parts]).exp()
    return Samples(found, "posterior", captions, labels=labels, images=seen, top=options["top_k"])


def _drawn(count: int, request: SampleRequest) -> Tensor:
    """Return `request.n` of `count` numbers, each once before one comes again."""
    generator = request.generator()
    rounds = -(-request.n // count)
    return torch.cat([torch.randperm(count, generator=generator) for _ in range(rounds)])[: request.n]
