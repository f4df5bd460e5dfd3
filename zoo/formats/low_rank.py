"""Helpers for readers of other formats: PEFT's configuration for a set of factors, and paths without dots."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from zoo.errors import AdapterError
from zoo.weights.walk import library_modules


def configuration(kind: str, ranks: Mapping[str, int], alphas: Mapping[str, float], **more: Any) -> dict[str, Any]:
    """Return PEFT's configuration; the most frequent rank and alpha are its defaults.

    Args:
        kind: PEFT's `peft_type`.
        ranks: layer path → rank.
        alphas: layer path → alpha.
        **more: further fields.
    """
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
    """Layer paths of a model, found by their form with underscores for dots."""

    def __init__(self, module: nn.Module) -> None:
        self._paths: dict[str, list[str]] = {}
        for path, layer in library_modules(module, remove_duplicate=False):
            if path and getattr(layer, "weight", None) is not None:
                self._paths.setdefault(path.replace(".", "_"), []).append(path)

    def resolve(self, flat: str, key: str) -> str:
        """Return the layer's path.

        Args:
            flat: the path with underscores for dots.
            key: the file's key, for the error.

        Raises:
            AdapterError: no layer has that form, or more than one.
        """
        found = self._paths.get(flat, [])
        if len(found) > 1:
            raise AdapterError(f"{key!r} is ambiguous, it may mean {' or '.join(found)}: save it in PEFT's format")
        if not found:
            raise AdapterError(f"{key!r} matches no layer of the model; it was made for another model")
        return found[0]
