"""Graphs and checkpoints as PyG writes them: tiny and random."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.nn.models import GAT

TINY = {"in_channels": 6, "hidden_channels": 8, "num_layers": 2, "out_channels": 3, "heads": 2}

Make = Callable[..., tuple[GAT, Path]]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def tiny() -> dict[str, Any]:
    """The arguments that the checkpoints below were made with."""
    return dict(TINY)


@pytest.fixture
def random_graph() -> Callable[..., Data]:
    """Features, directed edges and labels that the features tell."""

    def made(nodes: int = 40, edges: int = 160, edge_dim: int | None = None, **more: Any) -> Data:
        x = torch.randn(nodes, TINY["in_channels"])
        attributes = {} if edge_dim is None else {"edge_attr": torch.randn(edges, edge_dim)}
        return Data(x=x, edge_index=torch.randint(nodes, (2, edges)), y=x[:, :3].argmax(1), **attributes, **more)

    return made


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A random GAT, and the folder where it was saved: the arguments in config.json, the weights in model.pth."""

    def made(**config: Any) -> tuple[GAT, Path]:
        config = {**TINY, **config}
        gat = GAT(**config).eval()
        with torch.no_grad():  # biases start as zeros, which would hide a swapped pair
            for parameter in gat.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        folder = tmp_path / "checkpoint"
        folder.mkdir(exist_ok=True)
        # As PyG's mixin has it: no truth values.
        (folder / "config.json").write_text(
            json.dumps({k: v for k, v in config.items() if type(v) in (str, int, float)})
        )
        torch.save(gat.state_dict(), folder / "model.pth")
        return gat, folder

    return made
