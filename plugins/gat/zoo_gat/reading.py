"""Graphs that a user brings: in which forms they come, and how their nodes are split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from zoo import DataError
from zoo.data.arrays import read_npz
from zoo.data.letters import style_of
from zoo.data.report import Report, key_of, record
from zoo.data.spec import ALL, SPLITS, Data, as_data, split_name
from zoo.data.splits import held_out

from .fields import FIELDS, checked_graph, edges_of
from .graphs import Graph, letters

if TYPE_CHECKING:
    from torch import Tensor

_FORMS = (
    "a PyG Data or a list or dataset of them, a networkx graph, (edge_index, x) or (edge_index, x, y), a mapping of "
    'these, an .npz file or a name such as "letters:sans"'
)


def read(data: Any, split: str, own: str = "letters:sans") -> Graph:
    """Return the graph that `data` is, with a mask for each of its splits; None is `own`.

    Keys of a mapping, attributes of a PyG `Data` and arrays of an .npz file: `x`, `edge_index` or `adj_t`, and perhaps
    `y`, `edge_attr`, `edge_weight`, `train_mask`, `val_mask`, `test_mask` and `neighbors`. Of masks of several splits,
    `[n, splits]`, the one that `zoo.Data(…, seed=)` numbers is taken. Of a networkx graph: the node attributes `x` and
    perhaps `y`, the edge attribute `edge_attr`; its undirected edges run both ways. Several graphs are put side by
    side. `{"train": …, "test": …}` are graphs of splits. Without masks a share of the labelled nodes is held out, or of
    several graphs a share of the graphs. "letters:<style>" is a graph of its own for each split.

    Args:
        data: the graph, or a `zoo.Data` around it.
        split: "train", "validation" or "test".
        own: the data that None means.

    Raises:
        DataError: `data` is anything else, or the split is.
    """
    split, spec = split_name(split), as_data(data, own)
    source = spec.source
    if isinstance(source, str) and source.startswith("letters:"):
        return letters(style_of(source)[0], "train" if (spec.split or split) == "train" else "test")
    if isinstance(source, Graph):
        return source
    graph, unused, notes = _found(source, spec)
    if graph.y is None:
        return graph
    graph, rule = _with_masks(graph, spec, notes)
    served = spec.split or split
    record(_report(graph, spec, rule, unused, notes, served))
    if spec.split is not None:
        mask = torch.ones(len(graph), dtype=torch.bool) if served == ALL else graph.masks.get(split_name(served))
        if mask is None:
            raise DataError(f"this graph has no split {served!r}; it has {', '.join(graph.masks)}")
        graph = replace(graph, masks=dict.fromkeys(SPLITS, mask))
    return graph


def _found(source: Any, spec: Data) -> tuple[Graph, list[str], list[str]]:
    """Return the graph of any form, the names of the fields that nothing uses, and what else to say."""
    notes: list[str] = []
    if hasattr(source, "node_types") and hasattr(source, "edge_types"):
        raise DataError("expected a graph with one kind of node, got HeteroData: give its to_homogeneous()")
    if isinstance(source, str | Path):
        source = _arrays(Path(source).expanduser())
    if isinstance(source, Mapping) and source and all(_is_split(name) for name in source):
        return _of_splits(source, spec)
    if isinstance(source, Mapping):
        return _one(source.get, list(source), spec, notes)
    if isinstance(source, tuple | list) and len(source) in (2, 3) and all(_is_array(part) for part in source):
        given = dict(zip(("edge_index", "x", "y"), source, strict=False))
        return _one(given.get, list(given), spec, notes)
    if hasattr(source, "nodes") and hasattr(source, "edges") and hasattr(source, "is_directed"):
        return _of_networkx(source, spec)
    if hasattr(source, "x") and (hasattr(source, "edge_index") or hasattr(source, "adj_t")) and hasattr(source, "keys"):
        names = source.keys() if callable(source.keys) else source.keys
        return _one(lambda name: getattr(source, name, None), list(names), spec, notes)
    if isinstance(source, Iterable) and not isinstance(source, bytes):
        return _several(source, spec)
    raise DataError(f"expected a graph as {_FORMS}, got {type(source).__name__}")


def _is_split(name: Any) -> bool:
    return isinstance(name, str) and any(name in others for others in SPLITS.values())


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") or (
        isinstance(value, list) and not any(hasattr(part, "edge_index") for part in value)
    )


def _one(
    get: Callable[[str], Any], names: Sequence[str], spec: Data, notes: list[str]
) -> tuple[Graph, list[str], list[str]]:
    graph = checked_graph(get, spec.seed, notes)
    return graph, [name for name in names if name not in FIELDS], notes


def _several(source: Iterable[Any], spec: Data) -> tuple[Graph, list[str], list[str]]:
    """Return graphs side by side; where they have no masks, whole graphs are held out."""
    found = []
    for one in source:
        if isinstance(one, str | bytes | int | float):
            raise DataError(f"expected a graph as {_FORMS}, got a list of {type(one).__name__}")
        found.append(_found(one, spec))
    if not found:
        raise DataError(f"expected a graph as {_FORMS}, got no graph at all")
    graphs = [graph for graph, _, _ in found]
    unused = list(dict.fromkeys(name for _, names, _ in found for name in names))
    notes = list(dict.fromkeys(note for _, _, said in found for note in said))
    indices = getattr(source, "get_idx_split", None)
    if len(graphs) == 1 and callable(indices):  # a dataset of the Open Graph Benchmark
        graphs = [replace(graphs[0], masks=_of_indices(indices(), len(graphs[0])))]
    union = side_by_side(graphs)
    if len(graphs) > 1 and not union.masks:
        keys = [key_of(graph.x.numpy().tobytes(), graph.edge_index.numpy().tobytes()) for graph in graphs]
        out = held_out(keys, share=spec.hold_out, seed=spec.seed)
        test = torch.cat([torch.full((len(graph),), held) for graph, held in zip(graphs, out, strict=True)])
        union = replace(union, masks={"train": ~test, "test": test})
        notes.append(f"{len(graphs)} graphs, {sum(out)} of them held out")
    return union, unused, notes


def _of_splits(source: Mapping[str, Any], spec: Data) -> tuple[Graph, list[str], list[str]]:
    parts = {}
    for name, one in source.items():
        graph, unused, notes = _found(one, spec)
        parts[split_name(name)] = (replace(graph, masks={}), unused, notes)
    union = side_by_side([graph for graph, _, _ in parts.values()])
    owner = [name for name, (graph, _, _) in parts.items() for _ in range(len(graph))]
    masks = {name: torch.tensor([own == name for own in owner]) for name in parts}
    unused = list(dict.fromkeys(name for _, names, _ in parts.values() for name in names))
    return replace(union, masks=masks), unused, [note for _, _, said in parts.values() for note in said]


def _of_indices(indices: Mapping[str, Any], nodes: int) -> dict[str, Tensor]:
    masks = {}
    for name, chosen in indices.items():
        mask = torch.zeros(nodes, dtype=torch.bool)
        mask[torch.as_tensor(chosen)] = True
        masks[split_name(name)] = mask
    return masks


def side_by_side(graphs: Sequence[Graph]) -> Graph:
    """Return several graphs as one, between whose parts there are no edges.

    Raises:
        DataError: some have what others have not, or of another width.
    """
    if len(graphs) == 1:
        return graphs[0]
    starts = torch.tensor([0, *(len(graph) for graph in graphs)]).cumsum(0).tolist()
    joined: dict[str, Any] = {
        "edge_index": torch.cat([graph.edge_index + start for graph, start in zip(graphs, starts, strict=False)], 1)
    }
    for name in ("x", "y", "edge_attr", "edge_weight"):
        parts = [getattr(graph, name) for graph in graphs]
        if all(part is None for part in parts):
            continue
        shapes = {None if part is None else tuple(part.shape[1:]) for part in parts}
        if len(shapes) > 1:
            found = ", ".join("none" if shape is None else str(list(shape)) for shape in shapes)
            raise DataError(f"expected {name} of the same kind in every graph, got rows of {found}")
        joined[name] = torch.cat(parts)
    kinds = {frozenset(graph.masks) for graph in graphs}
    if len(kinds) > 1 or len({graph.classes for graph in graphs}) > 1:
        raise DataError("expected the same masks and the same names of classes in every graph")
    masks = {name: torch.cat([graph.masks[name] for graph in graphs]) for name in graphs[0].masks}
    return Graph(**joined, masks=masks, classes=graphs[0].classes, neighbors=graphs[0].neighbors)


def _with_masks(graph: Graph, spec: Data, notes: list[str]) -> tuple[Graph, str]:
    """Return the graph with a mask for "train" and one for "test" at least, and how they came about."""
    known, masks = graph.known(), dict(graph.masks)
    if not masks:
        nodes = known.nonzero()[:, 0].tolist()
        labels = None if graph.y is None or graph.y.ndim > 1 else [int(graph.y[node]) for node in nodes]
        out = held_out(nodes, labels=labels, share=spec.hold_out, seed=spec.seed)
        test = torch.zeros(len(graph), dtype=torch.bool)
        test[[node for node, held in zip(nodes, out, strict=True) if held]] = True
        rule = f"{spec.hold_out:.0%} held out, seed {spec.seed}" if any(out) else "nothing held out"
        return replace(graph, masks={"train": ~test, "test": test}), rule
    if "train" not in masks:
        others = torch.stack(list(masks.values())).any(0)
        masks["train"] = ~others
        notes.append("no train_mask: all nodes that no other mask has are trained on")
    if "test" not in masks:
        masks["test"] = masks.get("validation", ~masks["train"])
        notes.append(f"no test_mask: {'val_mask' if 'validation' in masks else 'what is not trained on'} stands for it")
    return replace(graph, masks=masks), "the data's masks"


def _report(graph: Graph, spec: Data, rule: str, unused: list[str], notes: list[str], served: str) -> Report:
    known, y = graph.known(), graph.y
    own = key_of(graph.x.numpy().tobytes(), graph.edge_index.numpy().tobytes())
    keys = {
        name: [key_of(own, str(node)) for node in (mask & known).nonzero()[:, 0].tolist()]
        for name, mask in graph.masks.items()
    }
    if y is None or y.ndim > 1:
        counts = {}
    else:
        found = torch.bincount(y[known]).tolist()
        counts = {(graph.classes[i] if graph.classes else str(i)): count for i, count in enumerate(found) if count}
    hidden = int((~known).sum())
    source = spec.source
    return Report(
        Path(source).name if isinstance(source, str | Path) else f"the {type(source).__name__} given",
        "nodes",
        splits={name: len(each) for name, each in keys.items()},
        rule=rule,
        unused=tuple(unused),
        classes=counts,
        notes=(*notes, *([f"{hidden} nodes have no label"] if hidden else [])),
        keys=keys,
        served=tuple(keys) if served == ALL else (served,),
    )


def _of_networkx(graph: Any, spec: Data) -> tuple[Graph, list[str], list[str]]:
    nodes = list(graph.nodes)
    number = {node: i for i, node in enumerate(nodes)}
    lacking = next((node for node in nodes if "x" not in graph.nodes[node]), None)
    if not nodes or lacking is not None:
        raise DataError(f"each node of a networkx graph needs an attribute x, its features, and {lacking!r} has none")
    edges = edges_of(graph, number)
    found: dict[str, Any] = {
        "x": torch.stack([torch.as_tensor(graph.nodes[node]["x"], dtype=torch.float32).flatten() for node in nodes]),
        "edge_index": torch.tensor([edge[:2] for edge in edges], dtype=torch.int64).reshape(-1, 2).T.contiguous(),
        "neighbors": graph.graph.get("neighbors"),
    }
    if any("y" in graph.nodes[node] for node in nodes):
        found["y"] = [graph.nodes[node].get("y", -1) for node in nodes]
    for mask in ("train_mask", "test_mask", "val_mask"):
        if any(mask in graph.nodes[node] for node in nodes):
            found[mask] = [bool(graph.nodes[node].get(mask, False)) for node in nodes]
    if edges and all(info is not None for *_, info in edges):
        found["edge_attr"] = torch.stack([torch.as_tensor(info).float().flatten() for *_, info in edges])
    others = {name for node in nodes for name in graph.nodes[node]} - FIELDS
    notes: list[str] = []
    made = replace(checked_graph(found.get, spec.seed, notes), names=tuple(map(str, nodes)))
    return made, sorted(map(str, others)), notes


def _arrays(path: Path) -> dict[str, Any]:
    if path.suffix.lower() != ".npz" or not path.is_file():
        raise DataError(f"expected a graph as {_FORMS}; there is no such file or name: {str(path)!r}")
    found = read_npz(path)
    if found is None:
        raise DataError(f"{path} is not a plain NumPy file: write it with numpy.savez")
    return found
