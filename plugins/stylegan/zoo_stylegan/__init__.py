"""StyleGAN2 (arXiv 1912.04958): generator, mapping network and discriminator, 8 to 1024 pixels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import hookimpl

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zoo import BatchRequest, Entry, LoRA, Model, SampleRequest, Samples, Update
    from zoo.weights.lazy_weight import LazyWeight

__all__ = ["StyleGAN2", "add_discriminator"]


def __getattr__(name: str) -> Any:
    if name == "StyleGAN2":
        from .networks import StyleGAN2

        return StyleGAN2
    if name == "add_discriminator":
        from .model import add_discriminator

        return add_discriminator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@hookimpl
def recognises(config: dict[str, Any]) -> bool:
    from .config import recognises

    return recognises(config)


@hookimpl
def construct(entry: Entry) -> nn.Module:
    from .model import construct

    return construct(entry)


@hookimpl
def checkpoint(entry: Entry) -> Iterator[tuple[str, Tensor]]:
    from .model import checkpoint

    return checkpoint(entry)


@hookimpl
def inject_adapter(entry: Entry, name: str, weight: LazyWeight, config: LoRA) -> Update | None:
    from .model import inject_adapter

    return inject_adapter(name, weight, config)


@hookimpl
def sample(model: Model, request: SampleRequest) -> Samples:
    from .sampling import sample

    return sample(model, request)


@hookimpl
def loss(model: Model, batch: dict[str, Any]) -> Tensor:
    from .training import loss

    return loss(model, batch)


@hookimpl
def batches(model: Model, data: Any, request: BatchRequest) -> Iterable[dict[str, Any]]:
    from .training import batches

    return batches(model, data, request)


@hookimpl
def evaluate(model: Model, data: Any) -> dict[str, float]:
    from .training import evaluate

    return evaluate(model, data)


@hookimpl
def tuning() -> dict[str, Any]:
    from .training import tuning

    return tuning()


@hookimpl
def describe(entry: Entry) -> dict[str, str]:
    from .config import describe

    return describe(entry)


@hookimpl
def save(model: Model, folder: Path, state_dict: dict[str, Tensor]) -> bool:
    from .model import save

    return save(model, folder, state_dict)
