"""Batches, the loss, and the metric on held-out images. Shapes: n images of c channels, h × w."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from zoo import SampleRequest
from zoo.data.batches import generator_of
from zoo.data.images import image_batches, image_data, image_items, stacked
from zoo.data.pixels import edges
from zoo.data.stream import stream
from zoo.metrics import Scores, add_distances
from zoo.metrics.drawn import DISTANCES
from zoo.torch_state.spread import spread

from . import files
from .bound import negative_elbo
from .conditions import classes, kind_of, valued
from .model import as_noise, image_shape, predict, scheduler, target
from .options import sample_options
from .sampling import sample

if TYPE_CHECKING:
    from torch import Tensor

    from zoo import BatchRequest, EvaluationRequest, Model
    from zoo.metrics import Figures

_EVALUATED = 520  # images at most
DRAWN = 128  # images that are drawn for distances, unless the user says
_CHUNK = 52


def batches(model: Model, data: Any, request: BatchRequest) -> Iterator[dict[str, Tensor]]:
    """Return batches of "images" and "noise" [n, c, h, w], "times" [n] and, for a conditional U-Net, "labels".

    Noise and timesteps are drawn here, from the request's seed: a batch has one loss, on every device.

    Args:
        model: the model.
        data: images as `zoo.data.images.image_data` takes them; None: capitals, "letters:sans".
        request: batch size, split and seed.

    Raises:
        DataError: the data do not fit the model.
    """
    schedule = scheduler(model.entry)
    size, channels = image_shape(model)
    steps = schedule.config.num_train_timesteps
    if kind_of(model) in ("numbers", "vectors"):
        images, labels = _read(model, data, request.split)
        rows = stream({"images": images, "labels": labels}, request)
    else:
        rows = image_batches(data, request, size=size, channels=channels, **_classes(model))
    return rows.map(lambda row, number: {**row, **_draw(row["images"], steps, generator_of(request.seed, number))})


def loss(model: Model, batch: dict[str, Tensor]) -> Tensor:
    """Return the mean squared error of the prediction (arXiv 2006.11239, equation 14): a scalar.

    A user's own batch may lack "noise" and "times"; they are then drawn from torch's global generator.
    """
    schedule = scheduler(model.entry)
    images = batch["images"]  # [n, c, h, w] in [-1, 1]
    if "noise" not in batch:
        batch = {**batch, **_draw(images, schedule.config.num_train_timesteps, None)}
    times, noise = batch["times"].to(images.device), batch["noise"].to(images.device)
    output = predict(model, schedule.add_noise(images, noise, times), times, batch.get("labels"))  # [n, c or 2c, h, w]
    wanted = target(schedule, images, noise, times).to(output.device)  # [n, c, h, w]
    # A learned variance has channels of its own, which this loss leaves alone.
    return torch.nn.functional.mse_loss(output[:, : images.shape[1]], wanted.float())


def evaluate(model: Model, data: Any, request: EvaluationRequest) -> Figures:
    """Return {"noise_mse"}: mean squared error of the noise on at most 520 held-out images.

    Noise and timesteps are the same every time; the timesteps lie on an even grid over the schedule.

    Where they are wanted "elbo" (nats an image) and "bits_per_dim" of the variational bound, see `bound.negative_elbo`,
    and the distances of `zoo.metrics.add_distances` between held-out images and as many drawn ones (default: DRAWN).
    """
    wanted = request.take("elbo", "bits_per_dim", *DISTANCES, usual=("noise_mse",))
    images, labels = _read(model, data, "test", _EVALUATED)
    schedule = scheduler(model.entry)
    count = len(images)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(images.shape, generator=generator)
    steps = schedule.config.num_train_timesteps
    times = ((torch.arange(count) + 0.5) * steps / count).long()[torch.randperm(count, generator=generator)]  # [count]

    def error(start: int) -> Tensor:
        part = slice(start, min(start + _CHUNK, count))
        noisy = schedule.add_noise(images[part], noise[part], times[part])
        output = predict(model, noisy, times[part], None if labels is None else labels[part]).cpu()
        guess = as_noise(schedule, output[:, : images.shape[1]], noisy, times[part])
        return (guess - noise[part]).square().flatten(1).mean(1)

    errors = spread(range(0, count, _CHUNK), error)
    scores = Scores("images")
    scores.mean("noise_mse", torch.cat(errors))
    if "elbo" in wanted or "bits_per_dim" in wanted:
        nats = torch.cat(spread(_pairs(images, labels), lambda pair: negative_elbo(model, *pair)))
        if "elbo" in wanted:
            scores.mean("elbo", -nats)
        if "bits_per_dim" in wanted:
            scores.mean("bits_per_dim", nats / (images[0].numel() * math.log(2)))
    if set(wanted) & set(DISTANCES):
        real = images[: request.samples or DRAWN] / 2 + 0.5
        options = {} if labels is None else {"labels": labels[: len(real)]}
        known = tuple(sample_options(model.entry))
        fake = sample(model, SampleRequest(len(real), seed=0, options=options, known=known)).data
        add_distances(scores, fake, real, wanted, request.judge)
    return scores.figures()


def _pairs(images: Tensor, labels: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    for start in range(0, len(images), _CHUNK):
        yield images[start : start + _CHUNK], None if labels is None else labels[start : start + _CHUNK]


def _classes(model: Model) -> dict[str, Any]:
    """Return what tells the data's classes which of the model's they are."""
    return {"classes": (classes(model), model.entry.name), "names": files.class_names(model.entry)}


def _read(model: Model, data: Any, split: str, limit: int | None = None) -> tuple[Tensor, Tensor | None]:
    """Return images [n, c, h, w], at most `limit`, and what the U-Net takes with them."""
    size, channels = image_shape(model)
    if kind_of(model) in ("nothing", "classes"):
        return image_data(data, size=size, channels=channels, split=split, limit=limit, **_classes(model))
    items = image_items(data, split=split, size=max(edges(size)), values=True)
    rows = range(len(items)) if limit is None else range(len(items))[:: -(-len(items) // limit)]
    labels = valued(model, None if items.values is None else [items.values[i] for i in rows])
    return stacked(items.images, rows, size=size, channels=channels), labels


def _draw(images: Tensor, steps: int, generator: torch.Generator | None) -> dict[str, Tensor]:
    """Return the noise and the timesteps of a batch."""
    count = len(images)
    # One timestep from each of `count` equal slices: as uniform as independent draws, with a steadier loss.
    share = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count  # [n]
    return {
        "noise": torch.randn(images.shape, generator=generator),
        "times": (share * steps).long().clamp(max=steps - 1),
    }
