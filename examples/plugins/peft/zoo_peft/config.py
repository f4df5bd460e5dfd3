"""`Peft`: any of PEFT's configurations as an adapter of zoo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Self

import zoo
from zoo_peft.kinds import reason_against

# Where PEFT would look for layers. zoo uses `targets` and changes weights, whatever their layers are.
ELSEWHERE = ("exclude_modules", "layers_to_transform", "layers_pattern")


@dataclass(frozen=True)
class Peft(zoo.Adapter):
    """One of PEFT's configurations, for zoo to apply.

    Attributes:
        config: a `peft.OFTConfig`, `peft.IA3Config`, …; `zoo_peft.kinds` has the list. Ranks and other patterns by
            name apply.
        targets: which weights, as in `zoo.LoRA`; by default `config.target_modules`, and if it is None the model's own
            targets.
        modules_to_save: what trains fully beside it; by default `config.modules_to_save`.

    Raises:
        zoo.AdapterError: the configuration is no function of single weights; the message has the reason.
    """

    config: Any
    targets: zoo.Targets = None
    modules_to_save: tuple[str, ...] | list[str] | None = None

    kind: ClassVar[str] = "peft"

    def __post_init__(self) -> None:
        from peft import PeftConfig

        if not isinstance(self.config, PeftConfig) or self.config.peft_type is None:
            got = type(self.config).__name__
            raise zoo.AdapterError(f"zoo_peft.Peft: expected a configuration such as peft.OFTConfig(), got {got}")
        reason = reason_against(self.config)
        if reason:
            raise zoo.AdapterError(f"{type(self.config).__name__}: {reason}")
        for name in ELSEWHERE:
            if getattr(self.config, name, None):
                raise zoo.AdapterError(
                    f"{type(self.config).__name__}: {name} is not read: write the targets as one regular expression"
                )
        for name, default in (("targets", "target_modules"), ("modules_to_save", "modules_to_save")):
            if getattr(self, name) is None:
                value = getattr(self.config, default, None)
                object.__setattr__(self, name, "all" if value == "all-linear" else value)
        super().__post_init__()

    def to_peft(self) -> dict[str, Any]:
        """Return the fields; `config` as PEFT itself writes it."""
        fields = {name: list(v) if isinstance(v, tuple) else v for name, v in self._fields().items()}
        return {"peft_type": "PEFT", **fields, "config": _plain(self.config.to_dict())}

    @classmethod
    def from_peft(cls, raw: Mapping[str, Any]) -> Self:
        """Return the configuration of what `to_peft` returned.

        Raises:
            zoo.AdapterError: PEFT cannot read the configuration.
        """
        from peft import PeftConfig

        config = raw.get("config")
        try:
            read = PeftConfig.from_peft_type(**config)  # type: ignore[arg-type]
        except (TypeError, KeyError, ValueError) as error:
            raise zoo.AdapterError(
                f"config: expected one of PEFT's configurations, got {config!r} ({error})"
            ) from error
        return cls(read, raw.get("targets"), raw.get("modules_to_save"))

    def _fields(self) -> dict[str, Any]:
        return {"targets": self.targets, "modules_to_save": self.modules_to_save}


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it: sets sorted, enumerations as their values."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, set):
        return sorted(map(_plain, value))
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.value if isinstance(value, Enum) else value
