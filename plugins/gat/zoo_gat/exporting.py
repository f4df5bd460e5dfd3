"""The call that an exported file makes: a graph in, logits of its nodes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from zoo import ForwardPass, OutputError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zoo import Model

NODES, EDGES = 10, 40  # for each item


def forward_pass(model: Model, count: int, generator: torch.Generator) -> ForwardPass:
    """Return the call with a random graph, some of whose edges are loops.

    Raises:
        OutputError: the layers read edges, of which added loops would need the mean.
    """
    if any(layer.edge_dim is not None for layer in model.module.convs):
        raise OutputError(
            f"{model.entry.name} reads attributes of edges, and PyG fills in those of loops by operations that have no "
            "place in an exported file: export a model without edge_dim"
        )
    nodes = NODES * count
    x = torch.randn(nodes, model.module.in_channels, generator=generator)
    edges = torch.randint(nodes, (2, EDGES * count + 1), generator=generator)
    return ForwardPass({"x": x, "edge_index": edges}, logits)


def logits(module: nn.Module, x: Tensor, edge_index: Tensor) -> dict[str, Tensor]:
    """Return logits [n, classes] of nodes x [n, features] with edges [2, e].

    PyG removes loops and adds one to each node, and how many are left depends on values, which files have no form for.
    Here loops lead to a node more instead, which no other hears.
    """
    nodes = x.shape[0]
    edges = edge_index.where(edge_index[0] != edge_index[1], nodes)
    layers = [layer for layer in module.convs if layer.add_self_loops]
    if not layers:
        return {"logits": module(x, edge_index)}
    loops = torch.arange(nodes + 1, device=x.device).expand(2, -1)
    for layer in layers:
        layer.add_self_loops = False
    try:
        found = module(torch.nn.functional.pad(x, (0, 0, 0, 1)), torch.cat([edges, loops], 1))
    finally:
        for layer in layers:
            layer.add_self_loops = True
    return {"logits": found[:nodes]}
