"""Class probabilities of nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from zoo import Samples, ZooError

from . import files
from .graphs import Graph, neighbourhood
from .model import predict
from .reading import read
from .training import checked

if TYPE_CHECKING:
    from torch import Tensor

    from zoo import Model, SampleRequest


def sample(model: Model, request: SampleRequest) -> Samples:
    """Return class probabilities [n, classes] of nodes, as samples of kind "posterior".

    Of a graph whose nodes have several classes at once each class has a probability by itself.

    Args:
        model: the model.
        request: its options are `data`: a graph as `zoo_gat.reading.read` takes it, by default the held-out graph of
            letters, "letters:sans"; `nodes`: which ones, by number or, of a networkx graph, by name, repeated to `n`;
            by default `n` of the graph's (of its test split where it has labels), drawn from the seed, all different
            where there are enough; `neighbors`: how many neighbours to hear in each layer, such as [10, 5], drawn from
            the seed, by default all.

    Raises:
        ZooError: an option cannot be, or the graph does not fit the model.
    """
    options = request.take()
    graph = checked(model, read(options["data"], "test"))
    generator = request.generator()
    nodes = _nodes(graph, options["nodes"], request.n, generator)
    layers = model.module.num_layers
    fan = _neighbors(options["neighbors"], layers)
    part, places = neighbourhood(graph, nodes, layers, fan, generator)
    logits = predict(model, part)[places.to(model.device)].cpu()  # [n, classes]
    names = files.class_names(model.entry)
    several = graph.y is not None and graph.y.ndim == 2
    return Samples(
        logits.sigmoid() if several else logits.softmax(1),
        "probabilities" if several else "posterior",
        [f"node {graph.name(node)}" for node in nodes.tolist()],
        labels=names if len(names) == logits.shape[1] else None,
        images=None if graph.images is None else graph.images[nodes],
    )


def _nodes(graph: Graph, wanted: Any, n: int, generator: torch.Generator) -> Tensor:
    """Return the numbers of the nodes to show, int64 [n]."""
    if wanted is None:
        able = graph.nodes("test") if graph.y is not None else torch.arange(len(graph))
        order = torch.cat([torch.randperm(len(able), generator=generator) for _ in range(-(-n // len(able)))])
        return able[order[:n]]
    chosen = wanted.flatten().tolist() if isinstance(wanted, torch.Tensor) else wanted
    if isinstance(chosen, str):
        chosen = [part.strip() for part in chosen.split(",")]
    chosen = list(chosen) if isinstance(chosen, list | tuple | range) else [chosen]
    numbers = [_number(graph, node) for node in chosen]
    if not numbers:
        raise ZooError("expected nodes as the numbers or names of at least one node, got none")
    return torch.tensor([numbers[i % len(numbers)] for i in range(n)])


def _number(graph: Graph, node: Any) -> int:
    if graph.names and str(node) in graph.names:
        return graph.names.index(str(node))
    if isinstance(node, str) and node.isdecimal():
        node = int(node)
    if isinstance(node, int) and not isinstance(node, bool) and 0 <= node < len(graph):
        return node
    raise ZooError(
        f"expected nodes as numbers from 0 to {len(graph) - 1}, or names of a networkx graph's nodes, got {node!r}"
    )


def _neighbors(wanted: Any, layers: int) -> list[int] | None:
    if wanted is None:
        return None
    numbers = list(wanted) if isinstance(wanted, list | tuple) else [wanted] * layers
    if len(numbers) != layers or not all(isinstance(number, int) and number > 0 for number in numbers):
        raise ZooError(
            f"expected neighbors as one number from 1 for each of {layers} layers, or one for all, got {wanted!r}"
        )
    return numbers


def run_rows(model: Model, args: tuple[Any, ...], kwargs: dict[str, Any], rows: Tensor, count: int) -> Tensor:
    """Return the outputs [k, classes] of nodes `rows` [k] of one graph, all of which runs: nodes hear from others."""
    x = args[0] if args else kwargs.get("x")
    if not isinstance(x, torch.Tensor) or len(x) != count:
        nodes = len(x) if isinstance(x, torch.Tensor) else "no"
        raise ZooError(f"adapters=: expected one entry for each node; the graph has {nodes} nodes, got {count} entries")
    return model.module(*args, **kwargs)[rows]
