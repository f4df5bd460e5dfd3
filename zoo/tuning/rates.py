"""A learning rate for each factor of an adapter, so that `lr` means the same for every weight.

Adam moves every value of a parameter by about the learning rate. What that does to the weight depends on the factor
that the parameter is multiplied with: with one rate for all, the first steps of the weights of one model differ by
factors of 4 to 400. Here each parameter's rate is a multiple of `lr`, such that the first step moves each weight by
`lr` (root mean square), whatever the kind of the adapter, its rank, its scale and its start.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from zoo.errors import TuningError
from zoo.tuning.optimizers import ADAMW, Optimizer
from zoo.tuning.settings import LR, MATCHED, PLAIN, Settings, ratio_of
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.readings import numbers
from zoo.weights.update import Update, whole
from zoo.weights.walk import managed_weights, tied_groups

# How many times `lr` a parameter moves at each step, relative to its size, where it changes nothing at first.
FOLLOWER = 100.0
FASTEST = 0.1  # of its size, by which such a parameter moves in one step at most
WIDTH = 256  # inputs of a weight up to which the usual rate is `LR`
GROWTH = 10  # steps until what moves a weight at once has its full rate
GROWS = 0.25  # the power of n / r in it
_STEPS = 8  # rates are powers of 2^(1/8): weights of one shape, whose draws differ by less, have one group in AdamW
_STILL = 2.0**-20  # the multiple of a parameter that moves nothing, though it should
_NOISE = 1e-3  # of the largest size in an update, below which one is 0
_NUDGE = 1e-6  # by which values move where it is measured, in float64


class Rate(NamedTuple):
    """Multiples of `lr`: at a run's first step, and from step `GROWTH` on; linear between them."""

    first: float
    later: float

    def at(self, step: int) -> float:
        """Return the multiple of a step, counted from 0."""
        return self.first + (self.later - self.first) * min(1.0, step / GROWTH)


ONE = Rate(1.0, 1.0)
Sizes = Mapping[str, float]  # of an update's parameters, what a step of each does to the weight


class Part(NamedTuple):
    """One parameter of an update of a weight, with its name there."""

    update: Update
    name: str
    parameter: Parameter


def rates_of(module: nn.Module, named: Iterable[tuple[str, Parameter]], settings: Settings) -> dict[str, Rate]:
    """Return the multiple of `lr` of each parameter whose own is not 1.

    With "matched", of one weight's parameters those that move it at once share a step of root mean square `lr` among
    them, each value of theirs alike. A parameter that changes nothing at first, because what it is multiplied with is
    zero, moves by `follower` · `lr` relative to its size. Weights that train themselves have the multiple 1. With
    "lora+16" the former have the multiple 16 (LoRA+, arXiv:2402.12354), with "plain" all have 1.

    A step within few directions lowers the loss less than one of the same length that is free: for B (outputs, r) of a
    weight (outputs, n) by √(r / n) in first order. So what moves a weight at once goes faster after the first steps, by
    (n / r)^¼, of all weights of a matrix that their number is of what moves them; on the small models here one `lr` is
    then right for LoRA and for full training.

    Args:
        module: what trains.
        named: name and parameter of all that trains.
        settings: of the run; what counts is `rates` and `lr`.
    """
    if settings.rates == PLAIN:
        return {}
    ratio = ratio_of(settings.rates)
    names = {id(parameter): name for name, parameter in named}
    parts = {
        store: [
            Part(store.updates[key], name, parameter)  # type: ignore[arg-type]
            for key in store.active
            for name, parameter in store.updates[key].named_parameters()
            if id(parameter) in names
        ]
        for store in managed_weights(module).values()
    }
    sizes = _sizes({update: store for store, own in parts.items() for update, _, _ in own})
    follow = {update: _followers(update, own) for update, own in sizes.items()}
    following = [part for own in parts.values() for part in own if part.name in follow[part.update]]
    read = numbers(_rms(part.parameter) / len(follow[part.update]) for part in following)
    lengths = dict(zip(map(_key, following), read, strict=True))
    found: dict[str, Rate] = {}
    for store, own in parts.items():
        if ratio is not None:
            rates = {
                _key(part): Rate(ratio, ratio) if follow[part.update] and _key(part) not in lengths else ONE
                for part in own
            }
        else:
            rates = _matched(store, own, sizes, lengths, follower(settings.lr))
        found |= {names[key]: value for key, value in rates.items() if value != ONE}
    return found


def _key(part: Part) -> int:
    return id(part.parameter)


def rates_for(optimizer: Optimizer, rates: str | None, lr: float | None) -> str:
    """Return the rates of a run with an optimizer: "matched" where its steps are even, unless the user says others.

    Raises:
        TuningError: steps are as large as gradients or weights, so that nothing can be matched, and no rate is usual.
    """
    if optimizer.even:
        return MATCHED if rates is None else rates
    uneven = f"the steps of {optimizer.name} depend on the size of the gradient or of the weight"
    if rates == MATCHED:
        raise TuningError(
            f"{uneven}, so that rates={MATCHED!r} cannot say how far they move a weight: use rates={PLAIN!r}, or "
            f"optimizer={ADAMW!r}"
        )
    if lr is None:
        raise TuningError(f"{uneven}, so that no learning rate is usual: give lr=, or use optimizer={ADAMW!r}")
    return PLAIN if rates is None else rates


def usual_lr(module: nn.Module) -> float:
    """Return the learning rate of a run that names none: `LR`, and less in proportion for weights that are wider.

    A step of equal length for every weight changes a layer's outputs by the number of its inputs (maximal update
    parametrization, arXiv:2203.03466, table 3). What counts is the median over the module's matrices, kernels left out.
    """
    inputs = sorted(
        math.prod(group.value.shape[dim] for dim in group.layout.input_dims)
        for group in tied_groups(module)
        if len(group.value.shape) >= 2 and not group.layout.zero_first
    )
    return LR * min(1.0, WIDTH / max(1, inputs[len(inputs) // 2])) if inputs else LR


def follower(lr: float) -> float:
    """Return how many times `lr` a parameter that changes nothing at first moves, relative to its size."""
    return min(FOLLOWER, FASTEST / lr)


def _matched(
    store: ManagedWeight,
    parts: list[Part],
    sizes: Mapping[Update, Sizes],
    lengths: Mapping[int, float],
    followers: float,
) -> dict[int, Rate]:
    """Return the rate of each parameter of one weight, by its id.

    Args:
        store: the weight.
        parts: the parameters.
        sizes: what their steps do.
        lengths: root mean squares of those that change nothing at first, by their ids, each divided by their number.
        followers: how far these move, relative to that.
    """
    weights = {store.updates[name]: abs(weight) for name, weight in store.weights.items()}
    leading = sum(part.parameter.numel() for part in parts if _key(part) not in lengths)
    found, total = [], 0.0
    for update, name, parameter in parts:
        size = weights[update] * sizes[update].get(name, 0.0)
        growth, key = 1.0, id(parameter)
        if key in lengths:
            multiple = followers * lengths[key]
        else:
            multiple = math.sqrt(parameter.numel() / leading) / size if size > 0 else _STILL
            if update.followers is not None:
                growth = max(1.0, store.shape.numel() / leading) ** GROWS
        found.append((key, multiple, growth))
        total += (multiple * size) ** 2
    if not total:  # nothing that is known moves the weight: it is not for us to say how fast
        return {key: ONE for key, _, _ in found}
    first = {key: _rounded(multiple / math.sqrt(total)) for key, multiple, _ in found}
    return {key: Rate(first[key], first[key] * _rounded(growth)) for key, _, growth in found}


def _followers(update: Update, sizes: Sizes) -> set[str]:
    """Return the parameters that change nothing at first."""
    if update.followers is not None:
        return set(update.followers)
    return {name for name, size in sizes.items() if not size}


def step_sizes(update: Update, store: ManagedWeight) -> Sizes:
    """Return how far (root mean square) one step of Adam at rate 1 of each parameter of an update moves a weight.

    What the update does not say (`Update.step_sizes`) is measured. A size that is no number, or that is rounding beside
    the largest, counts as 0.

    Args:
        update: of one adapter.
        store: the weight.
    """
    return _sizes({update: store})[update]


def _sizes(stores: Mapping[Update, ManagedWeight]) -> dict[Update, Sizes]:
    """Return `step_sizes` of each update, read together."""
    told = {update: _told(update, store) for update, store in stores.items()}
    read = iter(numbers(size for own in told.values() for size in own.values()))
    found: dict[Update, Sizes] = {}
    for update, own in told.items():
        sizes = {name: next(read) for name in own}
        least = _NOISE * max(filter(math.isfinite, sizes.values()), default=0.0)
        found[update] = {name: size if least < size < math.inf else 0.0 for name, size in sizes.items()}
    return found


def _told(update: Update, store: ManagedWeight) -> Mapping[str, float | Tensor]:
    told = update.step_sizes(lambda: whole(store.base_tensor(torch.float32)).detach())
    return _measured(update, store) if told is None else told


def _measured(update: Update, store: ManagedWeight) -> dict[str, Tensor]:
    """Return what `step_sizes` does, by a step for a random gradient of the weight."""
    base = whole(store.base_tensor(torch.float64)).detach()
    arguments = (base, base) if update.takes_base else (base,)
    tensors = {name: whole(value).detach() for name, value in (*update.named_parameters(), *update.named_buffers())}
    values = {name: value.double() if value.is_floating_point() else value for name, value in tensors.items()}
    trained = [name for name, parameter in update.named_parameters() if parameter.requires_grad]
    training = update.training
    try:
        update.eval()  # without dropout
        leaves = {name: values[name].clone().requires_grad_() for name in trained}
        start = torch.func.functional_call(update, {**values, **leaves}, arguments)
        gradient = torch.randn(start.shape, generator=torch.Generator().manual_seed(0)).to(start)
        gradients = torch.autograd.grad(start, list(leaves.values()), gradient, allow_unused=True)
        found = {}
        with torch.no_grad():
            for name, own in zip(trained, gradients, strict=True):
                if own is not None:
                    moved = {**values, name: values[name] + _NUDGE * own.sign()}
                    found[name] = _rms(torch.func.functional_call(update, moved, arguments) - start) / _NUDGE
    finally:
        update.train(training)
    return found


def _rms(tensor: Tensor) -> Tensor:
    """Return the root mean square of all values, of a sharded tensor too: float32 ()."""
    return whole(tensor.detach().float().square().mean().sqrt()) if tensor.numel() else torch.zeros(())


def _rounded(multiple: float) -> float:
    return 2.0 ** (round(_STEPS * math.log2(multiple)) / _STEPS) if 0 < multiple < math.inf else 1.0
