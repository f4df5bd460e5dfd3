"""PEFT's tuners for zoo: `zoo.load("gpt", bits=4, lora=zoo_peft.Peft(peft.OFTConfig(oft_block_size=8)))`."""

from __future__ import annotations

from typing import Any

import zoo
from zoo_peft.config import Peft

__all__ = ["Peft"]

zoo.hooks(inject_adapter=".update:tuner_update", adapter_config=".config:Peft.from_peft")


def CONFORMANCE() -> dict[str, Any]:
    """Return the adapter that the conformance suite checks the plugin with; PEFT has no default kind."""
    import peft

    return {"adapter": Peft(peft.LoHaConfig(r=2), targets="all")}
