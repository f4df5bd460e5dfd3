"""A healthy adapter kind: each row of a weight is multiplied by a gain that is learned."""

from __future__ import annotations

import zoo


@zoo.hookimpl
def inject_adapter(weight, config):
    from .gain import RowGain

    return RowGain(weight.shape[0], config.strength, weight.device)


@zoo.hookimpl
def adapter_config(raw):
    from .gain import Gain

    return Gain.from_peft(raw)
