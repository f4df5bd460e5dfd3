"""What a user says about an (IA)³ adapter, and PEFT's words for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from zoo import Adapter, AdapterError, Targets
from zoo.bounded.patterns import check_pattern, fullmatch

# What PEFT writes that does not change what a trained adapter computes.
HARMLESS = {
    "auto_mapping",
    "base_model_name_or_path",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "init_ia3_weights",
    "peft_type",
    "peft_version",
    "revision",
    "runtime_config",
    "task_type",
}


@dataclass(frozen=True)
class IA3(Adapter):
    """(IA)³ on any weights: one learned number per output, or per input, starting at 1.

    Attributes:
        targets: which weights, as in `zoo.LoRA`.
        feedforward: those of them, named likewise, whose inputs are scaled; of the others the outputs are, their bias
            included.
        modules_to_save: as in `zoo.LoRA`.

    Raises:
        AdapterError: a value cannot be, or a name in `feedforward` is not in `targets`.
    """

    targets: Targets = None
    feedforward: Targets = ()
    modules_to_save: tuple[str, ...] | list[str] | None = ()

    kind: ClassVar[str] = "ia3"

    def __post_init__(self) -> None:
        super().__post_init__()
        named = self.feedforward
        if isinstance(named, str):
            check_pattern(named, "feedforward")
        elif not all(isinstance(one, str) and one for one in named or ()):
            raise AdapterError(f"feedforward: expected suffixes of parameter paths, got {named!r}")
        else:
            object.__setattr__(self, "feedforward", tuple(named or ()))
            if isinstance(self.targets, tuple) and (beyond := sorted({*named} - {*self.targets}) if named else []):
                raise AdapterError(f"feedforward: {beyond[0]!r} is not one of the targets {list(self.targets)}")

    def scales_inputs(self, name: str) -> bool:
        """Return whether the parameter `name` is one of `feedforward`."""
        path, named = name.removesuffix(".weight"), self.feedforward
        if isinstance(named, str):
            return named == "all" or fullmatch(named, path)
        return any(path == one or path.endswith("." + one) for one in named or ())

    def to_peft(self) -> dict[str, Any]:
        """Return the fields as PEFT's `IA3Config` writes them."""

        def listed(names: Targets) -> list[str] | str | None:
            return list(names) if isinstance(names, tuple) else names

        return {
            "peft_type": "IA3",
            "target_modules": listed(self.targets),
            "feedforward_modules": listed(self.feedforward),
            "modules_to_save": list(self.modules_to_save or ()) or None,
            "inference_mode": True,
            "init_ia3_weights": True,
            "task_type": None,
        }

    @classmethod
    def from_peft(cls, raw: Mapping[str, Any]) -> Self:
        """Return the configuration that PEFT's `IA3Config` wrote.

        Raises:
            AdapterError: it would be computed otherwise than by PEFT.
        """
        known = {"target_modules", "feedforward_modules", "modules_to_save", *HARMLESS}
        for key, value in raw.items():
            if key not in known and value and value != "none":
                raise AdapterError(
                    f"{key} = {value!r} is a feature of PEFT that zoo_ia3 does not have; save without it"
                )
        return cls(
            targets=raw.get("target_modules") or None,
            feedforward=raw.get("feedforward_modules") or (),
            modules_to_save=raw.get("modules_to_save") or (),
        )


def adapter_config(raw: dict[str, Any]) -> IA3 | None:
    """Return the configuration that a saved adapter's file holds; None for another kind's."""
    return IA3.from_peft(raw) if raw.get("peft_type") == "IA3" else None
