"""The built-in adapter kinds, one row each. A new kind is a file in this package and a row here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from zoo.methods.config import Adapter, Full, LoRA
from zoo.methods.full import FullUpdate
from zoo.methods.loha_lokr import LoHaUpdate, LoKrUpdate
from zoo.methods.loha_lokr_config import LoHa, LoKr
from zoo.methods.lora import lora_update
from zoo.methods.peft_fields import lora_from_peft
from zoo.methods.prune import Prune, PruneUpdate
from zoo.methods.quantize_aware import QuantizeAware, QuantizeAwareUpdate
from zoo.methods.rows import RowsUpdate, TrainableTokens
from zoo.weights.lazy_weight import LazyWeight
from zoo.weights.update import Update


class Kind(NamedTuple):
    """One kind of adapter.

    Attributes:
        config: The class of its configuration.
        read: Returns the configuration that an `adapter_config.json` describes.
        make: Returns the update of one weight, given the parameter's name, the weight and the configuration.
    """

    config: type[Adapter]
    read: Callable[[Mapping[str, Any]], Adapter]
    make: Callable[[str, LazyWeight, Any], Update]


# By `Adapter.kind`, which is PEFT's `peft_type` in lower case.
KINDS: dict[str, Kind] = {
    "lora": Kind(LoRA, lora_from_peft, lora_update),
    "full": Kind(Full, Full.from_peft, lambda name, weight, config: FullUpdate(weight)),
    "trainable_tokens": Kind(
        TrainableTokens,
        TrainableTokens.from_peft,
        lambda name, weight, config: RowsUpdate(weight, config.token_indices),
    ),
    "loha": Kind(LoHa, LoHa.from_peft, LoHaUpdate),
    "lokr": Kind(LoKr, LoKr.from_peft, LoKrUpdate),
    "prune": Kind(Prune, Prune.from_peft, PruneUpdate),
    "quantize_aware": Kind(QuantizeAware, QuantizeAware.from_peft, QuantizeAwareUpdate),
}
