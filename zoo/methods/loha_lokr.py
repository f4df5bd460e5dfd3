"""LoHa and LoKr (LyCORIS's kinds, with PEFT's names): updates that are formed densely from a few small tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from zoo.methods.loha_lokr_config import LoHa, LoKr
from zoo.weights.layout import Layout
from zoo.weights.lazy_weight import LazyWeight
from zoo.weights.update import Update, without_autocast


def is_kernel(weight: LazyWeight) -> bool:
    """Whether PEFT would see the weight as a convolution's, (out, in, *kernel) in one or two dimensions."""
    return weight.layout == Layout() and weight.dim() in (3, 4)


def core(rank: int, kernel: torch.Size) -> tuple[int, ...]:
    """The shape of a core tensor: (rank, rank, *kernel), always of four dimensions."""
    return (rank, rank, *kernel, *(1 for _ in range(2 - len(kernel))))


def from_core(t: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """A kernel (out, in, k, l) from its core t (rank, rank, k, l), a (rank, out) and b (rank, in); FedPara, prop. 3."""
    return torch.einsum("ijkl,jq,ip->pqkl", t, b, a).contiguous()


class DenseUpdate(Update):
    """W + scale · ΔW with a ΔW that subclasses form, and LyCORIS's two dropouts of it."""

    def __init__(
        self, weight: LazyWeight, scale: float, rank_dropout: float, module_dropout: float, rescale: bool
    ) -> None:
        super().__init__()
        self.shape, self.layout, self.scale = torch.Size(weight.shape), weight.layout, scale
        self.rank_dropout, self.module_dropout, self.rescale = rank_dropout, module_dropout, rescale
        self.dropout = max(rank_dropout, module_dropout)

    def delta(self) -> Tensor:
        """ΔW without its scale: (outputs, inputs) or, in the same order, any other shape."""
        raise NotImplementedError

    def add(self, name: str, *shape: int, like: LazyWeight) -> None:
        """A new parameter, zero if its name is the one that has to be for the update to change nothing at first."""
        parameter = nn.Parameter(torch.empty(shape, device=like.device))
        self.register_parameter(name, parameter)
        if not like.is_meta:
            nn.init.kaiming_uniform_(parameter, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """W + scale · ΔW. In training, rows of ΔW (outputs), or all of it, are dropped for one use."""
        outputs, inputs = self.layout.matrix(self.shape)
        with without_autocast(weight):
            delta = self.scale * self.delta().reshape(outputs, inputs)
        if self.training and self.rank_dropout:
            kept = (torch.rand(outputs, 1, device=delta.device) > self.rank_dropout).to(delta.dtype)
            if self.rescale:
                kept = kept / kept.mean().clamp(min=1 / outputs)
            delta = delta * kept
        if self.training and self.module_dropout:
            delta = delta * (torch.rand((), device=delta.device) > self.module_dropout)
        if self.layout.transposed:
            delta = delta.t()
        return weight + delta.reshape(self.shape).to(weight.dtype)

    def extra_repr(self) -> str:
        return f"{tuple(self.shape)}, scale={self.scale:g}"


class LoHaUpdate(DenseUpdate):
    """LoHa: ΔW = (w1_a @ w1_b) ⊙ (w2_a @ w2_b); or for kernels, if asked, each factor with a core tensor of its own.

    Parameters, as in PEFT's files: `hada_w1_a`, `hada_w2_a` (outputs, rank) and `hada_w1_b`, `hada_w2_b`
    (rank, inputs); with cores `hada_t1`, `hada_t2` (rank, rank, *kernel), `…_a` (rank, out) and `…_b`
    (rank, in).
    """

    kind = "loha"

    def __init__(self, weight: LazyWeight, path: str, config: LoHa) -> None:
        super().__init__(weight, config.scale_of(path), config.rank_dropout, config.module_dropout, rescale=True)
        rank, kernel = config.rank_of(path), torch.Size(weight.shape[2:])
        self.cores = config.use_effective_conv2d and is_kernel(weight) and kernel.numel() > 1
        outputs, inputs = weight.layout.matrix(weight.shape)
        for number in (1, 2):
            if self.cores:
                self.add(f"hada_t{number}", *core(rank, kernel), like=weight)
                self.add(f"hada_w{number}_a", rank, weight.shape[0], like=weight)
                self.add(f"hada_w{number}_b", rank, weight.shape[1], like=weight)
            else:
                self.add(f"hada_w{number}_a", outputs, rank, like=weight)
                self.add(f"hada_w{number}_b", rank, inputs, like=weight)
        if not weight.is_meta:
            nn.init.zeros_(self.hada_w2_b)  # type: ignore[arg-type]

    def delta(self) -> Tensor:
        held = self._parameters
        if self.cores:
            one = from_core(held["hada_t1"], held["hada_w1_a"], held["hada_w1_b"])  # type: ignore[arg-type]
            return one * from_core(held["hada_t2"], held["hada_w2_a"], held["hada_w2_b"])  # type: ignore[arg-type]
        return (held["hada_w1_a"] @ held["hada_w1_b"]) * (held["hada_w2_a"] @ held["hada_w2_b"])  # type: ignore[operator]


def divided(size: int, factor: int) -> tuple[int, int]:
    """`size` as a product of two numbers: `factor` and the rest where it divides, else the most even two of which
    the smaller is at most `factor` (-1: any)."""
    if factor > 0 and size % factor == 0:
        return factor, size // factor
    limit = size if factor == -1 else factor
    smaller = max(n for n in range(1, math.isqrt(size) + 1) if size % n == 0 and n <= limit)
    return smaller, size // smaller


class LoKrUpdate(DenseUpdate):
    """LoKr: ΔW = w1 ⊗ w2, either factor perhaps a product of two of the given rank.

    Parameters, as in PEFT's files, with outputs = a·b and inputs = c·d: `lokr_w1` (a, c), or `lokr_w1_a` (a, rank)
    and `lokr_w1_b` (rank, c); `lokr_w2` (b, d, *kernel), or `lokr_w2_a` (b, rank) and `lokr_w2_b`
    (rank, d · kernel), or with a core `lokr_t2` (rank, rank, *kernel), (rank, b) and (rank, d). Weights that PEFT
    would not see as a convolution's have no kernel: their columns are all inputs.
    """

    kind = "lokr"

    def __init__(self, weight: LazyWeight, path: str, config: LoKr) -> None:
        scale = config.scale_of(path)
        super().__init__(weight, scale, config.rank_dropout, config.module_dropout, config.rank_dropout_scale)
        rank, factor = config.rank_of(path), config.decompose_factor
        outputs, inputs = weight.layout.matrix(weight.shape)
        kernel = torch.Size(weight.shape[2:]) if is_kernel(weight) else torch.Size()
        a, b = divided(outputs, factor)
        c, d = divided(inputs // kernel.numel(), factor)
        if config.decompose_both and rank < max(a, c) / 2:
            self.add("lokr_w1_a", a, rank, like=weight)
            self.add("lokr_w1_b", rank, c, like=weight)
        else:
            self.add("lokr_w1", a, c, like=weight)
        if rank >= max(b, d) / 2:
            self.add("lokr_w2", b, d, *kernel, like=weight)
        elif config.use_effective_conv2d and kernel.numel() > 1:
            self.add("lokr_t2", *core(rank, kernel), like=weight)
            self.add("lokr_w2_a", rank, b, like=weight)
            self.add("lokr_w2_b", rank, d, like=weight)
        else:
            self.add("lokr_w2_a", b, rank, like=weight)
            self.add("lokr_w2_b", rank, d * kernel.numel(), like=weight)
        if not weight.is_meta:
            nn.init.zeros_(self._parameters.get("lokr_w1", self._parameters.get("lokr_w1_a")))  # type: ignore[arg-type]

    def delta(self) -> Tensor:
        held = self._parameters
        first: Tensor = held["lokr_w1"] if "lokr_w1" in held else held["lokr_w1_a"] @ held["lokr_w1_b"]  # type: ignore
        if "lokr_w2" in held:
            second: Tensor = held["lokr_w2"]  # type: ignore[assignment]
        elif "lokr_t2" in held:
            second = from_core(held["lokr_t2"], held["lokr_w2_a"], held["lokr_w2_b"])  # type: ignore[arg-type]
        else:
            second = held["lokr_w2_a"] @ held["lokr_w2_b"]  # type: ignore[operator]
        # Kernels of one dimension are multiplied without the two axes that two-dimensional ones get, as PEFT does it.
        return torch.kron(first[:, :, None, None] if second.dim() == 4 else first, second)
