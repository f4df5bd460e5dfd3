"""zoo's own implementations of the hooks, called after a plugin's: what works for every architecture.

Nothing heavy is imported before a hook is called: `zoo list` registers this module too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from zoo.plugin.hookspecs import hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.catalog.entry import Entry
    from zoo.methods.config import Adapter
    from zoo.weights.lazy_weight import LazyWeight
    from zoo.weights.quantized_tensor import QuantizedTensor
    from zoo.weights.scheme import Quantization
    from zoo.weights.update import Update


@hookimpl
def checkpoint(entry: Entry) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of the files in the entry's folder, under the names they have there."""
    from zoo.storage.checkpoint import tensors

    return tensors(entry)


@hookimpl
def quantize(weight: Tensor, scheme: Quantization) -> QuantizedTensor | None:
    """Quantize any weight to nf4, fp4, int8, dynamic8 or a stored float; return None for a plugin's scheme."""
    from zoo.weights.codecs import pack

    return pack(weight, scheme) if scheme.builtin else None


@hookimpl
def adapter_config(raw: dict[str, Any]) -> Adapter | None:
    """Read the configuration of PEFT's LoRA, LoHa and LoKr and of zoo's Full; return None for another kind."""
    from zoo.methods.kinds import KINDS

    kind = next((kind for name, kind in KINDS.items() if name.upper() == raw.get("peft_type")), None)
    return kind.read(raw) if kind else None


@hookimpl
def inject_adapter(name: str, weight: LazyWeight, config: Adapter) -> Update | None:
    """Return the update of one of zoo's own kinds, `zoo.methods.kinds`; None for another kind."""
    from zoo.methods.kinds import KINDS

    kind = next((kind for kind in KINDS.values() if isinstance(config, kind.config)), None)
    return kind.make(name, weight, config) if kind else None
