"""`zoo.LoHa` and `zoo.LoKr`: what a user says about adapters of LyCORIS's kinds, and PEFT's words for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from zoo.errors import AdapterError
from zoo.methods.config import Names, Ranked, Targets, check_flag, check_share
from zoo.methods.peft_fields import HARMLESS, from_peft, to_peft

_SHARED = ("alpha", "rank_pattern", "alpha_pattern", "rank_dropout", "module_dropout", "use_effective_conv2d")


@dataclass(frozen=True)
class LoHa(Ranked):
    """Low-rank Hadamard products (FedPara, arXiv 2108.06098): ΔW = alpha / rank · (w1_a @ w1_b) ⊙ (w2_a @ w2_b).

    rank: of each of the two products; their element-wise product has a rank of up to its square.
    rank_dropout: share of the weight's rows whose update is dropped in training, the others scaled up. module_dropout:
        the chance that a weight's whole update is dropped in a training step.
    use_effective_conv2d: kernels larger than 1 get a small core tensor of their own (proposition 3), as in PEFT.
    alpha, targets, rank_pattern, alpha_pattern, modules_to_save, bias: as in `zoo.LoRA`; PEFT's default alpha.

    Raises `AdapterError` for values that cannot be.
    """

    rank: int = 8
    alpha: float = 8
    targets: Targets = None
    rank_dropout: float = 0.0
    module_dropout: float = 0.0
    use_effective_conv2d: bool = False
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    modules_to_save: Names = ()
    bias: str = "none"

    kind: ClassVar[str] = "loha"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_lycoris(self)

    def to_peft(self) -> dict[str, Any]:
        """As PEFT's `LoHaConfig` writes it."""
        return to_peft(self, "LOHA", _SHARED)

    @classmethod
    def from_peft(cls, raw: Mapping[str, Any]) -> Self:
        """As PEFT's `LoHaConfig` wrote it. Raises `AdapterError` for what zoo would compute otherwise."""
        return cls(**from_peft(cls.kind, raw, _SHARED, HARMLESS))


@dataclass(frozen=True)
class LoKr(Ranked):
    """Kronecker products (LoKr of LyCORIS, arXiv 2309.14859): ΔW = alpha / rank · w1 ⊗ w2.

    rank: w2, and with `decompose_both` w1 too, is a product of two factors of this rank where that is smaller.
    decompose_factor: how both dimensions are split: into the factor and the rest where it divides them, else the
        nearest; -1: near the square root.
    rank_dropout_scale: rows that `rank_dropout` leaves are scaled up.
    The others: as in `zoo.LoHa`.

    Raises `AdapterError` for values that cannot be.
    """

    rank: int = 8
    alpha: float = 8
    targets: Targets = None
    decompose_both: bool = False
    decompose_factor: int = -1
    rank_dropout: float = 0.0
    rank_dropout_scale: bool = False
    module_dropout: float = 0.0
    use_effective_conv2d: bool = False
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    modules_to_save: Names = ()
    bias: str = "none"

    kind: ClassVar[str] = "lokr"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_lycoris(self)
        for name in ("decompose_both", "rank_dropout_scale"):
            check_flag(name, getattr(self, name))
        factor = self.decompose_factor
        if isinstance(factor, bool) or not isinstance(factor, int) or not (factor >= 1 or factor == -1):
            raise AdapterError(f"decompose_factor: expected a whole number of at least 1, or -1, got {factor!r}")

    _NAMES: ClassVar[tuple[str, ...]] = (*_SHARED, "decompose_both", "decompose_factor", "rank_dropout_scale")

    def to_peft(self) -> dict[str, Any]:
        """As PEFT's `LoKrConfig` writes it."""
        return to_peft(self, "LOKR", self._NAMES)

    @classmethod
    def from_peft(cls, raw: Mapping[str, Any]) -> Self:
        """As PEFT's `LoKrConfig` wrote it. Raises `AdapterError` for what zoo would compute otherwise."""
        return cls(**from_peft(cls.kind, raw, cls._NAMES, HARMLESS))


def _check_lycoris(config: LoHa | LoKr) -> None:
    check_share("rank_dropout", config.rank_dropout)
    check_share("module_dropout", config.module_dropout)
    check_flag("use_effective_conv2d", config.use_effective_conv2d)
