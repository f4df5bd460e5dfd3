"""Checks of an architecture's `batches`, `loss` and `tuning`: its models learn, and learn the same again."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from typing import Any

import torch

from zoo.methods.targets import matches
from zoo.plugin import hooks
from zoo.testing.compare import backward, loss_of, random_state_untouched, same, tensors_of
from zoo.testing.drawing import NOWHERE, refuses
from zoo.testing.failures import CheckFailed, require
from zoo.testing.promise import promise
from zoo.testing.subject import PluginUnderTest
from zoo.weights.walk import managed_weights

ONE_PASS = 10_000  # batches of 64: more counts as endless
SECONDS = 30.0  # and so does a pass that lasts longer
STEPS = 8
RATES = (3e-3, 3e-4, 3e-2, 3e-5)


@promise(
    "batches",
    "equal training batches for equal seeds, others for other seeds",
    "shuffle and draw with torch.Generator().manual_seed(request.seed), as zoo.data.stream.stream does",
)
def batches_follow_the_seed(subject: PluginUnderTest) -> None:
    first, again, other = (_some(subject, seed=seed) for seed in (3, 3, 4))
    require(len(first) == 3, f"{len(first)} training batches and then no more", "make split 'train' endless")
    require(same(first, again), "other batches from the same seed")
    require(not same(first, other), "the same batches for seeds 3 and 4")


@promise("batches", "the global random state left as it was", "draw with torch.Generator().manual_seed(request.seed)")
def batches_leave_the_random_state(subject: PluginUnderTest) -> None:
    with random_state_untouched("draw with torch.Generator().manual_seed(request.seed)"):
        _some(subject, seed=3)


@promise(
    "batches",
    "batches of request.batch_size items: a tensor of each is that long",
    "make batches of request.batch_size items",
)
def batches_have_their_size(subject: PluginUnderTest) -> None:
    for size in (subject.options.batch_size, subject.options.batch_size + 1):
        batch = next(iter(subject.batches(subject.plain, batch_size=size)))
        found = [tuple(tensor.shape) for tensor in tensors_of(batch)]
        require(any(shape[:1] == (size,) for shape in found), f"tensors of shapes {found[:4]} for batch_size={size}")


@promise(
    "batches",
    "one finite pass in fixed order, whatever the seed, for a split that is not 'train'",
    "for request.training False go once through the held-out items, without shuffling",
)
def held_out_batches_are_one_pass(subject: PluginUnderTest) -> None:
    first, again, other = (
        _pass(subject.batches(subject.plain, split="test", batch_size=64, seed=seed)) for seed in (0, 0, 1)
    )
    require(len(first) > 0, "no batch at all")
    require(same(first, again), "other batches from the same seed")
    require(len(first) == len(other), f"{len(first)} batches for seed 0, {len(other)} for seed 1")
    for one, two in zip(first, other, strict=True):  # noise in a batch may follow the seed, the items may not
        pairs = zip(tensors_of(one), tensors_of(two), strict=True)
        require(any(same(mine, others) for mine, others in pairs), "other items for seeds 0 and 1")


@promise(
    "batches",
    "zoo.DataError for data that it does not know",
    "raise zoo.DataError for data that is not None and that you cannot read; zoo.data's readers do",
)
def batches_refuse_unknown_data(subject: PluginUnderTest) -> None:
    refuses(lambda: next(iter(subject.plain.batches(NOWHERE, batch_size=2))))


@promise(
    "loss",
    "a finite scalar with a graph, equal for equal batches and random states",
    "return the mean of a differentiable loss, and draw noise with torch's global generator or from the batch",
)
def loss_is_a_finite_scalar(subject: PluginUnderTest) -> None:
    model = subject.adapted
    value = model.loss(subject.batch)
    require(bool(torch.isfinite(value)), f"{value.item()}")
    require(value.requires_grad, "a tensor without a graph", "compute it from model.module(...) without detach or item")
    first, again = loss_of(model, subject.batch), loss_of(model, subject.batch)
    require(first == again, f"{first} and then {again}")


@promise(
    "loss",
    "a finite gradient for every adapted weight, not zero throughout",
    "use the weight in loss without detaching; name weights that loss rightly does not use with unused=",
)
def every_adapted_weight_learns(subject: PluginUnderTest) -> None:
    model = subject.adapted_copy().train()
    weights = {
        name: store
        for name, store in managed_weights(model.module).items()
        if store.updates and not matches(name.removesuffix(".weight"), subject.options.unused)
    }
    require(weights, "no weight that an adapter could be on")
    dead = set(weights)
    for batch in itertools.islice(subject.batches(model, seed=5), 3):
        model.module.zero_grad()
        backward(model, batch)
        for name in sorted(dead):
            gradients = [factor.grad for factor in weights[name].updates.parameters() if factor.grad is not None]
            require(all(bool(torch.isfinite(one).all()) for one in gradients), f"{name}'s is not finite")
            if any(bool(one.any()) for one in gradients):
                dead.discard(name)
        if not dead:
            return
    raise CheckFailed(f"none for {len(dead)} of {len(weights)} weights, the first is {min(dead)!r}")


@promise(
    "loss",
    f"a loss that {STEPS} steps on one batch lower",
    "return what is to be minimised, as a mean, with the right sign and scale",
)
def loss_goes_down(subject: PluginUnderTest) -> None:
    start = loss_of(subject.adapted, subject.batch)
    ends = []
    for rate in RATES:
        model = subject.adapted_copy()
        optimizer = torch.optim.Adam([parameter for _, parameter in model.trainable_parameters()], lr=rate)
        for _ in range(STEPS):
            optimizer.zero_grad()
            backward(model, subject.batch)
            optimizer.step()
        ends.append(loss_of(model, subject.batch))
        if ends[-1] < start:
            return
    raise CheckFailed(f"{start:.6g} before, {', '.join(f'{end:.6g}' for end in ends)} after, at rates {RATES}")


@promise(
    "tuning", "settings that model.tune takes", "return some of batch_size, lr, betas, grad_clip, warmup, ema_decay"
)
def tuning_settings_are_known(subject: PluginUnderTest) -> None:
    from zoo.tuning.settings import BATCH_SIZE, LR, Settings, warmup_steps

    given = hooks.tuning(subject.entry())
    warmup = warmup_steps(given.pop("warmup", 0), 100)
    base = {"batch_size": BATCH_SIZE, "lr": LR, "betas": (0.9, 0.999), "grad_clip": 1.0}
    base |= {"weight_decay": 0.0, "gradient_accumulation_steps": 1}
    Settings(data="", steps=100, seed=0, warmup=warmup, **{**base, **given})


def _some(subject: PluginUnderTest, seed: int) -> list[Any]:
    return list(itertools.islice(subject.batches(subject.plain, seed=seed), 3))


def _pass(batches: Iterable[Any]) -> list[Any]:
    start, held = time.monotonic(), []
    for batch in batches:
        held.append(batch)
        if len(held) > ONE_PASS or time.monotonic() - start > SECONDS:
            raise CheckFailed(f"no end after {len(held)} batches of 64")
    return held


# The checks of weights and adapters rely on these.
FIRST = (
    batches_follow_the_seed,
    batches_leave_the_random_state,
    batches_have_their_size,
    held_out_batches_are_one_pass,
    batches_refuse_unknown_data,
    loss_is_a_finite_scalar,
)
THEN = (every_adapted_weight_learns, loss_goes_down, tuning_settings_are_known)
