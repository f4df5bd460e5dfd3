"""`zoo.LoHa` and `zoo.LoKr`: the configurations of LyCORIS's methods, and their fields in PEFT."""

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

    Attributes:
        rank: The rank of each of the two products; their element-wise product has a rank of up to its square.
        alpha: As in `zoo.LoRA`, with PEFT's default.
        targets: As in `zoo.LoRA`.
        rank_dropout: The share of the weight's rows whose update is dropped in training; the others are scaled up.
        module_dropout: The probability that a weight's whole update is dropped in a training step.
        use_effective_conv2d: Whether kernels larger than 1 get a small core tensor (proposition 3), as in PEFT.
        rank_pattern: As in `zoo.LoRA`.
        alpha_pattern: As in `zoo.LoRA`.
        modules_to_save: As in `zoo.LoRA`.
        bias: As in `zoo.LoRA`.

    Raises:
        AdapterError: a value is out of range.
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
        """Return the fields as PEFT's `LoHaConfig` writes them."""
        return to_peft(self, "LOHA", _SHARED)

    @classmethod
    def from_peft(cls, raw: Mapping[str, Any]) -> Self:
        """Return the configuration from what PEFT's `LoHaConfig` wrote.

        Raises:
            AdapterError: a field has a value that zoo would compute differently.
        """
        return cls(**from_peft(cls.kind, raw, _SHARED, HARMLESS))


@dataclass(frozen=True)
class LoKr(Ranked):
    """Kronecker products (LoKr of LyCORIS, arXiv 2309.14859): ΔW = alpha / rank · w1 ⊗ w2.

    Attributes:
        rank: The rank of the two factors of w2, and with `decompose_both` of w1, where a product of factors is smaller.
        alpha: As in `zoo.LoHa`.
        targets: As in `zoo.LoRA`.
        decompose_both: Whether w1 may be a product of two factors too.
        decompose_factor: How both dimensions are split: into the factor and the rest if it divides them, else into the
            nearest split; -1: near the square root.
        rank_dropout: As in `zoo.LoHa`.
        rank_dropout_scale: Whether rows that `rank_dropout` keeps are scaled up.
        module_dropout: As in `zoo.LoHa`.
        use_effective_conv2d: As in `zoo.LoHa`.
        rank_pattern: As in `zoo.LoRA`.
        alpha_pattern: As in `zoo.LoRA`.
        modules_to_save: As in `zoo.LoRA`.
        bias: As in `zoo.LoRA`.

    Raises:
        AdapterError: a value is out of range.
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
        """Return the fields as PEFT's `LoKrConfig` writes them."""
        return to_peft(self, "LOKR", self._NAMES)

    @classmethod
    def from_peft(cls, raw: Mapping[str, Any]) -> Self:
        """Return the configuration from what PEFT's `LoKrConfig` wrote.

        Raises:
            AdapterError: a field has a value that zoo would compute differently.
        """
        return cls(**from_peft(cls.kind, raw, cls._NAMES, HARMLESS))


def _check_lycoris(config: LoHa | LoKr) -> None:
    check_share("rank_dropout", config.rank_dropout)
    check_share("module_dropout", config.module_dropout)
    check_flag("use_effective_conv2d", config.use_effective_conv2d)
