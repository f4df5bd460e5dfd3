"""The module and its weights: put yours here. A language model of characters, after Bengio et al. (JMLR 3, 2003).

Shapes: n texts, t characters of context, w features of each character.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import zoo
from torch import Tensor, nn
from torch.nn import functional as F
from zoo.torch_state.modes import seeded

CHARACTERS = bytes(range(32, 127)) + b"\n"  # printable ASCII; other characters are read as "?"
_CODES = bytes(CHARACTERS.index(byte if byte in CHARACTERS else b"?") for byte in range(256))


class Sketch(nn.Module):
    """Predicts the next character from the last `context` ones: two layers over their embeddings."""

    def __init__(self, context: int = 16, width: int = 32, hidden: int = 256) -> None:
        super().__init__()
        self.context = context
        self.embed = nn.Embedding(len(CHARACTERS), width)
        self.hidden = nn.Linear(context * width, hidden)
        self.out = nn.Linear(hidden, len(CHARACTERS))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits [n, 96] of the next character; tokens: int64 [n, t]."""
        embedded = self.embed(tokens).flatten(1)  # [n, t·w]
        return self.out(F.gelu(self.hidden(embedded)))


def construct(entry: zoo.Entry) -> Sketch:
    """Return the module, in evaluation mode. zoo calls this with parameters on `meta`."""
    return _built(entry.config)


def checkpoint(entry: zoo.Entry) -> Iterator[tuple[str, Tensor]] | None:
    """Return random weights, the same every time, for as long as the package carries no trained ones."""
    if entry.folder is not None:
        return None  # zoo reads the safetensors there
    with seeded(0):
        module = _built(entry.config)
    return iter(module.state_dict().items())


def _built(config: dict[str, Any]) -> Sketch:
    return Sketch(**{key: value for key, value in config.items() if key != "model_type"}).eval()


def encode(text: str) -> Tensor:
    """Return the codes of a text's characters: int64 [len(text)]."""
    codes = bytearray(text.encode("ascii", "replace").translate(_CODES))
    return torch.frombuffer(codes, dtype=torch.uint8).long() if codes else torch.empty(0, dtype=torch.int64)


def decode(tokens: Tensor) -> str:
    """Return the text of the codes int64 [t]."""
    return bytes(CHARACTERS[token] for token in tokens.tolist()).decode("ascii")
