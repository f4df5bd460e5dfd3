"""PEFT's tuners for zoo: `zoo.load("gpt", bits=4, lora=zoo_peft.Peft(peft.OFTConfig(oft_block_size=8)))`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import zoo
from zoo_peft.config import Peft

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Peft"]


def CONFORMANCE() -> dict[str, Any]:
    """With which adapter the conformance suite checks the plugin; PEFT has no default kind."""
    import peft

    return {"adapter": Peft(peft.LoHaConfig(r=2), targets="all")}


@zoo.hookimpl
def inject_adapter(name: str, weight: Tensor, config: zoo.Adapter) -> zoo.Update | None:
    """What PEFT's tuner does to one weight. Asked only where the configuration's kind is this plugin's name."""
    from zoo_peft.update import tuner_update

    return tuner_update(name, weight, config) if isinstance(config, Peft) else None


@zoo.hookimpl
def adapter_config(raw: dict[str, Any]) -> zoo.Adapter:
    """The configuration of an adapter that was saved."""
    return Peft.from_peft(raw)
