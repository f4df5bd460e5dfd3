"""What one adapter does to one weight, complete: as the hook `inject_adapter` makes it, with what zoo adds."""

from __future__ import annotations

from zoo.catalog.entry import Entry
from zoo.methods.config import Adapter
from zoo.methods.quantize_aware import QuantizeAware, QuantizeAwareUpdate
from zoo.plugin import hooks
from zoo.plugin.quantize import packing
from zoo.weights.lazy_weight import LazyWeight
from zoo.weights.update import Update


def inject(entry: Entry, name: str, weight: LazyWeight, config: Adapter) -> Update | None:
    """Return an adapter's update of one weight; None if no plugin makes it. See `hooks.inject_adapter`.

    One that quantizes the weight gets the hook `quantize`, with whatever scheme.
    """
    update = hooks.inject_adapter(entry, name, weight, config)
    if isinstance(update, QuantizeAwareUpdate) and isinstance(config, QuantizeAware):
        update.pack = packing(entry, name, weight, config.quantization)
    return update
