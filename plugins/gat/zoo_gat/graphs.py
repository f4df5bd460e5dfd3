"""Graphs as tensors, those of drawn letters, and the neighbourhoods of some of their nodes.

An edge (j, i) of `edge_index` `[2, e]` carries a message from node j to node i, as in PyG.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from zoo import DataError

if TYPE_CHECKING:
    from torch import Tensor

NODES = {"train": 3900, "test": 1040}  # of the graphs of letters: whole rounds of 26
SIDE = 16  # of the letters whose pixels are the features
NEIGHBOURS = 8
_CHUNK = 1024


@dataclass(frozen=True)
class Graph:
    """A graph of n nodes and e edges, or several of them side by side.

    Attributes:
        x: `[n, features]` float32.
        edge_index: `[2, e]` int64.
        y: `[n]` int64, -1 where unknown; or, of nodes with several classes at once, `[n, classes]` float32 of 0 and 1,
            nan where unknown; or None.
        edge_attr: `[e, edge features]` float32 or None.
        edge_weight: `[e]` float32 or None.
        masks: split → `[n]` bool.
        classes: what the numbers of `y` are called in the data; () where they are the model's own numbers.
        neighbors: how many in-neighbours of a node to sample in each layer of a batch; None for all.
        names: what the nodes are called.
        images: of the nodes, `[n, c, h, w]` in [0, 1], if any.
    """

    x: Tensor
    edge_index: Tensor
    y: Tensor | None = None
    edge_attr: Tensor | None = None
    edge_weight: Tensor | None = None
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    neighbors: tuple[int, ...] | None = None
    names: tuple[str, ...] | None = None
    images: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def name(self, node: int) -> str:
        """Return a node's name; its number if the graph has no names."""
        return self.names[node] if self.names else str(node)

    def tensors(self) -> dict[str, Tensor]:
        """Return what the module is called with."""
        found = {"x": self.x, "edge_index": self.edge_index, "edge_attr": self.edge_attr}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def known(self) -> Tensor:
        """Return which nodes have a label, `[n]` bool.

        Raises:
            DataError: the graph has no labels.
        """
        if self.y is None:
            raise DataError("the nodes of this graph have no labels: give y, one class for each node, -1 for unknown")
        return self.y >= 0 if self.y.ndim == 1 else ~self.y.isnan().all(1)

    def nodes(self, split: str) -> Tensor:
        """Return the labelled nodes of a split `[m]`; all of a graph that is one split by itself, as letters are."""
        chosen = self.known() & self.masks[split] if self.masks else self.known()
        if not chosen.any():
            raise DataError(f"this graph has no labelled node for the split {split!r}: give a mask that holds some")
        return chosen.nonzero()[:, 0]


@lru_cache(maxsize=8)
def letters(style: str, split: str) -> Graph:
    """Return a graph of drawn capitals: a node is an image of 16×16 pixels that hears from the 8 most like it."""
    return drawn(style, split, NODES[split], seed=0)


def drawn(style: str, split: str, count: int, *, seed: int) -> Graph:
    """Return the graph of `count` capitals that are drawn from a seed."""
    from zoo.data.letters import LETTERS, render

    images, labels = render(style, count, seed=seed, size=2 * SIDE, split=split)
    x = torch.nn.functional.avg_pool2d(images, 2).flatten(1)
    names = tuple(f"{node} ({LETTERS[label]})" for node, label in enumerate(labels.tolist()))
    return Graph(x, nearest(x, NEIGHBOURS), labels, names=names, images=images)


def nearest(x: Tensor, k: int) -> Tensor:
    """Return `edge_index` `[2, n·k]`: to each row of `x` `[n, d]` from the `k` nearest rows, by Euclidean distance."""
    if not 1 <= k < len(x):
        raise DataError(f"expected from 1 to {len(x) - 1} neighbours for each of {len(x)} nodes, got {k}")
    found = []
    for start in range(0, len(x), _CHUNK):
        distance = torch.cdist(x[start : start + _CHUNK], x)  # [chunk, n]
        rows = torch.arange(len(distance))
        distance[rows, rows + start] = torch.inf
        found.append(distance.topk(k, largest=False).indices)
    sources = torch.cat(found)  # [n, k]
    return torch.stack([sources.flatten(), torch.arange(len(x)).repeat_interleave(k)])


def neighbourhood(
    graph: Graph,
    seeds: Tensor,
    layers: int,
    neighbors: Sequence[int] | None = None,
    generator: torch.Generator | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """Return the part of a graph that `seeds` `[m]` hear from in `layers` layers, and where the seeds are in it.

    With `neighbors` None all of it, so that what the seeds get is exactly what they get in the whole graph; else at
    most `neighbors[k]` edges into each node that is `k` steps away, drawn without replacement (arXiv 1706.02216).
    """
    source, target = graph.edge_index
    order = target.argsort(stable=True)
    counts = torch.bincount(target, minlength=len(graph))
    starts = counts.cumsum(0) - counts
    reached = torch.zeros(len(graph), dtype=torch.bool)  # [n]
    reached[seeds] = True
    frontier, kept = seeds.unique(), []
    for layer in range(layers):
        degree = counts[frontier]
        places = _ranges(starts[frontier], degree)
        if neighbors is not None:
            places = _some(places, degree, neighbors[layer], generator)
        kept.append(order[places])
        heard = source[kept[-1]].unique()
        frontier = heard[~reached[heard]]
        reached[frontier] = True
    edges = torch.cat(kept).sort().values
    nodes = reached.nonzero()[:, 0]
    number = torch.full((len(graph),), -1)
    number[nodes] = torch.arange(len(nodes))
    attributes = None if graph.edge_attr is None else graph.edge_attr[edges]
    part = replace(graph, x=graph.x[nodes], edge_index=number[graph.edge_index[:, edges]], edge_attr=attributes)
    return part.tensors(), number[seeds]


def _ranges(starts: Tensor, counts: Tensor) -> Tensor:
    """Return `starts[0], starts[0] + 1, …` (`counts[0]` of them), then those of `starts[1]`, and so on."""
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)
    return starts.repeat_interleave(counts) + torch.arange(int(counts.sum())) - first


def _some(places: Tensor, degree: Tensor, limit: int, generator: torch.Generator | None) -> Tensor:
    """Draw at most `limit` of each node's run of `degree` places, without replacement, and return them in order."""
    node = torch.arange(len(degree)).repeat_interleave(degree)
    shuffled = torch.randperm(len(places), generator=generator)
    shuffled = shuffled[node[shuffled].argsort(stable=True)]  # by node again, each node's in random order
    rank = _ranges(torch.zeros_like(degree), degree)
    return places[shuffled[rank < limit].sort().values]
