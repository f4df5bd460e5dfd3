"""Several texts in one window, none of which sees another: transformers' way, and whether a model does it."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from torch import nn

_known: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
_EXACT, _CLOSE = 1e-5, 2e-2  # share of the logits' range: between equal shapes, between unequal ones


def takes(module: nn.Module, name: str) -> bool:
    """Return whether a module's forward has an argument of this name."""
    return name in inspect.signature(module.forward).parameters


def keeps_apart(module: nn.Module) -> bool:
    """Return whether a text within a window is computed as if it were alone, its position_ids beginning at 0.

    It is tried, with two small windows: recurrent models, and those whose attention does not follow position_ids, fail.
    """
    if module not in _known:
        _known[module] = takes(module, "position_ids") and _tried(module)
    return _known[module]


def _tried(module: nn.Module) -> bool:
    import torch

    device = next(module.parameters()).device
    size = int(getattr(module.config, "vocab_size", 0) or 0)
    if size < 8:
        return False
    draw = torch.Generator().manual_seed(0)
    first, other, text = torch.randint(size, (3, 1, 6), generator=draw).to(device)  # [1, 6] each
    places = torch.arange(6, device=device)[None]
    training = module.training
    module.eval()
    try:
        with torch.no_grad():

            def logits(*texts: Any) -> Any:
                ids = torch.cat(texts, 1)
                positions = torch.cat([places] * len(texts), 1)
                return module(input_ids=ids, position_ids=positions, use_cache=False).logits[:, -6:].float()

            alone, behind, behind_other = logits(text), logits(first, text), logits(other, text)
    except Exception:  # whatever a module raises that cannot do it
        return False
    finally:
        module.train(training)
    spread = float(alone.max() - alone.min())
    exact = float((behind - behind_other).abs().max()) <= _EXACT * spread
    return exact and float((behind - alone).abs().max()) <= _CLOSE * spread
