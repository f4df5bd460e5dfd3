"""(IA)³ (arXiv 2205.05638): a learned vector scales what a layer puts out, or, in a feedforward layer, takes in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo import hookimpl

from .config import IA3

if TYPE_CHECKING:
    from zoo import Adapter, LazyWeight, Update

__all__ = ["IA3"]


@hookimpl
def adapter_config(raw: dict[str, Any]) -> IA3 | None:
    return IA3.from_peft(raw) if raw.get("peft_type") == "IA3" else None


@hookimpl
def inject_adapter(name: str, weight: LazyWeight, config: Adapter) -> Update | None:
    from .update import Scaled

    return Scaled(weight, config.scales_inputs(name)) if isinstance(config, IA3) else None
