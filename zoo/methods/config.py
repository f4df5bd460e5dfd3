"""`zoo.Adapter`, `zoo.LoRA` and `zoo.Full`: the configurations of adapters."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Self

from zoo.bounded.patterns import check_pattern, endmatch, is_list
from zoo.errors import AdapterError, shown

Targets = tuple[str, ...] | list[str] | str | None
Names = tuple[str, ...] | list[str] | None
Tokens = tuple[int, ...] | list[int] | dict[str, Any] | None

BIASES = ("none", "all", "lora_only")
INITS = ("default", "gaussian", "orthogonal", "pissa", "pissa_niter_N", "olora")
RESIDUAL = ("pissa", "olora")  # prefixes of the inits that, in their papers, move a part of the base into B·A

LARGEST = 1e18  # bound of alphas and weights, so that their product is finite in float32 too
LARGEST_RANK, PATTERNS = 1 << 16, 256  # of an update, and in one dict beside names


class Adapter:
    """An adapter's configuration: the base class of `zoo.LoRA` and of every other kind's.

    A kind is a frozen dataclass that derives from this one, and a plugin of the same name that implements
    `inject_adapter` (returns the kind's `Update`) and `adapter_config` (returns the class)::

        @dataclass(frozen=True)
        class Scale(zoo.Adapter):
            kind = "scale"
            targets: zoo.Targets = None

    A `__post_init__` of the kind's own has to call this one.

    Attributes:
        kind: The kind's name; also the name of the plugin that implements it.
        any_shape: Whether the kind also takes weights of one dimension; `targets` then has the meaning of `zoo.Full`'s.
        targets: Which weights, as in `zoo.LoRA`.
        modules_to_save: Modules that train fully in addition, as in `zoo.LoRA`. A kind offers this by declaring the
            field.
        bias: Biases that train fully in addition, as in `zoo.LoRA`. A kind offers this by declaring the field.

    Raises:
        AdapterError: a value is out of range.
    """

    kind: ClassVar[str] = ""
    any_shape: ClassVar[bool] = False
    targets: Targets
    modules_to_save: Names = ()
    bias: str = "none"

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", check_targets(self.targets))
        object.__setattr__(self, "modules_to_save", _check_names("modules_to_save", self.modules_to_save))
        if self.bias not in BIASES:
            raise AdapterError(f"bias: expected one of {', '.join(map(repr, BIASES))}, got {shown(self.bias)}")

    def to_peft(self) -> dict[str, Any]:
        """Return the content of `adapter_config.json`: the fields, and `peft_type`, the kind's name in capitals."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}  # type: ignore[arg-type]
        return {"peft_type": self.kind.upper(), **values}

    @classmethod
    def from_peft(cls, raw: Mapping[str, Any]) -> Self:
        """Return the configuration that an `adapter_config.json` describes; the reverse of `to_peft`."""
        known = {one.name for one in fields(cls)}  # type: ignore[arg-type]
        return cls(**{name: value for name, value in raw.items() if name in known})


class Ranked(Adapter):
    """A kind with a rank and an alpha for each weight: the base class of `zoo.LoRA`, `zoo.LoHa` and `zoo.LoKr`.

    Attributes:
        rank: The default rank.
        alpha: The default alpha.
        rank_pattern: Ranks by regular expression, as in `zoo.LoRA`.
        alpha_pattern: Alphas by regular expression, as in `zoo.LoRA`.
    """

    rank: int
    alpha: float
    rank_pattern: dict[str, int]
    alpha_pattern: dict[str, float]

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rank_pattern", "alpha_pattern"):
            _check_patterns(name, getattr(self, name))
        for rank in (self.rank, *self.rank_pattern.values()):
            if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= LARGEST_RANK:
                most = f", at most {LARGEST_RANK}" if type(rank) is int and rank > 1 else ""
                raise AdapterError(f"rank: expected a whole number of at least 1{most}, got {shown(rank)}")
        for alpha in (self.alpha, *self.alpha_pattern.values()):
            if not _is_number(alpha):
                raise AdapterError(f"alpha: expected a number, at most {LARGEST:g}, got {shown(alpha)}")

    def rank_of(self, path: str) -> int:
        """Return the rank for the parameter path (without `.weight`)."""
        return _pattern(self.rank_pattern, path, self.rank)

    def alpha_of(self, path: str) -> float:
        """Return the alpha for the parameter path (without `.weight`)."""
        return _pattern(self.alpha_pattern, path, self.alpha)

    def rank_and_scale(self, path: str) -> tuple[int, float]:
        """Return the rank and the factor before the update for the parameter path (without `.weight`)."""
        return self.rank_of(path), self.scale_of(path)

    def scale_of(self, path: str) -> float:
        """Return the factor before the update for the parameter path (without `.weight`)."""
        return self.alpha_of(path) / self.rank_of(path)


@dataclass(frozen=True)
class LoRA(Ranked):
    """A low-rank adapter (arXiv 2106.09685) for weights of any shape.

    Attributes:
        rank: The rank of the update B·A.
        alpha: The update is scaled by alpha / rank, with `rslora` by alpha / √rank.
        targets: Which weights: a list of suffixes of parameter paths without the trailing `.weight`
            (`["attn.qkv", "fc1"]`), one regular expression over whole paths, `"all"` for every weight of two or more
            dimensions, or None for the model's own default.
        dropout: The share of the update's inputs dropped in training.
        rslora: Whether the scale is alpha / √rank (arXiv 2312.03732).
        rank_pattern: Other ranks for the paths that a regular expression matches (at the end of the path, as in PEFT).
        alpha_pattern: Other alphas, in the same form.
        dora: Whether weights are split into magnitude and direction (arXiv 2402.09353): W' = m · (W + s·B·A) /
            ‖W + s·B·A‖, with one trained magnitude m per output.
        init: The initial values of A and B. `"default"`: A drawn as PEFT draws it, B zero; `"gaussian"`: A normal with
            standard deviation 1 / rank; `"orthogonal"`: rows of A and columns of B from one orthogonal matrix, so that
            B·A = 0; `"pissa"` and `"pissa_niter_16"` (arXiv 2404.02948; a randomised decomposition): the weight's
            largest singular directions; `"olora"` (arXiv 2406.01775): its QR decomposition. See `zoo.methods.pissa`
            for how the base stays unchanged with the last three.
        modules_to_save: Modules (suffixes of their paths) that train fully in addition, with every parameter in them;
            they take no low-rank update. A single parameter can be named too (`"head.weight"`).
        bias: Which biases train fully: `"none"`, `"all"`, or `"lora_only"`, those of layers whose weight is targeted.
        trainable_token_indices: Rows of embeddings that train in addition, for new tokens: indices into the model's
            input embedding, or a dict of them by the (suffix of the) embedding's path. Such an embedding takes no
            low-rank update; a head that is tied to it has the same rows.

    Raises:
        AdapterError: the rank is below 1, or another value is out of range.
    """

    rank: int = 8
    alpha: float = 16
    targets: Targets = None
    dropout: float = 0.0
    rslora: bool = False
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    dora: bool = False
    init: str = "default"
    modules_to_save: Names = ()
    bias: str = "none"
    trainable_token_indices: Tokens = None

    kind: ClassVar[str] = "lora"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rslora", "dora"):
            check_flag(name, getattr(self, name))
        check_share("dropout", self.dropout)
        object.__setattr__(self, "trainable_token_indices", _check_tokens(self.trainable_token_indices))
        self._check_init()

    def _check_init(self) -> None:
        if self.init == "eva":
            raise AdapterError(
                "init 'eva' starts from the activations of data, which are not available here: use 'pissa'"
            )
        fixed = isinstance(self.init, str) and (self.init in INITS or re.fullmatch(r"pissa_niter_\d{1,4}", self.init))
        if not fixed or self.init == "pissa_niter_N":
            known = ", ".join(map(repr, INITS))
            raise AdapterError(f"init: expected one of {known} (N a number), got {shown(self.init)}")
        if self.init == "orthogonal":
            for rank in (self.rank, *self.rank_pattern.values()):
                if rank % 2:
                    raise AdapterError(f"init 'orthogonal' needs an even rank, got {rank}")
        if self.dora and self.changes_base:
            raise AdapterError(f"dora=True starts from the base as it is: expected another init than {self.init!r}")

    @property
    def changes_base(self) -> bool:
        """Whether `init` is one that, in its paper, moves a part of the base into B·A."""
        return self.init.startswith(RESIDUAL)

    def scale_of(self, path: str) -> float:
        """Return the factor before B·A for the parameter path (without `.weight`)."""
        return self.alpha_of(path) / math.sqrt(self.rank_of(path)) if self.rslora else super().scale_of(path)


@dataclass(frozen=True)
class Full(Adapter):
    """Full training of chosen weights, as an adapter: norms, biases (BitFit, arXiv 2106.10199), a head.

    Each weight's replacement starts as a copy of it in float32 (or better), even if it is stored in 4 bit; the base
    itself never changes. If several active adapters replace one weight, the last one applies. Buffers that training
    changes, as a BatchNorm's running statistics, belong to the adapter too, whatever its kind.

    Attributes:
        targets: What trains, of any number of dimensions: a list of suffixes of parameter paths with or without
            `.weight` (`["norm.weight", "bias"]`) or of module paths (`["norm1", "head"]`: every parameter in
            them), one regular expression over whole paths of either, or `"all"`. There is no default.

    Raises:
        AdapterError: `targets` is missing or malformed.
    """

    targets: Targets = None

    kind: ClassVar[str] = "full"
    any_shape: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.targets is None:
            raise AdapterError(
                "targets: zoo.Full has no default, name what to train, for example targets=['norm', 'bias']"
            )


def check_flag(name: str, value: Any) -> None:
    """Raise `AdapterError` for a value that is neither True nor False."""
    if not isinstance(value, bool):
        raise AdapterError(f"{name}: expected True or False, got {shown(value)}")


def check_share(name: str, value: Any) -> None:
    """Raise `AdapterError` for a value outside [0, 1), the range of dropouts."""
    if not _is_number(value) or not 0 <= value < 1:
        raise AdapterError(f"{name}: expected a share from 0 up to but not including 1, got {shown(value)}")


def _check_names(name: str, values: Any) -> tuple[str, ...]:
    if values is None:
        return ()
    if not isinstance(values, list | tuple | set) or not all(isinstance(value, str) and value for value in values):
        raise AdapterError(f"{name}: expected a list of suffixes of module paths, got {shown(values)}")
    return tuple(values)


def _check_tokens(value: Any) -> Tokens:
    """Return rows in the form that configurations keep: a tuple, or a dict of tuples."""
    if value is None or (isinstance(value, dict | list | tuple) and not value):
        return None
    if isinstance(value, dict) and all(isinstance(name, str) and name for name in value):
        return {name: check_rows("trainable_token_indices", rows) for name, rows in value.items()}
    return check_rows("trainable_token_indices", value)


def check_rows(name: str, rows: Any) -> tuple[int, ...]:
    """Return the indices of rows as a tuple.

    Raises:
        AdapterError: they are not different whole numbers from 0.
    """
    whole = isinstance(rows, list | tuple) and all(type(row) is int and row >= 0 for row in rows)
    if not whole or not rows or len(set(rows)) != len(rows):
        raise AdapterError(
            f"{name}: expected different whole numbers from 0 (zoo.LoRA takes a dict of them too), got {shown(rows)}"
        )
    return tuple(rows)


def check_targets(targets: Any) -> Targets:
    """Return `targets` in the form that configurations keep: suffixes as a tuple.

    Raises:
        AdapterError: they are malformed.
    """
    if isinstance(targets, list | tuple | set):
        if not targets or not all(isinstance(target, str) and target for target in targets):
            raise AdapterError(f"targets: expected parameter-path suffixes, got {shown(targets)}")
        return tuple(targets)
    if isinstance(targets, str):
        check_pattern(targets, "targets")
    elif targets is not None:
        raise AdapterError(f"targets: expected a list of suffixes, a regular expression or 'all', got {shown(targets)}")
    return targets


def _pattern(patterns: dict[str, Any], path: str, default: Any) -> Any:
    for pattern, value in patterns.items():
        if endmatch(pattern, path):
            return value
    return default


def _check_patterns(name: str, patterns: Any) -> None:
    valid = isinstance(patterns, dict) and all(isinstance(pattern, str) and pattern for pattern in patterns)
    if not valid or len(patterns) - sum(map(is_list, patterns)) > PATTERNS:
        raise AdapterError(
            f"{name}: expected a dict of regular expressions over parameter paths, at most {PATTERNS}, got "
            f"{shown(patterns)}"
        )
    for pattern in patterns:
        check_pattern(pattern, name)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def as_adapter(value: int | Adapter, targets: Targets = None, modules_to_save: Names = ()) -> Adapter:
    """Return the configuration for `lora=8` or `lora=zoo.LoRA(...)`; a bare rank gets alpha = 2 · rank.

    Args:
        value: A rank or a configuration.
        targets: Those of a configuration without targets, and of a bare rank.
        modules_to_save: Of a bare rank.
    """
    if isinstance(value, Adapter):
        return replace(value, targets=targets) if value.targets is None and targets else value  # type: ignore[type-var]
    if isinstance(value, bool) or not isinstance(value, int):
        raise AdapterError(f"lora: expected a rank, a zoo.LoRA, an adapter's folder, or a dict, got {shown(value)}")
    return LoRA(rank=value, alpha=2 * value, targets=targets, modules_to_save=modules_to_save)


_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")


def check_name(name: str) -> str:
    """Return an adapter's name if it is valid: letters, digits, `_` and `-`.

    Raises:
        AdapterError: it is not.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise AdapterError(f"adapter name {name!r}: expected letters, digits, '_' and '-', starting with none of '-'")
    return name


def check_weight(name: str, weight: object) -> float:
    """Return an adapter's weight as a float.

    Raises:
        AdapterError: it is not a number, or too large.
    """
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not abs(weight) <= LARGEST:
        raise AdapterError(f"the weight of {name!r}: expected a number, got {shown(weight)}")
    return float(weight)
