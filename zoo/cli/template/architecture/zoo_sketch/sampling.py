"""Draw texts, character by character."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import zoo

from .model import decode, encode

if TYPE_CHECKING:
    from torch import Tensor


def sample(model: zoo.Model, request: zoo.SampleRequest) -> zoo.Samples:
    """Return `request.n` texts that continue a prompt.

    The request's options are those that `sample_options` declares.
    """
    options = request.take()
    # A new generator, on the CPU: a seed draws the same on every device, and the global random state stays as it is.
    generator = request.generator()
    context = model.entry.config["context"]
    start = encode(" " * context + str(options["prompt"]))
    tokens = start.repeat(request.n, 1)  # [n, context + len(prompt)]
    for _ in range(options["length"]):
        logits = model.module(tokens[:, -context:].to(model.device)).float().cpu()
        tokens = torch.cat([tokens, _draw(logits, options["temperature"], generator)], dim=1)
    return zoo.Samples([decode(row[context:]) for row in tokens], "text")


def _draw(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    if temperature == 0:
        return logits.argmax(1, keepdim=True)
    return torch.multinomial((logits / temperature).softmax(1), 1, generator=generator)
