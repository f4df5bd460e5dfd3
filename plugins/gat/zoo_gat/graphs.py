"""Graphs that a user brings, or of drawn letters, as tensors; and the neighbourhoods of some of their nodes.

An edge (j, i) of `edge_index` `[2, e]` carries a message from node j to node i, as in PyG.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from zoo import DataError
from zoo.data.letters import style_of

if TYPE_CHECKING:
    from torch import Tensor

NODES = {"train": 3900, "test": 1040}  # of the graphs of letters: whole rounds of 26
SIDE = 16  # of the letters whose pixels are the features
NEIGHBOURS = 8
_CHUNK = 1024
_FORMS = (
    "a PyG Data, a networkx graph, (edge_index, x) or (edge_index, x, y), a mapping of these, an .npz file or a name "
    'such as "letters:sans"'
)


@dataclass(frozen=True)
class Graph:
    """x `[n, features]` float32; edge_index `[2, e]` int64; y `[n]` int64, -1 where unknown, or None.

    train, test: masks `[n]` bool or None. neighbors: how many in-neighbours of a node to sample in each layer of a
    batch; None for all. names: what the nodes are called. images: of the nodes, `[n, c, h, w]` in [0, 1], if any.
    """

    x: Tensor
    edge_index: Tensor
    y: Tensor | None = None
    edge_attr: Tensor | None = None
    train: Tensor | None = None
    test: Tensor | None = None
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

    def nodes(self, split: str) -> Tensor:
        """Return the labelled nodes of a split `[m]`: those of its mask; all if the graph has no masks."""
        if self.y is None:
            raise DataError("the nodes of this graph have no labels: give y, one class for each node, -1 for unknown")
        chosen = self.y >= 0
        mask = self.train if split == "train" else self.test
        if mask is not None:
            chosen = chosen & mask
        elif split != "train" and self.train is not None:
            chosen = chosen & ~self.train
        if not chosen.any():
            raise DataError(f"this graph has no labelled node for the split {split!r}: give a mask that holds some")
        return chosen.nonzero()[:, 0]


def read(data: Any, split: str, own: str = "letters:sans") -> Graph:
    """Return the graph that `data` is; None is `own`.

    Keys of a mapping, attributes of a PyG `Data` and arrays of an .npz file: `x`, `edge_index`, and perhaps `y`,
    `edge_attr`, `train_mask`, `test_mask` (or `val_mask`) and `neighbors`. Of a networkx graph: the node attributes `x`
    and perhaps `y`, the edge attribute `edge_attr`; its undirected edges run both ways. "letters:<style>" is a graph of
    its own for each split; "letters:<style>:fresh" is the same here.

    Args:
        data: the graph.
        split: "train" or "test".
        own: the data that None means.

    Raises:
        DataError: `data` is anything else, or the split is.
    """
    if split not in ("train", "test"):
        raise DataError(f"expected one of the splits train and test, got {split!r}")
    if data is None:
        data = own
    if isinstance(data, str) and data.startswith("letters:"):
        return letters(style_of(data)[0], split)
    if isinstance(data, str | Path):
        return _checked(_arrays(Path(data).expanduser()).get)
    if isinstance(data, Graph):
        return data
    if isinstance(data, Mapping):
        return _checked(data.get)
    if isinstance(data, tuple | list) and len(data) in (2, 3):
        return _checked(dict(zip(("edge_index", "x", "y"), data, strict=False)).get)
    if hasattr(data, "nodes") and hasattr(data, "edges") and hasattr(data, "is_directed"):
        return _of_networkx(data)
    if hasattr(data, "edge_index") and hasattr(data, "x"):
        return _checked(lambda name: getattr(data, name, None))
    raise DataError(f"expected a graph as {_FORMS}, got {type(data).__name__}")


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


def _checked(get: Callable[[str], Any]) -> Graph:
    """Return a graph of whatever has these names, in the types and shapes that it should have."""
    if get("x") is None or get("edge_index") is None:
        raise DataError("a graph needs x, the features of its nodes, and edge_index, its edges; one of them is missing")
    x, edges = _tensor("x", get("x")).float(), _tensor("edge_index", get("edge_index"))
    if x.ndim != 2 or not len(x):
        raise DataError(f"expected the features x as [nodes, features], got {list(x.shape)}")
    if edges.ndim != 2 or edges.shape[0] != 2 or edges.is_floating_point():
        raise DataError(f"expected edge_index as [2, edges] of whole numbers, got {edges.dtype} of {list(edges.shape)}")
    if edges.numel() and not 0 <= int(edges.min()) <= int(edges.max()) < len(x):
        raise DataError(
            f"expected nodes from 0 to {len(x) - 1} in edge_index, got {int(edges.min())} to {int(edges.max())}"
        )
    y, attributes = (None if get(name) is None else _tensor(name, get(name)) for name in ("y", "edge_attr"))
    if y is not None:
        y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
        if y.shape != (len(x),) or y.is_floating_point():
            raise DataError(
                f"expected y as one whole number for each of {len(x)} nodes, got {y.dtype} of {list(y.shape)}"
            )
        y = y.long()
    if attributes is not None and len(attributes) != edges.shape[1]:
        raise DataError(f"expected a row of edge_attr for each of {edges.shape[1]} edges, got {len(attributes)}")
    test = get("test_mask")
    masks = [_mask(get("train_mask"), len(x)), _mask(get("val_mask") if test is None else test, len(x))]
    return Graph(x, edges.long(), y, None if attributes is None else attributes.float(), *masks, _fan(get("neighbors")))


def _tensor(name: str, value: Any) -> Tensor:
    try:
        return torch.as_tensor(value).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"expected {name} of a graph as a tensor or an array, got {type(value).__name__} ({error})"
        ) from error


def _mask(value: Any, nodes: int) -> Tensor | None:
    if value is None:
        return None
    mask = _tensor("a mask", value)
    if mask.shape != (nodes,) or mask.dtype != torch.bool:
        raise DataError(
            f"expected a mask of one truth value for each of {nodes} nodes, got {mask.dtype} of {list(mask.shape)}"
        )
    return mask


def _fan(value: Any) -> tuple[int, ...] | None:
    if value is None:
        return None
    numbers = tuple(_tensor("neighbors", value).flatten().tolist())
    if not numbers or not all(isinstance(number, int) and number > 0 for number in numbers):
        raise DataError(f"expected neighbors as how many to sample in each layer, such as [10, 5], got {value!r}")
    return numbers


def _of_networkx(graph: Any) -> Graph:
    nodes = list(graph.nodes)
    number = {node: i for i, node in enumerate(nodes)}
    lacking = next((node for node in nodes if "x" not in graph.nodes[node]), None)
    if not nodes or lacking is not None:
        raise DataError(f"each node of a networkx graph needs an attribute x, its features, and {lacking!r} has none")
    edges = [(number[a], number[b], info.get("edge_attr")) for a, b, info in graph.edges(data=True)]
    if not graph.is_directed():
        edges += [(b, a, info) for a, b, info in edges if a != b]
    found: dict[str, Any] = {
        "x": torch.stack([torch.as_tensor(graph.nodes[node]["x"], dtype=torch.float32).flatten() for node in nodes]),
        "edge_index": torch.tensor([edge[:2] for edge in edges], dtype=torch.int64).reshape(-1, 2).T.contiguous(),
        "neighbors": graph.graph.get("neighbors"),
    }
    if any("y" in graph.nodes[node] for node in nodes):
        found["y"] = [int(graph.nodes[node].get("y", -1)) for node in nodes]
    for mask in ("train_mask", "test_mask", "val_mask"):
        if any(mask in graph.nodes[node] for node in nodes):
            found[mask] = [bool(graph.nodes[node].get(mask, False)) for node in nodes]
    if edges and all(info is not None for *_, info in edges):
        found["edge_attr"] = torch.stack([torch.as_tensor(info).float().flatten() for *_, info in edges])
    return replace(_checked(found.get), names=tuple(map(str, nodes)))


def _arrays(path: Path) -> dict[str, Any]:
    import numpy as np

    if path.suffix.lower() != ".npz" or not path.is_file():
        raise DataError(f"expected a graph as {_FORMS}; there is no such file or name: {str(path)!r}")
    try:
        with np.load(path, allow_pickle=False) as held:
            return dict(held)
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is not a plain NumPy file ({error}): write it with numpy.savez") from error
