"""LoHa and LoKr (LyCORIS's methods, with PEFT's names): dense updates computed from a few small tensors.

Notation for shapes:
    outputs, inputs   the weight seen as a matrix by its layout
    out, in, *kernel  the weight of a convolution
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from zoo.methods.loha_lokr_config import LoHa, LoKr
from zoo.weights.layout import Layout
from zoo.weights.lazy_weight import LazyWeight
from zoo.weights.update import Update, without_autocast


def is_kernel(weight: LazyWeight) -> bool:
    """Return whether PEFT treats the weight as a convolution's, (out, in, *kernel) in one or two dimensions."""
    return weight.layout == Layout() and weight.dim() in (3, 4)


def core_shape(rank: int, kernel: torch.Size) -> tuple[int, ...]:
    """Return the shape of a core tensor: (rank, rank, *kernel), always of four dimensions."""
    return (rank, rank, *kernel, *(1 for _ in range(2 - len(kernel))))


def kernel_from_core(t: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return a kernel (out, in, k, l) from its core tensor (FedPara, proposition 3).

    Args:
        t: The core, (rank, rank, k, l).
        a: (rank, out).
        b: (rank, in).
    """
    return torch.einsum("ijkl,jq,ip->pqkl", t, b, a).contiguous()  # (out, in, k, l)


class DenseUpdate(Update):
    """W + scale · ΔW with a dense ΔW that subclasses compute, and LyCORIS's two dropouts of it.

    Args:
        weight: The weight to update.
        scale: The factor before ΔW.
        rank_dropout: The share of ΔW's rows to drop in training.
        module_dropout: The probability of dropping all of ΔW in training.
        rescale: Whether rows that are kept are scaled up.
    """

    def __init__(
        self, weight: LazyWeight, scale: float, rank_dropout: float, module_dropout: float, rescale: bool
    ) -> None:
        super().__init__()
        self.shape, self.layout, self.scale = torch.Size(weight.shape), weight.layout.flat, scale
        self.rank_dropout, self.module_dropout, self.rescale = rank_dropout, module_dropout, rescale
        self.dropout = max(rank_dropout, module_dropout)

    def delta(self) -> Tensor:
        """Return ΔW without its scale: (outputs, inputs), or another shape with the values in the same order."""
        raise NotImplementedError

    def add_parameter(self, name: str, *shape: int, like: LazyWeight) -> None:
        """Register a parameter of this shape, on the device of `like`, drawn as in PEFT (Kaiming uniform, a = √5)."""
        parameter = nn.Parameter(torch.empty(shape, device=like.device))
        self.register_parameter(name, parameter)
        if not like.is_meta:
            nn.init.kaiming_uniform_(parameter, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """Return W + scale · ΔW; in training, rows of ΔW (outputs), or all of it, are dropped for one forward pass."""
        outputs, inputs = self.layout.matrix(self.shape)
        with without_autocast(weight):
            delta = self.scale * self.delta().reshape(outputs, inputs)  # (outputs, inputs)
        if self.training and self.rank_dropout:
            mask = (torch.rand(outputs, 1, device=delta.device) > self.rank_dropout).to(delta.dtype)  # (outputs, 1)
            if self.rescale:
                mask = mask / mask.mean().clamp(min=1 / outputs)
            delta = delta * mask
        if self.training and self.module_dropout:
            delta = delta * (torch.rand((), device=delta.device) > self.module_dropout)
        if self.layout.transposed:
            delta = delta.t()  # (inputs, outputs)
        return weight + delta.reshape(self.shape).to(weight.dtype)

    def extra_repr(self) -> str:
        """Return shape and scale for the module's repr."""
        return f"{tuple(self.shape)}, scale={self.scale:g}"


class LoHaUpdate(DenseUpdate):
    """LoHa: ΔW = (w1_a @ w1_b) ⊙ (w2_a @ w2_b); with core tensors, each factor of a kernel has a core of its own.

    Parameters, as in PEFT's files: `hada_w1_a`, `hada_w2_a` (outputs, rank) and `hada_w1_b`, `hada_w2_b`
    (rank, inputs); with cores `hada_t1`, `hada_t2` (rank, rank, *kernel), `…_a` (rank, out) and `…_b`
    (rank, in).
    """

    kind = "loha"

    def __init__(self, name: str, weight: LazyWeight, config: LoHa) -> None:
        path = name.removesuffix(".weight")
        super().__init__(weight, config.scale_of(path), config.rank_dropout, config.module_dropout, rescale=True)
        rank, kernel = config.rank_of(path), torch.Size(weight.shape[2:])
        self.cores = config.use_effective_conv2d and is_kernel(weight) and kernel.numel() > 1
        outputs, inputs = weight.layout.flat.matrix(weight.shape)
        for number in (1, 2):
            if self.cores:
                self.add_parameter(f"hada_t{number}", *core_shape(rank, kernel), like=weight)
                self.add_parameter(f"hada_w{number}_a", rank, weight.shape[0], like=weight)
                self.add_parameter(f"hada_w{number}_b", rank, weight.shape[1], like=weight)
            else:
                self.add_parameter(f"hada_w{number}_a", outputs, rank, like=weight)
                self.add_parameter(f"hada_w{number}_b", rank, inputs, like=weight)
        if not weight.is_meta:
            nn.init.zeros_(self.hada_w2_b)  # type: ignore[arg-type]
        self.followers = tuple(name for name, _ in self.named_parameters() if name != "hada_w2_b")

    def delta(self) -> Tensor:
        """Return ΔW without its scale: (outputs, inputs), or (out, in, *kernel) with cores."""
        p: dict[str, Tensor] = self._parameters  # type: ignore[assignment]
        if self.cores:
            first = kernel_from_core(p["hada_t1"], p["hada_w1_a"], p["hada_w1_b"])  # (out, in, *kernel)
            return first * kernel_from_core(p["hada_t2"], p["hada_w2_a"], p["hada_w2_b"])  # (out, in, *kernel)
        return (p["hada_w1_a"] @ p["hada_w1_b"]) * (p["hada_w2_a"] @ p["hada_w2_b"])  # (outputs, inputs)


def factorize(size: int, factor: int) -> tuple[int, int]:
    """Split `size` into two factors.

    They are `factor` and the rest if it divides `size`, else the most even pair whose smaller one is at most `factor`
    (-1: any).
    """
    if factor > 0 and size % factor == 0:
        return factor, size // factor
    limit = size if factor == -1 else factor
    smaller = max(n for n in range(1, math.isqrt(size) + 1) if size % n == 0 and n <= limit)
    return smaller, size // smaller


class LoKrUpdate(DenseUpdate):
    """LoKr: ΔW = w1 ⊗ w2, where either factor may be a product of two factors of the given rank.

    Parameters, as in PEFT's files, with outputs = a·b and inputs = c·d: `lokr_w1` (a, c), or `lokr_w1_a` (a, rank)
    and `lokr_w1_b` (rank, c); `lokr_w2` (b, d, *kernel), or `lokr_w2_a` (b, rank) and `lokr_w2_b`
    (rank, d · kernel), or with a core `lokr_t2` (rank, rank, *kernel), (rank, b) and (rank, d). Weights that PEFT
    does not treat as a convolution's have no kernel: all their columns are inputs.
    """

    kind = "lokr"

    def __init__(self, name: str, weight: LazyWeight, config: LoKr) -> None:
        path = name.removesuffix(".weight")
        scale = config.scale_of(path)
        super().__init__(weight, scale, config.rank_dropout, config.module_dropout, config.rank_dropout_scale)
        rank, factor = config.rank_of(path), config.decompose_factor
        outputs, inputs = weight.layout.flat.matrix(weight.shape)
        kernel = torch.Size(weight.shape[2:]) if is_kernel(weight) else torch.Size()
        a, b = factorize(outputs, factor)
        c, d = factorize(inputs // kernel.numel(), factor)
        if config.decompose_both and rank < max(a, c) / 2:
            self.add_parameter("lokr_w1_a", a, rank, like=weight)
            self.add_parameter("lokr_w1_b", rank, c, like=weight)
        else:
            self.add_parameter("lokr_w1", a, c, like=weight)
        if rank >= max(b, d) / 2:
            self.add_parameter("lokr_w2", b, d, *kernel, like=weight)
        elif config.use_effective_conv2d and kernel.numel() > 1:
            self.add_parameter("lokr_t2", *core_shape(rank, kernel), like=weight)
            self.add_parameter("lokr_w2_a", rank, b, like=weight)
            self.add_parameter("lokr_w2_b", rank, d, like=weight)
        else:
            self.add_parameter("lokr_w2_a", b, rank, like=weight)
            self.add_parameter("lokr_w2_b", rank, d * kernel.numel(), like=weight)
        zero = "lokr_w1" if "lokr_w1" in self._parameters else "lokr_w1_a"
        if not weight.is_meta:
            nn.init.zeros_(self._parameters[zero])  # type: ignore[arg-type]
        self.followers = tuple(name for name, _ in self.named_parameters() if name != zero)

    def delta(self) -> Tensor:
        """Return ΔW without its scale: the values of (outputs, inputs) in their order, in a shape as PEFT's."""
        p: dict[str, Tensor] = self._parameters  # type: ignore[assignment]
        w1 = p["lokr_w1"] if "lokr_w1" in p else p["lokr_w1_a"] @ p["lokr_w1_b"]  # (a, c)
        if "lokr_w2" in p:
            w2 = p["lokr_w2"]  # (b, d, *kernel)
        elif "lokr_t2" in p:
            w2 = kernel_from_core(p["lokr_t2"], p["lokr_w2_a"], p["lokr_w2_b"])  # (b, d, *kernel)
        else:
            w2 = p["lokr_w2_a"] @ p["lokr_w2_b"]  # (b, d · kernel)
        # As PEFT does it, w1 gets two more axes for two-dimensional kernels, but none for one-dimensional ones.
        return torch.kron(w1[:, :, None, None] if w2.dim() == 4 else w1, w2)  # outputs · inputs values
