"""The module of `helpers` and an input of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from .helpers import Net


@pytest.fixture
def net() -> Net:
    return Net().eval()


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(0, 9, (4, 6))
