"""Graph attention networks: torch_geometric's `GAT` model, of GATConv or GATv2Conv layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import hookimpl

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zoo import BatchRequest, Entry, Model, Quantization, SampleRequest, Samples


@hookimpl
def recognises(config: dict[str, Any]) -> bool:
    # The arguments of the library's class are all that its files hold; among its models only GATs have heads.
    return {"in_channels", "hidden_channels", "num_layers", "heads"} <= config.keys() and "_class_name" not in config


@hookimpl
def construct(entry: Entry) -> nn.Module:
    from .model import build

    return build(entry)


@hookimpl
def checkpoint(entry: Entry, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    from .model import tensors

    return tensors(entry, module)


@hookimpl
def quantize(name: str, weight: Tensor, scheme: Quantization) -> Tensor | None:
    # A vector for each head, under 1 % of the weights, and every attention coefficient is a product with it.
    kept = name.rpartition(".")[2] in ("att", "att_src", "att_dst", "att_edge")
    return weight if scheme.bits < 16 and kept else None


@hookimpl
def sample(model: Model, request: SampleRequest) -> Samples:
    from .prediction import sample

    return sample(model, request)


@hookimpl
def loss(model: Model, batch: dict[str, Tensor]) -> Tensor:
    from .training import loss

    return loss(model, batch)


@hookimpl
def batches(model: Model, data: Any, request: BatchRequest) -> Iterable[dict[str, Tensor]]:
    from .training import batches

    return batches(model, data, request)


@hookimpl
def evaluate(model: Model, data: Any) -> dict[str, float]:
    from .training import evaluate

    return evaluate(model, data)


@hookimpl
def describe(entry: Entry) -> dict[str, str]:
    from .files import describe

    return describe(entry)


@hookimpl
def save(model: Model, folder: Path, state_dict: dict[str, Tensor]) -> bool:
    from .model import save

    return save(model, folder, state_dict)


@hookimpl
def run_rows(model: Model, args: tuple[Any, ...], kwargs: dict[str, Any], rows: Tensor, count: int) -> Tensor:
    from .prediction import run_rows

    return run_rows(model, args, kwargs, rows, count)
