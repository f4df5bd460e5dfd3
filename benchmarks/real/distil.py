"""LoRA on a quantized network, distilled from itself in full precision on pictures that are not measured.

What is learnt is what quantization changed, so no labels are needed, and any picture teaches something. There are few
photographs besides those that are measured: crops of them are recoloured, cut into each other and mixed, and the
features inside are matched as well as the classes, which tells a few pictures' many positions apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pictures
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import zoo

RANK = 16
RATE = 3e-4  # the largest: it rises over a tenth of the steps and falls as a cosine
BATCH = 32
FEATURES = 1.0  # weight of the features' loss beside that of the classes
AREA = (0.15, 1.0)  # of a photograph, in a crop


def recoloured(x: Tensor, random: np.random.Generator) -> Tensor:
    """Return a picture (3, height, width) from -1 to 1 with another contrast, brightness and tint, some turned."""
    gain = float(np.exp(random.normal(0, 0.3))) * torch.tensor(np.exp(random.normal(0, 0.15, (3, 1, 1))))
    shift = random.normal(0, 0.2) + torch.tensor(random.normal(0, 0.1, (3, 1, 1)))
    if random.random() < 0.15:
        x = x.mean(0, keepdim=True).expand(3, -1, -1)
    if random.random() < 0.3:
        x = torch.rot90(x, int(random.integers(1, 4)), (1, 2))
    if random.random() < 0.1:
        x = -x
    return (x * gain.float() + shift.float()).clamp(-1, 1)


def mixed(x: Tensor, random: np.random.Generator) -> Tensor:
    """Return pictures (n, 3, size, size), half of them with a part of another or mixed with it.

    As in CutMix (arXiv 1905.04899) and mixup (arXiv 1710.09412), without their labels.
    """
    n, size = len(x), x.shape[-1]
    others = x[torch.from_numpy(random.permutation(n))]
    x = x.clone()
    for k in range(n):
        kind = random.random()
        if kind < 0.3:
            height, width = random.integers(size // 4, 3 * size // 4, 2)
            top, left = random.integers(0, size - height), random.integers(0, size - width)
            x[k, :, top : top + height, left : left + width] = others[k, :, top : top + height, left : left + width]
        elif kind < 0.5:
            share = float(random.uniform(0.2, 0.8))
            x[k] = share * x[k] + (1 - share) * others[k]
    return x


def batches(size: int, seed: int) -> Iterator[Tensor]:
    """Yield endless batches of pictures (32, 3, size, size)."""
    random = np.random.default_rng(seed + 2)
    while True:
        chosen = random.choice(len(pictures.OTHERS), BATCH, p=pictures.WEIGHTS)
        found = [pictures.crop(pictures.read(pictures.OTHERS[k]), size, random, AREA) for k in chosen]
        yield mixed(torch.stack([recoloured(x, random) for x in found]), random)


@contextmanager
def features(module: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Yield a dict that holds the outputs of submodules after each forward pass."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> nn.modules.module._ForwardHook:  # type: ignore[name-defined]
        return lambda _, __, output: found.__setitem__(name, output)

    handles = [module.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def rate(step: int, steps: int) -> float:
    """Return the factor of the learning rate at a step."""
    warm = max(1, steps // 10)
    return min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * step / steps)))


def distil(model: zoo.Model, teacher: nn.Module, names: Sequence[str], given: Iterator[Tensor], steps: int) -> float:
    """Train a new adapter of the model, of all weights and biases, towards a teacher, and return the last loss.

    Args:
        model: quantized, without adapters.
        teacher: the same network in full precision.
        names: submodules whose outputs are matched.
        given: batches of pictures.
        steps: how many.
    """
    model.add_adapter("distilled", zoo.LoRA(rank=RANK, alpha=RANK, targets="all", bias="all"))
    trained = [parameter for _, parameter in model.trainable_parameters()]
    optimizer = torch.optim.Adam(trained, lr=RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps))
    loss = torch.zeros(())
    with features(teacher, names) as wanted, features(model.module, names) as got:
        for _ in range(steps):
            x = next(given).contiguous(memory_format=torch.channels_last)  # convolves nearly twice as fast on a CPU
            with torch.no_grad():
                target = teacher(x)
            logits = model.module(x)
            loss = F.kl_div(logits.log_softmax(1), target.log_softmax(1), reduction="batchmean", log_target=True)
            for name in names:
                loss = loss + FEATURES / len(names) * F.mse_loss(got[name], wanted[name]) / wanted[name].var()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
    return loss.item()
