"""DCGAN (arXiv 1511.06434): two networks of strided convolutions that learn against each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from zoo import hookimpl

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zoo import BatchRequest, Entry, Model, SampleRequest, Samples


@hookimpl
def recognises(config: dict[str, Any]) -> bool:
    return config.get("_class_name") == "DCGAN"


@hookimpl
def construct(entry: Entry) -> nn.Module:
    from .model import DCGAN

    return DCGAN.from_config(entry.config)


@hookimpl
def sample(model: Model, request: SampleRequest) -> Samples:
    from .game import sample

    return sample(model, request)


@hookimpl
def loss(model: Model, batch: dict[str, Tensor]) -> Tensor:
    from .game import loss

    return loss(model, batch)


@hookimpl
def batches(model: Model, data: Any, request: BatchRequest) -> Iterator[dict[str, Tensor]]:
    from .game import batches

    return batches(model, data, request)


@hookimpl
def evaluate(model: Model, data: Any) -> dict[str, float]:
    from .game import evaluate

    return evaluate(model, data)


@hookimpl
def tuning() -> dict[str, Any]:
    # Momentum makes two players that learn at once run around each other.
    return {"betas": (0.0, 0.99), "average": 0.98, "warmup": 0.1}


@hookimpl
def describe(entry: Entry) -> dict[str, str]:
    names = {"size": "image size", "channels": "channels", "latent": "latent"}
    return {label: str(entry.config[name]) for name, label in names.items() if name in entry.config}
