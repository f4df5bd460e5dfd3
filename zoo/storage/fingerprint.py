"""Fingerprint of a base model: a short hash of its weights as the checkpoint has them."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

SAMPLES = 64  # values hashed per weight, spread evenly over it


class Fingerprint:
    """Hash of weights given in any order; the same weights give the same `hexdigest`, however they are stored later.

    A weight counts with its name, shape and up to 64 of its values, as float32, so that it costs nothing beside
    reading the checkpoint.
    """

    def __init__(self) -> None:
        self._lines: dict[str, str] = {}

    def add(self, name: str, tensor: Tensor) -> None:
        """Add one weight, before it is quantized."""
        self._lines[name] = _line(name, tensor)

    def agrees(self, name: str, tensor: Tensor) -> bool:
        """Return whether `tensor` has the same hash as the one added under `name`."""
        return self._lines.get(name) == _line(name, tensor)

    def hexdigest(self) -> str:
        """Return the fingerprint, 32 hexadecimal digits."""
        text = "\n".join(self._lines[name] for name in sorted(self._lines))
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def _line(name: str, tensor: Tensor) -> str:
    flat = tensor.detach().reshape(-1)
    if flat.numel() > SAMPLES:
        flat = flat[torch.linspace(0, flat.numel() - 1, SAMPLES, dtype=torch.float64).long().to(flat.device)]
    values = flat.to("cpu", torch.float32).numpy().tobytes()
    return f"{name} {tuple(tensor.shape)} {hashlib.sha256(values).hexdigest()}"
