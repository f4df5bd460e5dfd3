"""What the readers share: the configuration that a set of factors has, and paths written in other ways."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from zoo.errors import AdapterError
from zoo.weights.walk import library_modules


def configuration(kind: str, ranks: Mapping[str, int], alphas: Mapping[str, float], **more: Any) -> dict[str, Any]:
    """PEFT's configuration for layers (by path) of these ranks and alphas; the most frequent ones are the defaults."""
    rank, alpha = _most(ranks.values()), _most(alphas.values())
    return {
        "peft_type": kind,
        "r": rank,
        "lora_alpha" if kind == "LORA" else "alpha": alpha,
        "target_modules": sorted(ranks),
        "rank_pattern": {"^" + re.escape(path): value for path, value in ranks.items() if value != rank},
        "alpha_pattern": {"^" + re.escape(path): value for path, value in alphas.items() if value != alpha},
        **more,
    }


def _most(values: Iterable[Any]) -> Any:
    return Counter(values).most_common(1)[0][0]


class FlatPaths:
    """The paths of a model's layers by their form with underscores for dots."""

    def __init__(self, module: nn.Module) -> None:
        self._paths: dict[str, list[str]] = {}
        for path, layer in library_modules(module, remove_duplicate=False):
            if path and getattr(layer, "weight", None) is not None:
                self._paths.setdefault(path.replace(".", "_"), []).append(path)

    def resolve(self, flat: str, key: str) -> str:
        """The layer's path. Raises `AdapterError` where none or more than one layer has that form."""
        found = self._paths.get(flat, [])
        if len(found) > 1:
            raise AdapterError(f"{key!r} is ambiguous, it may mean {' or '.join(found)}: save it in PEFT's format")
        if not found:
            raise AdapterError(f"{key!r} matches no layer of the model; it was made for another model")
        return found[0]
