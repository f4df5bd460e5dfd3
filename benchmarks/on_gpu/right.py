"""Every architecture, bits and adapter in bf16 on the card against float64 on the CPU, with the same stored weights."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn.functional import cosine_similarity

import zoo
from on_gpu.clock import release
from on_gpu.parts import Row, Setup
from on_gpu.record import failed

NAMES = ("ddpm", "gpt", "bert", "vit", "stylegan", "vae", "gat")


def rows(setup: Setup) -> Iterator[Row]:
    """Yield the errors of loss and gradients of each combination."""
    for name in ("vit",) if setup.quick else NAMES:
        for bits in (4,) if setup.quick else (32, 8, 4):
            for kind in ("LoRA",) if setup.quick else ("none", "LoRA", "DoRA"):
                row = {"model": name, "bits": bits, "adapter": kind}
                try:
                    yield {**row, **errors(name, bits, kind, setup.device)}
                except Exception as trouble:
                    yield failed(row, trouble)
        release(setup.device)


def errors(name: str, bits: int, kind: str, device: str) -> dict[str, float]:
    """Return the relative error of the loss, and how far the gradient's direction is off."""
    lora = None if kind == "none" else zoo.LoRA(rank=8, dora=kind == "DoRA")
    exact = zoo.load(name, bits=bits, lora=lora, device="cpu", dtype=torch.float64, seed=0)
    batch = next(iter(exact.batches(batch_size=4, seed=0)))
    model = zoo.load(name, bits=bits, lora=lora, device=device, dtype=torch.bfloat16, seed=0)
    mine, theirs = dict(model.trainable_parameters()), dict(exact.trainable_parameters())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, parameter in theirs.items() if lora is not None else ():
            change = torch.randn(parameter.shape, generator=generator) * 0.02
            value = parameter.float() + change
            parameter.copy_(value)
            mine[key].copy_(value)
    losses = []
    for one in (model, exact):
        one.module.eval()
        loss = one.loss(batch)
        if lora is not None:
            loss.backward()
        losses.append(float(loss.detach()))
    found = {"loss error": abs(losses[0] - losses[1]) / max(abs(losses[1]), 1e-6)}
    if lora is not None:
        keys = [key for key, one in theirs.items() if one.grad is not None and mine[key].grad is not None]
        vectors = [torch.cat([side[key].grad.flatten().double().cpu() for key in keys]) for side in (mine, theirs)]
        found["gradient off"] = 1 - float(cosine_similarity(*vectors, dim=0))
    return found
