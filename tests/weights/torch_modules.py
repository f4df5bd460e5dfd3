"""torch's own layers in modules that call them, and those of torch-geometric, with inputs of a graph."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations


class LayerNorm2d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm((3, 8))
        self.conv = nn.Conv1d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(x))


class Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pair = nn.Bilinear(8, 5, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.pair(x, y)


class Bag(nn.Module):
    def __init__(self, mode: str) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(11, 8, mode=mode)

    def forward(self, index: Tensor) -> Tensor:
        return self.bag(index)


class Recurrent(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


class PackedSequences(nn.Module):
    """Sequences of several lengths in one batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(8, 6, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([4, 3, 1]))
        return nn.utils.rnn.pad_packed_sequence(self.layer(packed)[0])[0]


class Cells(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru, self.rnn = nn.LSTMCell(8, 5), nn.GRUCell(5, 5), nn.RNNCell(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = c = g = r = x.new_zeros(x.shape[1], 5)
        for step in x:
            h, c = self.lstm(step, (h, c))
            g = self.gru(h, g)
            r = self.rnn(g, r)
        return h + g + r


class Attention(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **options)

    def forward(self, x: Tensor, key: Tensor, value: Tensor) -> Tensor:
        y, weights = self.attention(x, key, value)
        return torch.cat([y, weights], dim=-1)


class OldNorm(nn.Module):
    """torch's first weight_norm, which recomputes `weight` in a hook before every forward pass."""

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.layer = nn.utils.weight_norm(nn.Linear(8, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def graph() -> tuple[Tensor, Tensor]:
    return torch.randn(7, 8), torch.randint(7, (2, 20))


def geometric(version: str) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its import runs torch.jit.script
        from torch_geometric.nn import GATConv, GATv2Conv

    layer = GATConv if version == "GAT" else GATv2Conv
    return layer(8, 4, heads=2, edge_dim=None)


def spectral() -> nn.Module:
    return nn.Sequential(parametrizations.spectral_norm(nn.Linear(8, 6)), nn.Tanh(), nn.Linear(6, 4))
