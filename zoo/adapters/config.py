"""``zoo.Adapter`` and ``zoo.LoRA``: what a user says about an adapter."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

from zoo.errors import AdapterError

Targets = tuple[str, ...] | list[str] | str | None


class Adapter:
    """An adapter's configuration: the base of ``zoo.LoRA`` and of every other kind's.

    A kind is a frozen dataclass that derives from this one, and a plugin of the same name that answers
    ``inject_adapter`` with the kind's ``Update`` and ``adapter_config`` with its configuration::

        @dataclass(frozen=True)
        class Scale(zoo.Adapter):
            kind = "scale"
            targets: zoo.Targets = None

    kind: the kind's name; also the name of the plugin that implements it. targets: which weights, as in ``zoo.LoRA``.
    """

    kind: ClassVar[str] = ""
    targets: Targets

    def to_peft(self) -> dict[str, Any]:
        """What ``adapter_config.json`` says of it: the fields, and ``peft_type``, the kind's name in capitals."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}  # type: ignore[arg-type]
        return {"peft_type": self.kind.upper(), **values}

    @classmethod
    def from_peft(cls, raw: Mapping[str, Any]) -> Self:
        """The configuration that an ``adapter_config.json`` says; the reverse of ``to_peft``."""
        known = {one.name for one in fields(cls)}  # type: ignore[arg-type]
        return cls(**{name: value for name, value in raw.items() if name in known})


@dataclass(frozen=True)
class LoRA(Adapter):
    """A low-rank adapter (arXiv 2106.09685) over any weights.

    rank: of the update B·A. alpha: the update is scaled by alpha / rank, with ``rslora`` by alpha / √rank
        (arXiv 2312.03732).
    targets: which weights: a list of suffixes of parameter paths without the trailing ``.weight``
        (``["attn.qkv", "fc1"]``), one regular expression over whole paths, ``"all"`` for every weight of two or more
        dimensions, or None for the model's own default.
    dropout: share of the update's inputs dropped in training.
    rank_pattern, alpha_pattern: other ranks and alphas for the paths that a regular expression matches (at the end
        of the path, as PEFT does).

    Raises ``AdapterError`` for a rank below 1 and other impossible values.
    """

    rank: int = 8
    alpha: float = 16
    targets: Targets = None
    dropout: float = 0.0
    rslora: bool = False
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)

    kind: ClassVar[str] = "lora"

    def __post_init__(self) -> None:
        for name in ("rank_pattern", "alpha_pattern"):
            _check_patterns(name, getattr(self, name))
        for rank in (self.rank, *self.rank_pattern.values()):
            if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
                raise AdapterError(f"rank: expected a whole number of at least 1, got {rank!r}")
        for alpha in (self.alpha, *self.alpha_pattern.values()):
            if not _is_number(alpha):
                raise AdapterError(f"alpha: expected a number, got {alpha!r}")
        if not isinstance(self.rslora, bool):
            raise AdapterError(f"rslora: expected True or False, got {self.rslora!r}")
        if not _is_number(self.dropout) or not 0 <= self.dropout < 1:
            raise AdapterError(f"dropout: expected a share from 0 up to but not including 1, got {self.dropout!r}")
        object.__setattr__(self, "targets", check_targets(self.targets))

    def rank_of(self, path: str) -> int:
        """The rank for the parameter path (without ``.weight``)."""
        return _pattern(self.rank_pattern, path, self.rank)

    def alpha_of(self, path: str) -> float:
        """The alpha for the parameter path (without ``.weight``)."""
        return _pattern(self.alpha_pattern, path, self.alpha)

    def scale_of(self, path: str) -> float:
        """The factor before B·A for the parameter path."""
        rank, alpha = self.rank_of(path), self.alpha_of(path)
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank


def check_targets(targets: Any) -> Targets:
    """``targets`` as configurations hold them, suffixes as a tuple; AdapterError for what cannot be targets."""
    if isinstance(targets, list | tuple | set):
        if not targets or not all(isinstance(target, str) and target for target in targets):
            raise AdapterError(f"targets: expected parameter-path suffixes, got {targets!r}")
        return tuple(targets)
    if isinstance(targets, str):
        _check_regex("targets", targets)
    elif targets is not None:
        raise AdapterError(f"targets: expected a list of suffixes, a regular expression or 'all', got {targets!r}")
    return targets


def _pattern(patterns: dict[str, Any], path: str, default: Any) -> Any:
    for pattern, value in patterns.items():
        if re.fullmatch(rf"(?:.*\.)?(?:{pattern})", path):
            return value
    return default


def _check_patterns(name: str, patterns: Any) -> None:
    if not isinstance(patterns, dict) or not all(isinstance(pattern, str) and pattern for pattern in patterns):
        raise AdapterError(f"{name}: expected a dict of regular expressions over parameter paths, got {patterns!r}")
    for pattern in patterns:
        _check_regex(name, pattern)


def _check_regex(name: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise AdapterError(f"{name}: {pattern!r} is not a regular expression: {error}") from error


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf


def as_adapter(value: int | Adapter) -> Adapter:
    """The configuration that ``lora=8`` or ``lora=zoo.LoRA(...)`` stands for; a bare rank gets alpha = 2 · rank."""
    if isinstance(value, Adapter):
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise AdapterError(f"lora: expected a rank, a zoo.LoRA, an adapter's folder, or a dict of them, got {value!r}")
    return LoRA(rank=value, alpha=2 * value)


_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")


def check_name(name: str) -> str:
    """An adapter's name: letters, digits, ``_`` and ``-``; AdapterError otherwise."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise AdapterError(f"adapter name {name!r}: expected letters, digits, '_' and '-', starting with none of '-'")
    return name
