from dataclasses import dataclass

import torch
from torch import nn

import zoo


@dataclass(frozen=True)
class Gain(zoo.Adapter):
    kind = "gain"
    targets: zoo.Targets = None
    strength: float = 1.0


class RowGain(zoo.Update):
    kind = "gain"

    def __init__(self, rows: int, strength: float, device: torch.device) -> None:
        super().__init__()
        self.strength = strength
        self.gain = nn.Parameter(torch.zeros(rows, device=device))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        factor = 1 + self.strength * self.gain
        return (weight * factor.view(-1, *[1] * (weight.dim() - 1))).to(weight.dtype)


def inject_adapter(weight, config):
    return RowGain(weight.shape[0], config.strength, weight.device)
