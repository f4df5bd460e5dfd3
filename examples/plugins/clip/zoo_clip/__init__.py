"""CLIP (arXiv 2103.00020): an image and a text tower, one space; transformers' `CLIPModel` as it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import hookimpl

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zoo import BatchRequest, Entry, Model, SampleRequest, Samples


@hookimpl
def recognises(config: dict[str, Any]) -> bool:
    return config.get("model_type") == "clip" and config.get("architectures", ["CLIPModel"]) == ["CLIPModel"]


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
    from .zeroshot import sample

    return sample(model, request)


@hookimpl
def loss(model: Model, batch: dict[str, Tensor]) -> Tensor:
    from .zeroshot import loss

    return loss(model, batch)


@hookimpl
def batches(model: Model, data: Any, request: BatchRequest) -> Iterator[dict[str, Tensor]]:
    from .zeroshot import batches

    return batches(model, data, request)


@hookimpl
def evaluate(model: Model, data: Any) -> dict[str, float]:
    from .zeroshot import evaluate

    return evaluate(model, data)


@hookimpl
def describe(entry: Entry) -> dict[str, str]:
    vision, text = (entry.config.get(f"{tower}_config", {}) for tower in ("vision", "text"))
    facts = {"image size": vision.get("image_size"), "patch size": vision.get("patch_size")}
    facts |= {"context": text.get("max_position_embeddings"), "shared space": entry.config.get("projection_dim")}
    return {label: str(value) for label, value in facts.items() if value}


@hookimpl
def save(model: Model, folder: Path, state_dict: dict[str, Tensor]) -> bool:
    from .model import write

    write(model, folder, state_dict)
    return True
