"""Drawing texts, character by character."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import zoo

from .model import decode, encode

if TYPE_CHECKING:
    from torch import Tensor


def sample(model: zoo.Model, request: zoo.SampleRequest) -> zoo.Samples:
    """`request.n` texts that go on from a prompt.

    Options: `prompt`; `length`, how many characters; `temperature`, 0 for the likeliest one each time.
    """
    options = request.take(prompt="", length=80, temperature=1.0)
    if options["length"] < 1 or options["temperature"] < 0:
        raise zoo.ZooError(
            f"expected length from 1 and temperature from 0, got {options['length']} and {options['temperature']}"
        )
    # A generator of its own, on the CPU: the same seed draws the same on every device, and the global state stays.
    generator = request.generator()
    context = model.entry.config["context"]
    start = encode(" " * context + str(options["prompt"]))
    tokens = start.repeat(request.n, 1)
    for _ in range(options["length"]):
        logits = model.module(tokens[:, -context:].to(model.device)).float().cpu()
        tokens = torch.cat([tokens, _draw(logits, options["temperature"], generator)], dim=1)
    return zoo.Samples([decode(row[context:]) for row in tokens], "text")


def _draw(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    if temperature == 0:
        return logits.argmax(1, keepdim=True)
    return torch.multinomial((logits / temperature).softmax(1), 1, generator=generator)
