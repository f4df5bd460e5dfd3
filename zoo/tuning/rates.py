"""A learning rate for each factor of an adapter, so that `lr` means the same for every weight.

Adam moves every value of a parameter by about the learning rate. What that does to the weight depends on the factor
that the parameter is multiplied with: with one rate for all, the first step of the weights of one model differs by
factors of 4 to 400. Here each parameter's rate is a multiple of `lr`, such that the first step moves each weight by `lr`
(root mean square), whatever the kind of the adapter, its rank, its scale and its start.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from zoo.tuning.settings import LORA_PLUS, MATCHED, PLAIN, ratio_of
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.update import Update
from zoo.weights.walk import managed_weights

# How many times `lr` a parameter moves at each step, relative to its size, where it changes nothing at first.
FOLLOWER = 40.0
_STEPS = 8  # rates are powers of 2^(1/8): weights of one shape, whose draws differ by less, have one group in AdamW
_NUDGE = 1e-3  # of a parameter, in measuring what it does


def multiples(module: nn.Module, named: Iterable[tuple[str, Parameter]], rates: str = MATCHED) -> dict[str, float]:
    """Return the multiple of `lr` of each parameter whose own is not 1.

    With "matched", of one weight's parameters those that move it at once share a step of root mean square `lr` among
    them; a parameter that changes nothing at first, because what it is multiplied with is zero, moves by `FOLLOWER` ·
    `lr` relative to its size. Weights that train themselves have the multiple 1. With "lora+16" the former have the
    multiple 16 (LoRA+, arXiv:2402.12354), with "plain" all have 1.

    Args:
        module: what trains.
        named: name and parameter of all that trains.
        rates: "matched", "plain", or "lora+" with a ratio.
    """
    names = {id(parameter): name for name, parameter in named}
    found: dict[str, float] = {}
    for store in managed_weights(module).values() if rates != PLAIN else ():
        parts = [
            (update, name, parameter)
            for key, update in store.updates.items()
            if key in store.active
            for name, parameter in update.named_parameters()
            if id(parameter) in names
        ]
        if parts:
            own = _matched(store, parts) if rates == MATCHED else _ratio(store, parts, ratio_of(rates) or LORA_PLUS)  # type: ignore[arg-type]
            found |= {names[key]: value for key, value in own.items() if value != 1.0}
    return found


def _matched(store: ManagedWeight, parts: list[tuple[Update, str, Parameter]]) -> dict[int, float]:
    """Return the multiple of each parameter of one weight, by its id."""
    sizes = {update: step_sizes(update, store) for update, _, _ in parts}
    follow = {update: _followers(update, sizes[update]) for update in sizes}
    counts = {update: len(follow[update]) for update in sizes}
    shares = dict(zip(map(store.updates.__getitem__, store.active), map(store.weights.get, store.active), strict=True))
    found, total = {}, 0.0
    for update, name, parameter in parts:
        size = abs(shares.get(update) or 0.0) * sizes[update].get(name, 0.0)  # type: ignore[call-overload]
        if name in follow[update]:
            multiple = FOLLOWER * _rms(parameter) / counts[update]
        else:
            multiple = 1 / size if size > 0 else 0.0
        found[id(parameter)] = multiple
        total += (multiple * size) ** 2
    # Nothing that is known moves the weight: it is not for us to say how fast.
    return {key: _rounded(multiple / math.sqrt(total)) if total else 1.0 for key, multiple in found.items()}


def _ratio(store: ManagedWeight, parts: list[tuple[Update, str, Parameter]], ratio: float) -> dict[int, float]:
    """Return `ratio` for the parameters that move the weight at once, of updates that have others, by their ids."""
    found = {}
    for update, name, parameter in parts:
        follow = _followers(update, step_sizes(update, store))
        found[id(parameter)] = ratio if follow and name not in follow else 1.0
    return found


def _followers(update: Update, sizes: dict[str, float]) -> set[str]:
    """Return the parameters that change nothing at first."""
    if update.followers is not None:
        return set(update.followers)
    largest = max(sizes.values(), default=0.0)
    return {name for name, size in sizes.items() if size <= 1e-6 * largest}


def step_sizes(update: Update, store: ManagedWeight) -> dict[str, float]:
    """Return how far (root mean square) a weight moves for each parameter of an update whose values all move by 1.

    What the update does not say is measured. A size that is no number counts as 0.

    Args:
        update: of one adapter.
        store: the weight.
    """
    with torch.no_grad():
        told = update.step_sizes(lambda: _whole(store.base_tensor(torch.float32)))
        sizes = _measured(update, store) if told is None else dict(told)
    return {name: size if math.isfinite(size) else 0.0 for name, size in sizes.items()}


def _measured(update: Update, store: ManagedWeight) -> dict[str, float]:
    """Return what `step_sizes` does, found by moving each parameter's values up or down at random."""
    base = _whole(store.base_tensor(torch.float32))
    values = {name: _whole(value.detach()) for name, value in (*update.named_parameters(), *update.named_buffers())}
    arguments = (base, base) if update.takes_base else (base,)
    generator, training = torch.Generator().manual_seed(0), update.training
    found = {}
    try:
        update.eval()  # without dropout
        start = torch.func.functional_call(update, values, arguments)
        for name, parameter in update.named_parameters():
            if parameter.requires_grad:
                signs = torch.randint(0, 2, parameter.shape, generator=generator).to(values[name]) * 2 - 1
                moved = {**values, name: values[name] + _NUDGE * signs}
                change = torch.func.functional_call(update, moved, arguments) - start
                found[name] = _rms(change) / _NUDGE
    finally:
        update.train(training)
    return found


def _rms(tensor: Tensor) -> float:
    """Return the root mean square of all values, of a sharded tensor too."""
    return float(_whole(tensor.detach().float().square().mean().sqrt())) if tensor.numel() else 0.0


def _whole(tensor: Tensor) -> Tensor:
    """Return the values of a tensor that may be sharded."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def _rounded(multiple: float) -> float:
    return 2.0 ** (round(_STEPS * math.log2(multiple)) / _STEPS) if 0 < multiple < math.inf else 1.0
