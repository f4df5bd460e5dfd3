"""Masked language models of transformers (BERT, RoBERTa, DistilBERT, ModernBERT, …), and text classifiers on them."""

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
    from .facts import ENDINGS

    architectures = [str(name) for name in config.get("architectures") or []]
    if any(name.endswith("ForMaskedLM") for name in architectures):
        return True
    if not any(name.endswith(ENDINGS) for name in architectures):
        return None
    from .model import is_masked

    return is_masked(str(config.get("model_type")))


@hookimpl
def construct(entry: Entry) -> nn.Module:
    from .model import build

    return build(entry)


@hookimpl
def checkpoint(entry: Entry, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    from .model import named_tensors

    return named_tensors(entry, module)


@hookimpl
def sample(model: Model, request: SampleRequest) -> Samples:
    from . import classes, masks
    from .model import is_classifier

    return classes.sample(model, request) if is_classifier(model.module) else masks.sample(model, request)


@hookimpl
def loss(model: Model, batch: dict[str, Tensor]) -> Tensor:
    from . import classes, text
    from .model import is_classifier

    return classes.loss(model, batch) if is_classifier(model.module) else text.loss(model, batch)


@hookimpl
def batches(model: Model, data: Any, request: BatchRequest) -> Iterable[dict[str, Tensor]]:
    from . import classes, text
    from .model import is_classifier

    kind = classes if is_classifier(model.module) else text
    return kind.batches(model, data, request)


@hookimpl
def evaluate(model: Model, data: Any) -> dict[str, float]:
    from . import classes, text
    from .model import is_classifier

    return classes.evaluate(model, data) if is_classifier(model.module) else text.evaluate(model, data)


@hookimpl
def describe(entry: Entry) -> dict[str, str]:
    from .facts import facts

    return facts(entry)


@hookimpl
def save(model: Model, folder: Path, state_dict: dict[str, Tensor]) -> bool:
    from .model import write

    write(model, folder, state_dict)
    return True
