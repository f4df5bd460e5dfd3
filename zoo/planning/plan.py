"""`zoo.plan`: what tuning a model takes, whether a card holds it, and with which settings it would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from zoo.errors import ZooError
from zoo.loading.load import Bits, Lora
from zoo.planning.cards import as_card
from zoo.planning.estimate import Asked, Plan, planned
from zoo.planning.fits import changes


def plan(
    name: str,
    *,
    lora: Lora = None,
    bits: Bits = None,
    full: bool = False,
    keep: Sequence[str] = (),
    batch_size: int | None = None,
    length: int | None = None,
    data: Any = None,
    gpu: str | None = None,
    dtype: torch.dtype | str | None = None,
    ema: bool = False,
    gradient_checkpointing: bool = False,
    weights: str | None = None,
    revision: str | None = None,
) -> Plan:
    """Return what tuning a model would take, from its configuration alone: no weight is read or computed.

    The module is built on `meta`, and its plugin's own loss is run once, forward and backward, on tensors without
    values, whose bytes and operations are counted.

    Args:
        name: as in `zoo.load`.
        lora: a rank, a `zoo.LoRA` or another adapter's configuration; default 8.
        bits: as in `zoo.load`.
        full: every weight trains, and there is no adapter.
        keep: as in `zoo.load`.
        batch_size: items in a batch; default that of `tune`.
        length: tokens in each row of a batch of text; default as the plugin makes them, or 512.
        data: what a batch is made of, as `model.batches` takes it; default the plugin's own.
        gpu: a card such as "h200", or its memory such as "80GB": whether it holds the run, and with which settings it
            would.
        dtype: as in `zoo.load`; default bfloat16 for a card that has it, else float32.
        ema: whether a moving average of what trains is kept (`tune(ema_decay=)`).
        gradient_checkpointing: compute activations again in the backward pass, as in `model.tune`.
        weights: as in `zoo.load`.
        revision: as in `zoo.load`.

    Raises:
        ZooError: one of its subclasses: there is no such model, card or adapter; or full training of packed weights.
    """
    card = None if gpu is None else as_card(gpu)
    if full and lora is not None:
        raise ZooError("plan: full=True trains every weight, and lora= is an adapter's: give one of them")
    for what, number in (("batch_size", batch_size), ("length", length)):
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
            raise ZooError(f"plan: expected {what} as a whole number, at least 1, got {number!r:.40}")
    asked = Asked(
        name,
        None if full else 8 if lora is None else lora,
        bits,
        tuple(keep),
        batch_size,
        length,
        data,
        torch.bfloat16 if dtype is None and card is not None and card.bf16 else dtype,
        ema,
        gradient_checkpointing,
        weights,
        revision,
    )
    made = planned(asked)
    if card is None:
        return made
    fits = None if made.peak is None else made.peak <= card.usable
    would = changes(made, card, lambda **other: planned(replace(asked, **other), card.usable)) if fits is False else ()
    return replace(made, card=card, fits=fits, would_fit=would)
