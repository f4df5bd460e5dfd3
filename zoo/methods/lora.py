"""LoRA's update of one weight: the variant that its configuration selects, and the initialization of A and B.

A is (rank, inputs), B is (outputs, rank), of a weight seen as a matrix (outputs, inputs); of a stack of matrices each
has one more dimension in front, here (…).
"""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor, nn

from zoo.methods.config import RESIDUAL, LoRA
from zoo.methods.dora import DoRAUpdate
from zoo.methods.pissa import PiSSAUpdate
from zoo.torch_state.modes import seeded
from zoo.weights.layout import Layout
from zoo.weights.lazy_weight import LazyWeight
from zoo.weights.update import LoRAUpdate, LowRankUpdate, init_factors


def lora_update(name: str, weight: LazyWeight, config: LoRA, *, gain: float = 1.0) -> LowRankUpdate:
    """Return the update of `weight` that `config` describes: plain LoRA, DoRA, or a residual one (PiSSA, OLoRA).

    Architectures call this from `inject_adapter` if their weights have gains.

    Args:
        name: The parameter's name, for which `config` may have a rank and alpha of its own.
        weight: The weight.
        config: The configuration.
        gain: The factor by which the layer multiplies the weight at every use. The update is of the effective weight
            gain · W, so its scale is divided by the gain.
    """
    rank, scale = config.rank_and_scale(name.removesuffix(".weight"))
    device = weight._zoo_store.device
    kind = DoRAUpdate if config.dora else PiSSAUpdate if config.init.startswith(RESIDUAL) else LoRAUpdate
    update = kind(
        weight.shape,
        rank,
        scale / gain,
        layout=weight.layout,
        dropout=config.dropout,
        device=device,
    )
    with torch.no_grad():
        if device.type != "meta" and not (kind is LoRAUpdate and config.init == "default"):  # drawn already
            init_update(update, weight, config.init, gain)
        if isinstance(update, DoRAUpdate | PiSSAUpdate):
            update.init_from(weight)
    return update


def init_update(update: LowRankUpdate, weight: LazyWeight, init: str, gain: float = 1.0) -> None:
    """Initialize A and B by the method `init` (see `zoo.LoRA`) for the effective weight, gain · W."""
    A, B = update.A, update.B
    layout = weight.layout
    if init == "gaussian" and not layout.zero_first:
        nn.init.normal_(A, std=1 / update.rank)
        nn.init.zeros_(B)
    elif init == "orthogonal":
        _orthogonal(A, B)
        update.followers = ()
    elif init.startswith(RESIDUAL):
        init_factors(A, B, Layout())  # for the part of A and B beyond the weight's own rank, if any
        matrix, scale = gain * as_matrix(weight), gain * update.scale
        A0, B0 = _olora(matrix, update.rank) if init == "olora" else _pissa(matrix, update.rank, scale, init)
        A[..., : A0.shape[-2], :] = A0  # (…, rank or fewer, inputs)
        B[..., : B0.shape[-1]] = B0  # (…, outputs, rank or fewer)
    else:
        init_factors(A, B, layout)


def as_matrix(weight: LazyWeight) -> Tensor:
    """Return the base of a weight as (…, outputs, inputs), in float32 or better."""
    base, layout = weight.base(torch.promote_types(weight.dtype, torch.float32)), weight.layout
    if not layout.stacked:
        outputs, inputs = layout.matrix(weight.shape)
        base = base.reshape(inputs, outputs) if layout.transposed else base.reshape(outputs, inputs)
    return base.mT if layout.transposed else base


def _orthogonal(A: Tensor, B: Tensor) -> None:
    """Initialize A and B so that B @ A = 0 with neither zero: half an orthogonal matrix's rows go into A, half into B.

    https://datta0.github.io/posts/rethink-lora-init/#orthogonal-initialisation, with PEFT's factor of a tenth.
    """
    *stack, rank, inputs = A.shape
    half, device = rank // 2, A.device
    basis = torch.linalg.qr(torch.randn(*stack, rank, rank, device=device)).Q  # (…, rank, rank)
    A.copy_(basis[..., 0::2, :].mT @ torch.randn(*stack, half, inputs, device=device) / 10)  # (…, rank, inputs)
    B.copy_(torch.randn(*stack, B.shape[-2], half, device=device) @ basis[..., 1::2, :] / 10)  # (…, outputs, rank)


def _pissa(matrix: Tensor, rank: int, scale: float, init: str) -> tuple[Tensor, Tensor]:
    """Return A and B such that scale · B @ A is the best approximation of the weight of this rank.

    PiSSA, arXiv 2404.02948, eq. 2-4. `pissa_niter_N` computes it with N subspace iterations from a fixed random start,
    so that a resumed run begins with the same values.
    """
    if match := re.fullmatch(r"pissa_niter_(\d+)", init):
        with seeded(0):
            U, S, V = torch.svd_lowrank(matrix, min(rank, *matrix.shape[-2:]), niter=int(match[1]))
    else:
        U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
        V = Vh.mH
    S = S[..., :rank]  # (…, rank)
    root = torch.sqrt(S / abs(scale)) if scale else torch.sqrt(S)
    A, B = root[..., None] * V[..., :rank].mH, U[..., :rank] * root[..., None, :]
    return A, math.copysign(1.0, scale) * B  # (…, rank, inputs), (…, outputs, rank)


def _olora(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return A and B from the QR decomposition of the weight (OLoRA, arXiv 2406.01775, algorithm 1)."""
    Q, R = torch.linalg.qr(matrix)
    return R[..., :rank, :], Q[..., :rank]  # (…, rank, inputs), (…, outputs, rank)
