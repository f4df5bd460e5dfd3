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
    architectures = config.get("architectures") or []
    if architectures:
        return any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in architectures)
    if not isinstance(config.get("model_type"), str):
        return None
    from .model import is_causal

    return is_causal(config["model_type"])


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
    from .text import generate

    return generate(model, request)


@hookimpl
def loss(model: Model, batch: dict[str, Tensor]) -> Tensor:
    from .text import cross_entropy

    return cross_entropy(model, batch)


@hookimpl
def batches(model: Model, data: Any, request: BatchRequest) -> Iterable[dict[str, Tensor]]:
    from .text import window_batches

    return window_batches(model, data, request)


@hookimpl
def evaluate(model: Model, data: Any) -> dict[str, float]:
    from .text import perplexity

    return perplexity(model, data)


@hookimpl
def describe(entry: Entry) -> dict[str, str]:
    from .facts import facts

    return facts(entry)


@hookimpl
def save(model: Model, folder: Path, state_dict: dict[str, Tensor]) -> bool:
    from .model import write

    write(model, folder, state_dict)
    return True
