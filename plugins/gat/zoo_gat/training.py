"""Batches, the loss, and metrics on held-out nodes. Shapes: n nodes, e edges, m nodes with labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import count as numbers
from itertools import repeat
from typing import TYPE_CHECKING, Any

import torch

from zoo import DataError
from zoo.data.batches import Batches, generator_of
from zoo.data.classes import bind_classes
from zoo.data.letters import is_fresh, style_of
from zoo.data.stream import stream
from zoo.metrics import Scores, add_classification
from zoo.torch_state.spread import spread

from . import files
from .graphs import Graph, drawn, neighbourhood
from .model import predict
from .reading import read

if TYPE_CHECKING:
    from torch import Tensor

    from zoo import BatchRequest, Model
    from zoo.metrics import Figures

FRESH = 4  # batches of one graph of letters that are drawn anew
_AT_ONCE = 65_536  # nodes of a graph that is computed whole


def batches(model: Model, data: Any, request: BatchRequest) -> Iterator[dict[str, Tensor]]:
    """Return batches of "x" [n, features], "edge_index" [2, e], "seeds" [m] (nodes of x) and their "labels" [m].

    A batch has `request.batch_size` labelled nodes of the split and all that they hear from through the model's layers,
    so that its loss is that of the same nodes in the whole graph; the graph's `neighbors` limits how many neighbours
    are sampled instead. A batch size of as many as there are labelled nodes gives the whole graph at every step.

    Args:
        model: the model.
        data: a graph as `zoo_gat.reading.read` takes it; None: capitals, "letters:sans". To train on
            "letters:<style>:fresh", graphs of as many letters as the batch size are drawn anew all the time.
        request: batch size, split and seed.

    Raises:
        DataError: the graph cannot be used, or does not fit the model.
    """
    if request.training and is_fresh(data):
        return _fresh(model, style_of(data)[0], request)
    graph = checked(model, read(data, request.split))
    nodes, fan = graph.nodes(request.split), fan_out(model, graph)
    if request.training and request.batch_size >= len(nodes) and fan is None:
        return Batches(repeat(_whole(graph, nodes)))
    return stream({"nodes": nodes}, request).map(
        lambda found, number: _batch(model, graph, found["nodes"], fan, generator_of(request.seed, number))
    )


def loss(model: Model, batch: dict[str, Tensor]) -> Tensor:
    """Return the mean cross entropy of the seeds' labels, of several classes at once the binary one: a scalar."""
    logits = predict(model, batch)[batch["seeds"].to(model.device)]  # [m, classes]
    return _cross_entropy(logits, batch["labels"].to(model.device))


def count(batch: dict[str, Tensor]) -> int:
    """Return what the loss is the mean of: labelled nodes, or their known classes."""
    labels = batch["labels"]
    return len(labels) if labels.ndim == 1 else int((~labels.isnan()).sum())


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    if labels.ndim == 1:
        return torch.nn.functional.cross_entropy(logits, labels)
    known = ~labels.isnan()
    return torch.nn.functional.binary_cross_entropy_with_logits(logits[known], labels[known].to(logits.dtype))


def evaluate(model: Model, data: Any) -> Figures:
    """Return "accuracy" and "loss" (mean cross entropy, nats) of the test split's labelled nodes, all edges used.

    Beside them "top5_accuracy" where there are more than five classes, and "calibration_error". Of several classes at
    once "micro_f1" (of the classes whose probability is above a half) and "loss".
    """
    graph = checked(model, read(data, "test"))
    nodes = graph.nodes("test")
    logits, labels = scores(model, graph, nodes), graph.y[nodes]  # type: ignore[index]
    found = Scores("nodes")
    if labels.ndim == 1:
        add_classification(found, logits, labels)
        return found.figures()
    known = ~labels.isnan()
    said, true = (logits > 0) & known, (labels == 1) & known
    found.ratio("micro_f1", 2 * (said & true).sum(1), said.sum(1) + true.sum(1))
    losses = torch.nn.functional.binary_cross_entropy_with_logits(
        logits.double(), labels.nan_to_num().double(), reduction="none"
    )
    found.ratio("loss", (losses * known).sum(1), known.sum(1))
    return found.figures()


def scores(model: Model, graph: Graph, nodes: Tensor) -> Tensor:
    """Return logits [m, classes] of `nodes` [m], float32 on the CPU.

    A large graph is computed in parts, with the same result.
    """
    if len(graph) <= _AT_ONCE:
        return predict(model, graph.tensors())[nodes.to(model.device)].cpu()

    def of(seeds: Tensor) -> Tensor:
        part, places = neighbourhood(graph, seeds, model.module.num_layers)
        return predict(model, part)[places.to(model.device)].cpu()

    return torch.cat(spread(nodes.split(_AT_ONCE // 16), of))


def checked(model: Model, graph: Graph) -> Graph:
    """Return `graph`, if the model can take it.

    Raises:
        DataError: features, classes or edges do not fit, or there is something that the model does not use.
    """
    module = model.module
    if graph.x.shape[1] != module.in_channels:
        raise DataError(
            f"{model.entry.name} takes {module.in_channels} features of each node, this graph has {graph.x.shape[1]}"
        )
    graph = _numbered(model, graph)
    if graph.edge_weight is not None:
        raise DataError(
            f"{model.entry.name} takes no edge_weight, as its attention weighs the edges: leave it out, or give it as "
            "edge_attr [edges, 1] to a model of edge_dim 1"
        )
    wanted = module.convs[0].edge_dim
    given = None if graph.edge_attr is None else graph.edge_attr.reshape(len(graph.edge_attr), -1).shape[1]
    if given != wanted:
        raise DataError(
            f"{model.entry.name} takes {wanted or 'no'} features of each edge, and this graph has {given or 'none'}"
            f"{'' if wanted else ': leave out edge_attr, or take a model with edge_dim'}"
        )
    return graph


def _numbered(model: Model, graph: Graph) -> Graph:
    """Return the graph with labels as the model counts its classes: by name where the data have names."""
    classes, y, name = model.module.out_channels, graph.y, model.entry.name
    if y is None or not len(y):
        return graph
    if y.ndim == 2:
        if y.shape[1] != classes:
            raise DataError(f"{name} has {classes} classes, and y says it of {y.shape[1]} for each node")
        return graph
    if graph.classes:
        own = files.class_names(model.entry) or [str(i) for i in range(classes)]
        numbers, _ = bind_classes(graph.classes, own, model=name)
        numbered = torch.tensor([*numbers, -1])[y]  # -1 stays: the last one
        return replace(graph, y=numbered, classes=())
    if int(y.max()) >= classes:
        raise DataError(f"{name} has the classes 0 to {classes - 1}, and this graph has labels up to {int(y.max())}")
    return graph


def fan_out(model: Model, graph: Graph) -> tuple[int, ...] | None:
    """Return how many neighbours to sample in each layer, from the seeds on; None for all.

    One number of the graph's may be meant for all layers.

    Raises:
        DataError: the graph has as many numbers as neither one nor the layers.
    """
    layers, fan = model.module.num_layers, graph.neighbors
    if fan is None or len(fan) == layers:
        return fan
    if len(fan) == 1:
        return fan * layers
    raise DataError(f"{model.entry.name} has {layers} layers, so neighbors is 1 or {layers} numbers, got {list(fan)}")


def _whole(graph: Graph, nodes: Tensor) -> dict[str, Tensor]:
    return {**graph.tensors(), "seeds": nodes, "labels": graph.y[nodes]}  # type: ignore[index]


def _fresh(model: Model, style: str, request: BatchRequest) -> Batches[dict[str, Tensor]]:
    """Return graphs of `request.batch_size` capitals, each whole, for FRESH batches, and drawn from its own seed."""

    @lru_cache(maxsize=1)
    def whole(number: int) -> dict[str, Tensor]:
        graph = checked(model, drawn(style, "train", request.batch_size, seed=request.seed * 1_000_000 + number))
        return _whole(graph, graph.nodes("train"))

    return Batches(numbers(), lambda _, number: dict(whole(number // FRESH)))


def _batch(
    model: Model, graph: Graph, nodes: Tensor, fan: tuple[int, ...] | None, generator: torch.Generator
) -> dict[str, Tensor]:
    part, seeds = neighbourhood(graph, nodes, model.module.num_layers, fan, generator)
    return {**part, "seeds": seeds, "labels": graph.y[nodes]}  # type: ignore[index]
