"""Embedding, LSTM (Hochreiter and Schmidhuber 1997, as torch has it), and a linear map to the next byte's logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from zoo.storage.config_json import check_counts

if TYPE_CHECKING:
    from zoo import Entry

BYTES = 256
SIZES = ("embedding", "hidden", "layers")

State = tuple[Tensor, Tensor]  # h and c, each [b, layers, hidden]: samples first, as everywhere else


class ByteLSTM(nn.Module):
    """Predicts the next byte of a text.

    Args:
        embedding: features of a byte.
        hidden: features of the state.
        layers: LSTMs one above the other.
        dropout: between them.
    """

    def __init__(self, embedding: int = 48, hidden: int = 192, layers: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(BYTES, embedding)
        self.lstm = nn.LSTM(embedding, hidden, layers, batch_first=True, dropout=dropout)
        self.head = nn.Linear(hidden, BYTES)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ByteLSTM:
        """Return the module of a config.json.

        Raises:
            CheckpointError: a size is missing or no positive whole number.
        """
        check_counts(config, *SIZES)
        return cls(*(config[name] for name in SIZES), dropout=float(config.get("dropout", 0.0))).eval()

    def forward(self, text: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return logits [b, t, 256] of the byte after each of `text`, int64 [b, t], and the last state."""
        if state is not None:
            state = _turned(state)
        features, state = self.lstm(self.embedding(text), state)  # [b, t, hidden]
        return self.head(features), _turned(state)


def _turned(state: State) -> State:
    """Map [b, layers, hidden] to torch's [layers, b, hidden], and back."""
    return state[0].transpose(0, 1).contiguous(), state[1].transpose(0, 1).contiguous()


def construct(entry: Entry) -> ByteLSTM:
    """Return the module of the entry's config.json, in evaluation mode."""
    return ByteLSTM.from_config(entry.config)
