"""Causal language models of transformers: GPT-2, Llama, Qwen, Mistral and whatever else its configuration can name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import hookimpl

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zoo import BatchRequest, Entry, Model, SampleRequest, Samples


@hookimpl
def recognises(config: dict[str, Any]) -> bool | None:
    from .facts import recognises

    return recognises(config)


@hookimpl
def construct(entry: Entry) -> nn.Module:
    from .model import construct

    return construct(entry)


@hookimpl
def checkpoint(entry: Entry, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    from .model import checkpoint

    return checkpoint(entry, module)


@hookimpl
def sample(model: Model, request: SampleRequest) -> Samples:
    from .text import sample

    return sample(model, request)


@hookimpl
def loss(model: Model, batch: dict[str, Tensor]) -> Tensor:
    from .text import loss

    return loss(model, batch)


@hookimpl
def batches(model: Model, data: Any, request: BatchRequest) -> Iterable[dict[str, Tensor]]:
    from .text import batches

    return batches(model, data, request)


@hookimpl
def evaluate(model: Model, data: Any) -> dict[str, float]:
    from .text import evaluate

    return evaluate(model, data)


@hookimpl
def describe(entry: Entry) -> dict[str, str]:
    from .facts import describe

    return describe(entry)


@hookimpl
def save(model: Model, folder: Path, state_dict: dict[str, Tensor]) -> bool:
    from .model import save

    return save(model, folder, state_dict)
