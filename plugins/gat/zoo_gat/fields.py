"""The fields of a graph, each checked: features, edges, labels, masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from zoo import DataError
from zoo.data.classes import in_order

from .graphs import Graph

if TYPE_CHECKING:
    from torch import Tensor

MASKS = {"train": "train_mask", "validation": "val_mask", "test": "test_mask"}
FIELDS = frozenset(
    {"x", "edge_index", "adj_t", "y", "edge_attr", "edge_weight", "neighbors", "num_nodes", "batch", "ptr"}
    | set(MASKS.values())
)


def checked_graph(get: Callable[[str], Any], seed: int, notes: list[str]) -> Graph:
    """Return a graph of whatever has these names, in the types and shapes that it should have.

    Args:
        get: name → what the data have under it, or None.
        seed: which of several splits to take, where masks have several.
        notes: gets what there is to say.

    Raises:
        DataError: a field is missing, of another shape, or says something that cannot be.
    """
    if get("x") is None or (get("edge_index") is None and get("adj_t") is None):
        raise DataError("a graph needs x, the features of its nodes, and edge_index, its edges; one of them is missing")
    x = as_tensor("x", get("x")).float()
    if x.ndim != 2 or not len(x):
        raise DataError(f"expected the features x as [nodes, features], got {list(x.shape)}")
    edges, weight = _edges(get, len(x))
    attributes = None if get("edge_attr") is None else as_tensor("edge_attr", get("edge_attr"))
    for name, values in (("edge_attr", attributes), ("edge_weight", weight)):
        if values is not None and len(values) != edges.shape[1]:
            raise DataError(f"expected a row of {name} for each of {edges.shape[1]} edges, got {len(values)}")
    y, classes = _labels(get, len(x))
    masks = {}
    for split, name in MASKS.items():
        mask = _mask(name, get(name), len(x), seed, notes)
        if mask is not None:
            masks[split] = mask
    return Graph(
        x,
        edges.long(),
        y,
        None if attributes is None else attributes.float(),
        None if weight is None else weight.float(),
        masks,
        classes,
        _fan(get("neighbors")),
    )


def edges_of(graph: Any, number: Mapping[Any, int]) -> list[tuple[int, int, Any]]:
    """Return the edges of a networkx graph as (source, target, edge_attr or None); undirected ones both ways."""
    edges = [(number[a], number[b], info.get("edge_attr")) for a, b, info in graph.edges(data=True)]
    if not graph.is_directed():
        edges += [(b, a, info) for a, b, info in edges if a != b]
    return edges


def as_tensor(name: str, value: Any) -> Tensor:
    """Return what a user gave as a tensor on the CPU.

    Raises:
        DataError: it is none.
    """
    try:
        return torch.as_tensor(value).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"expected {name} of a graph as a tensor or an array, got {type(value).__name__} ({error})"
        ) from error


def _edges(get: Callable[[str], Any], nodes: int) -> tuple[Tensor, Tensor | None]:
    """Return edge_index `[2, e]` and the edges' weights, from `edge_index` or from `adj_t`, target by source."""
    if get("edge_index") is not None and get("adj_t") is not None:
        raise DataError("a graph has edge_index and adj_t, which may differ: give one of them")
    weight = None if get("edge_weight") is None else as_tensor("edge_weight", get("edge_weight"))
    if get("edge_index") is not None:
        edges = as_tensor("edge_index", get("edge_index"))
    else:
        edges, values = _adjacency(get("adj_t"))
        if weight is None and values is not None and not bool((values == 1).all()):
            weight = values
    if edges.ndim != 2 or edges.shape[0] != 2 or edges.is_floating_point():
        raise DataError(f"expected edge_index as [2, edges] of whole numbers, got {edges.dtype} of {list(edges.shape)}")
    if edges.numel() and not 0 <= int(edges.min()) <= int(edges.max()) < nodes:
        raise DataError(
            f"expected nodes from 0 to {nodes - 1} in edge_index, got {int(edges.min())} to {int(edges.max())}"
        )
    return edges, weight


def _adjacency(adj_t: Any) -> tuple[Tensor, Tensor | None]:
    if callable(getattr(adj_t, "coo", None)):  # torch_sparse's SparseTensor
        target, source, values = adj_t.coo()
        return torch.stack([source, target]).cpu(), None if values is None else values.cpu()
    if not isinstance(adj_t, torch.Tensor) or adj_t.layout == torch.strided:
        raise DataError(f"expected adj_t as a sparse matrix, got {type(adj_t).__name__}: give edge_index instead")
    sparse = adj_t.detach().cpu().to_sparse_coo().coalesce()
    return sparse.indices().flip(0), sparse.values()


def _labels(get: Callable[[str], Any], nodes: int) -> tuple[Tensor | None, tuple[str, ...]]:
    """Return y `[nodes]` int64 or `[nodes, classes]` float32, and the classes' names where the labels are names."""
    given = get("y")
    if given is None:
        return None, ()
    if isinstance(given, list | tuple) and any(isinstance(label, str) for label in given):
        classes = tuple(in_order({str(label) for label in given if label not in (-1, None)}))
        number = {name: i for i, name in enumerate(classes)}
        given = [number.get(str(label), -1) if label not in (-1, None) else -1 for label in given]
    elif getattr(getattr(given, "dtype", None), "kind", "") == "U":  # an array of texts
        return _labels(lambda name: given.tolist(), nodes)
    else:
        classes = ()
    y = as_tensor("y", given)
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    several = get("ptr") is not None or get("batch") is not None
    if several and y.ndim and len(y) != nodes:
        raise DataError(f"y has {len(y)} values for {nodes} nodes, one for each graph it seems: a GAT classifies nodes")
    if y.ndim == 2 and len(y) == nodes:
        values = y.float()
        if not bool(((values == 0) | (values == 1) | values.isnan()).all()):
            raise DataError("expected y of several classes at once as 0 and 1, nan where unknown, got other values")
        return values, ()
    whole = y.is_floating_point() and bool((y.isnan() | (y == y.round())).all())  # nan: unknown
    y = y.nan_to_num(-1).long() if whole and y.shape == (nodes,) else y
    if y.shape != (nodes,) or y.is_floating_point():
        raise DataError(f"expected y as one whole number for each of {nodes} nodes, got {y.dtype} of {list(y.shape)}")
    return y.long(), classes


def _mask(name: str, value: Any, nodes: int, seed: int, notes: list[str]) -> Tensor | None:
    if value is None:
        return None
    mask = as_tensor("a mask", value)
    if mask.ndim == 2 and len(mask) == nodes and mask.dtype == torch.bool:
        if not 0 <= seed < mask.shape[1]:
            raise DataError(
                f"{name} has the splits 0 to {mask.shape[1] - 1}, and zoo.Data(…, seed={seed}) asks for another"
            )
        notes.append(
            f"{name} has {mask.shape[1]} splits, of which number {seed} is taken: zoo.Data(…, seed=) says which"
        )
        mask = mask[:, seed]
    if mask.shape != (nodes,) or mask.dtype != torch.bool:
        raise DataError(
            f"expected a mask of one truth value for each of {nodes} nodes, got {mask.dtype} of {list(mask.shape)}"
        )
    return mask


def _fan(value: Any) -> tuple[int, ...] | None:
    if value is None:
        return None
    numbers = tuple(as_tensor("neighbors", value).flatten().tolist())
    if not numbers or not all(isinstance(number, int) and number > 0 for number in numbers):
        raise DataError(f"expected neighbors as how many to sample in each layer, such as [10, 5], got {value!r}")
    return numbers
