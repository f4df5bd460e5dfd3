import torch
from torch import nn

import zoo


class Tiny(nn.Module):
    """(n, size) → (n, size), through `width` features."""

    def __init__(self, size: int = 8, width: int = 16) -> None:
        super().__init__()
        self.encode = nn.Linear(size, width)
        self.norm = nn.BatchNorm1d(width)
        self.decode = nn.Linear(width, size)
        self.register_buffer("scale", torch.full((1,), 1.5), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decode(torch.tanh(self.norm(self.encode(x)))) * self.scale


class Odd(zoo.LoRAUpdate):
    """An update whose factors say another one than it makes; a test returns it."""

    def factors(self):
        return super().factors()._replace(scale=2 * self.scale)
