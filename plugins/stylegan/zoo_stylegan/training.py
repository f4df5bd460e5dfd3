"""Batches, the loss of both players, and metrics on held-out images."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch

from zoo import DataError
from zoo.data.batches import generator_of
from zoo.data.images import image_batches, image_data
from zoo.data.labels import check_labels
from zoo.metrics import Scores, add_distances, frechet_distance
from zoo.metrics.drawn import DISTANCES
from zoo.torch_state.spread import spread

from . import metrics
from .config import class_names
from .model import discriminator
from .objective import adversarial, mixed

if TYPE_CHECKING:
    from torch import Tensor

    from zoo import BatchRequest, EvaluationRequest, Model
    from zoo.metrics import Figures

W_AVERAGE = 0.995  # decay of the mapping network's average while a model is trained from random weights
_EVALUATED = 520  # images at most
_CHUNK = 52


def tuning() -> dict[str, Any]:
    """Return the defaults of tuning: no momentum, and an average of the weights.

    Momentum makes two players that learn at once run around each other: with AdamW's usual 0.9 the distance of an
    early embedded model to serif letters grew threefold in 150 steps, without it shrank by a quarter.
    """
    return {"betas": (0.0, 0.99), "ema_decay": 0.98, "warmup": 0.1}


def batches(model: Model, data: Any, request: BatchRequest) -> Iterator[dict[str, Any]]:
    """Return batches of "images" [n, c, h, w] in [-1, 1], "labels" [n] for a conditional generator, and what is drawn.

    Drawn from the request's seed: latents "z" and "other" [n, z], "crossover", the layer from which the second one
    applies, and "seed", that of the noise images; "index" counts the batches, by which regularisation falls due. So a
    batch has one loss, on every device.

    Args:
        model: the model.
        data: images as `zoo.data.images.image_data` takes them; None: capitals, "letters:sans".
        request: batch size, split and seed.

    Raises:
        DataError: the data do not fit the model.
    """
    generator = model.module.generator
    rows = image_batches(data, request, **_format(model), **_classes(model))
    mixing = model.module.config["training"]["mixing"]

    def latents(batch: dict[str, Any], index: int) -> dict[str, Any]:
        random = generator_of(request.seed, index)
        z, other = torch.randn(2, len(batch["images"]), generator.mapping.inputs, generator=random)
        layers = generator.synthesis.num_ws
        mixes = torch.rand((), generator=random).item() < mixing
        crossover = int(torch.randint(1, layers, (), generator=random)) if mixes else layers
        seed = int(torch.randint(2**31, (), generator=random))
        return {**batch, "z": z, "other": other, "crossover": crossover, "seed": seed, "index": index}

    return rows.map(latents)


def loss(model: Model, batch: dict[str, Any]) -> Tensor:
    """Return the loss of one step of both players, a scalar; see `objective.py`.

    Its value is the discriminator's and the generator's logistic loss together, 3 log 2 where neither knows anything;
    its gradient is that of each player's own loss and of the penalties that fall due. A user's own batch may lack all
    but "images" (and "labels"): the rest is drawn from torch's global generator, and no penalty falls due. For a model
    with random weights, the mapping network's average moves too.
    """
    module, settings = model.module, model.module.config["training"]
    discriminator(model)  # or an error that says what to do
    images = batch["images"].to(model.device, model.dtype)
    labels = _checked(model, batch.get("labels"))
    labels = None if labels is None else labels.to(model.device)
    generator = module.generator
    z = batch.get("z")
    if z is None:
        z = torch.randn(len(images), generator.mapping.inputs)
    w = generator.mapping(z.to(model.device, model.dtype), labels)  # [n, w]
    pretraining = model.entry.weights == "random"
    if pretraining:
        with torch.no_grad():
            generator.mapping.w_avg.lerp_(w.mean(0).to(generator.mapping.w_avg), 1 - W_AVERAGE)
    other, crossover = None, batch.get("crossover", generator.synthesis.num_ws)
    if crossover < generator.synthesis.num_ws:
        other = generator.mapping(batch["other"].to(model.device, model.dtype), labels)
    total, both = adversarial(
        module,
        images,
        labels,
        mixed(generator, w, other, crossover),
        index=batch.get("index"),
        seed=batch.get("seed"),
        r1_gamma=settings["r1_gamma"],
        # Within minutes from random weights the penalty would cost more steps than it is worth.
        path_weight=0.0 if pretraining else settings["path_weight"],
    )
    return both.sum() + total - total.detach()


def evaluate(model: Model, data: Any, request: EvaluationRequest) -> Figures:
    """Return how far generated images are from as many held-out ones of the same classes, at most 520.

    Latents are from seed 0. "frechet_pixels": Fréchet distance of the images at 8 × 8 pixels. If the `vit` plugin is
    installed and the model draws its letters, before it: "frechet", the same in the features of its embedded
    classifier, and "letter_accuracy", the share that it reads as the wanted letter. With a discriminator also
    "critic_gap", by how much its logits of held-out images are above those of generated ones. Where they are wanted the
    distances of `zoo.metrics.add_distances`.

    Raises:
        DataError: there are fewer than two held-out images.
    """
    wanted = request.take(*DISTANCES, usual=("frechet", "letter_accuracy", "frechet_pixels", "critic_gap"))
    images, labels = image_data(data, **_format(model), split="test", limit=_EVALUATED, **_classes(model))
    if len(images) < 2:
        raise DataError(
            f"{model.entry.name}: a distance of distributions needs at least 2 held-out images, found {len(images)}: "
            "give more images, or hold out a larger share, zoo.Data(…, hold_out=0.3)"
        )
    module = model.module
    z = torch.randn(len(images), module.generator.mapping.inputs, generator=torch.Generator().manual_seed(0))

    def drawn(start: int) -> tuple[Tensor, Tensor]:
        part = slice(start, start + _CHUNK)
        classes = None if labels is None else labels[part].to(model.device)
        fake = module.generator(z[part].to(model.device, model.dtype), classes)
        gap = torch.empty(0)
        if module.discriminator is not None:
            real = images[part].to(model.device, model.dtype)
            gap = (module.discriminator(real, classes) - module.discriminator(fake, classes)).float().cpu()
        return fake.float().cpu(), gap

    fake, gaps = map(torch.cat, zip(*spread(range(0, len(images), _CHUNK), drawn), strict=True))
    scores = Scores("images")
    reader = _reader() if tuple(class_names(module.config)) == metrics.LETTERS else None
    if reader is not None and labels is not None:
        mine, read = metrics.read_letters(reader, fake)
        theirs, _ = metrics.read_letters(reader, images)
        _add_distance(scores, "frechet", mine, theirs, f"in features of {reader.entry.name}")
        scores.mean("letter_accuracy", (read == labels).double())
    small = (metrics.small(fake), metrics.small(images))
    _add_distance(scores, "frechet_pixels", *small, f"in pixels averaged to {metrics.SIDE} × {metrics.SIDE}")
    if len(gaps):
        scores.mean("critic_gap", gaps.flatten())
    shown = [(pictures[: request.samples] / 2 + 0.5).clamp(0, 1) for pictures in (fake, images)]
    add_distances(scores, shown[0], shown[1], wanted, request.judge)
    return scores.figures()


def _add_distance(scores: Scores, name: str, mine: Tensor, theirs: Tensor, where: str) -> None:
    scores.add(name, frechet_distance, mine, theirs, resamples=100, biased=True)
    scores.note(name, where)


@lru_cache(maxsize=1)
def _reader() -> Model | None:
    return metrics.letter_reader()


def _format(model: Model) -> dict[str, int]:
    """Return the size and the channels of the model's images."""
    config = model.module.config
    return {"size": config["img_resolution"], "channels": config["img_channels"]}


def _classes(model: Model) -> dict[str, Any]:
    """Return what tells the data's classes which of the model's they are."""
    config = model.module.config
    return {"classes": (config["c_dim"], model.entry.name), "names": class_names(config)}


def _checked(model: Model, labels: Tensor | None) -> Tensor | None:
    return check_labels(labels, count=model.module.config["c_dim"], model=model.entry.name)
