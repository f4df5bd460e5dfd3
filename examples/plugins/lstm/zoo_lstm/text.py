"""Windows of bytes, the loss, metrics on held-out text, and sampling. Shapes: b texts of t bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from zoo import DataError, Samples, ZooError
from zoo.data.stream import stream
from zoo.data.text import text_data
from zoo.metrics import Scores

from .facts import BEGINNING

if TYPE_CHECKING:
    from zoo import BatchRequest, Model, SampleRequest
    from zoo.metrics import Figures

WINDOW = 129  # bytes, of which all but the first are predicted
STRETCH = 128  # bytes that count as one example of a metric
HELD_OUT = 2**14  # bytes that `evaluate` reads at most


def batches(data: Any, request: BatchRequest) -> Iterator[dict[str, Tensor]]:
    """Return batches of "bytes" int64 [b, WINDOW] of what `text_data` takes, or of a Tensor [n, t] of bytes."""
    if isinstance(data, Tensor):
        return stream({"bytes": _checked(data)}, request)
    return stream({"bytes": _windows("\n\n".join(text_data(data, split=request.split)))}, request)


def _checked(windows: Tensor) -> Tensor:
    if windows.ndim != 2 or windows.shape[1] < 2 or windows.is_floating_point() or not len(windows):
        raise DataError(f"expected bytes as an integer Tensor [n, t], t > 1, got {windows.dtype} {list(windows.shape)}")
    if not 0 <= int(windows.min()) <= int(windows.max()) < 256:
        raise DataError(f"expected bytes, got numbers from {int(windows.min())} to {int(windows.max())}")
    return windows.long()


def _windows(text: str) -> Tensor:
    """Return windows that overlap by one byte, so that each byte is predicted once; a shorter rest is left out."""
    coded = torch.tensor(list(text.encode()))
    return coded.unfold(0, min(WINDOW, len(coded)), min(WINDOW, len(coded)) - 1)


def loss(model: Model, batch: dict[str, Tensor]) -> Tensor:
    """Return the mean cross entropy, in nats, of each byte given those before it in its window: a scalar."""
    text = batch["bytes"].to(model.device)
    logits, _ = model.module(text[:, :-1])  # [b, t - 1, 256]
    return functional.cross_entropy(logits.float().flatten(0, 1), text[:, 1:].flatten())


def evaluate(model: Model, data: Any) -> Figures:
    """Return "bits_per_byte" of held-out text, read in one go: the state is carried from beginning to end.

    An example is STRETCH bytes, or a row of a Tensor.
    """
    if isinstance(data, Tensor):
        text = _checked(data)
    else:
        held_out = "\n\n".join(text_data(data, split="test")).encode()[:HELD_OUT]
        text = torch.tensor([list(BEGINNING.encode() + held_out)])
    logits, _ = model.module(text[:, :-1].to(model.device))
    nats = functional.cross_entropy(
        logits.float().flatten(0, 1), text[:, 1:].flatten().to(model.device), reduction="none"
    )
    stretches = nats.cpu().split(STRETCH if len(text) == 1 else text.shape[1] - 1)
    scores = Scores("stretches of text")
    scores.ratio(
        "bits_per_byte", [float(one.sum()) / math.log(2) for one in stretches], [len(one) for one in stretches]
    )
    return scores.figures()


def sample(model: Model, request: SampleRequest) -> Samples:
    """Return `request.n` texts.

    Args:
        model: the model.
        request: its options are `prompt`, `length` in bytes, `temperature` (0: the likeliest byte each time).
    """
    options = request.take()
    prompt, length, temperature = options.values()
    if not prompt:
        raise ZooError("prompt: expected a text, got an empty one: leave it out")
    generator = request.generator()  # on the CPU: a seed gives the same text on every device, up to rounding
    text = torch.tensor([list(prompt.encode())]).expand(request.n, -1)  # [b, t]
    state, written = None, []
    for _ in range(length):
        logits, state = model.module(text.to(model.device), state)
        text = _drawn(logits[:, -1].float().cpu(), temperature, generator)
        written.append(text)
    shown = "" if prompt == BEGINNING else prompt
    texts = [shown + bytes(row).decode(errors="replace") for row in torch.cat(written, 1).tolist()]
    return Samples(texts, "text")


def _drawn(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Return one byte for each row of logits [b, 256], int64 [b, 1]."""
    if not temperature:
        return logits.argmax(1, keepdim=True)
    return torch.multinomial((logits / temperature).softmax(1), 1, generator=generator)
