"""The keys and values of many texts of different lengths, padded on the left, that join and leave one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from zoo.integrations.packed import takes

if TYPE_CHECKING:
    from torch import Tensor

    from zoo import Model

# Notation of the shapes: b texts, t tokens with the padding, v tokens in the vocabulary; keys and values [b, h, t, d].


class RowsCache:
    """What a model remembers of texts, and which places of it are padding.

    Attributes:
        cache: transformers' DynamicCache.
        mask: int64 [b, t], 0 where there is padding, which is on the left.
    """

    def __init__(self, cache: Any, mask: Tensor) -> None:
        self.cache, self.mask = cache, mask

    def joined(self, other: RowsCache) -> RowsCache:
        """Return the texts of both, those of the other one behind: this one and the other are used up."""
        length = max(self.mask.shape[1], other.mask.shape[1])
        mask = torch.cat([functional.pad(one.mask, (length - one.mask.shape[1], 0)) for one in (self, other)])
        for layer, more in zip(self.cache.layers, other.cache.layers, strict=True):
            for name in ("keys", "values"):
                parts = [getattr(one, name) for one in (layer, more)]
                if parts[0] is not None:
                    padded = [functional.pad(part, (0, 0, length - part.shape[-2], 0)) for part in parts]
                    setattr(layer, name, torch.cat(padded))
        return RowsCache(self.cache, mask)

    def only(self, rows: Sequence[int]) -> RowsCache:
        """Return some of the texts, in this order, without padding that none of them needs: this one is used up."""
        index = torch.tensor(rows, device=self.mask.device)
        mask = self.mask.index_select(0, index)
        padding = int(mask.argmax(1).min())
        for layer in self.cache.layers:
            for name in ("keys", "values"):
                tensor = getattr(layer, name)
                if tensor is not None:
                    setattr(layer, name, tensor[:, :, padding:].index_select(0, index))
        return RowsCache(self.cache, mask[:, padding:])


def begin(model: Model, texts: Sequence[list[int]], adapters: Sequence[str | None]) -> tuple[Tensor, RowsCache]:
    """Read texts, each under its adapter; returns the logits of what follows each, [b, v]."""
    from transformers import DynamicCache

    length = max(map(len, texts))
    filled = [[0] * (length - len(ids)) + ids for ids in texts]
    seen = [[0] * (length - len(ids)) + [1] * len(ids) for ids in texts]
    inputs = torch.tensor(filled, device=model.device)  # [b, t]
    mask = torch.tensor(seen, device=model.device)  # [b, t]
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return _run(model, inputs, RowsCache(DynamicCache(), mask), positions, adapters)


def go_on(
    model: Model, rows: RowsCache, tokens: Sequence[int], adapters: Sequence[str | None]
) -> tuple[Tensor, RowsCache]:
    """Add a token to each text; returns the logits of what follows, [b, v]. `rows` is used up."""
    inputs = torch.tensor(tokens, device=model.device)[:, None]  # [b, 1]
    positions = rows.mask.sum(1, keepdim=True)
    more = RowsCache(rows.cache, functional.pad(rows.mask, (0, 1), value=1))
    return _run(model, inputs, more, positions, adapters)


def _run(
    model: Model, inputs: Tensor, rows: RowsCache, positions: Tensor, adapters: Sequence[str | None]
) -> tuple[Tensor, RowsCache]:
    name = _name(model)
    given: dict[str, Any] = {"input_ids": inputs, "attention_mask": rows.mask, name: rows.cache}
    if takes(model.module, "position_ids"):
        given["position_ids"] = positions
    if takes(model.module, "logits_to_keep"):
        given["logits_to_keep"] = 1
    if any(adapters) or model.active:
        output = model(**given, use_cache=True, adapters=list(adapters))
    else:
        output = model(**given, use_cache=True)
    return output.logits[:, -1].float(), RowsCache(output[name], rows.mask)


def _name(model: Model) -> str:
    """Return what a model calls its cache, as argument and in its output; "" if it has none."""
    known = ("cache", "past_key_values")  # the second one in transformers before 5.24
    return next((name for name in known if takes(model.module, name)), "")


_CLOSE = 2e-2  # share of the logits' range: what other shapes may change by rounding


def is_kept_apart(model: Model) -> bool:
    """Return whether texts in one batch are continued as if each were alone, which is tried with small ones.

    Models without such a cache (recurrent ones), and those that count padding, fail.
    """
    size = int(getattr(model.module.config, "vocab_size", 0) or 0)
    if size < 8 or not _name(model) or not takes(model.module, "attention_mask"):
        return False
    drawn = torch.randint(size, (2, 8), generator=torch.Generator().manual_seed(0)).tolist()
    short, long = drawn[0][:3], drawn[1]
    try:
        alone = begin(model, [[*short, 1, 2]], [None])[0]
        _, rows = begin(model, [short], [None])
        if not _is_plain(rows.cache):
            return False
        _, rows = go_on(model, rows.joined(begin(model, [long], [None])[1]), [1, 1], [None, None])
        together, _ = go_on(model, rows.only([0]), [2], [None])
        _, padded = begin(model, [long, short], [None, None])
        _, padded = go_on(model, padded.only([1]), [1], [None])
        behind, _ = go_on(model, padded, [2], [None])
    except Exception:  # whatever a module raises that cannot do it
        return False
    allowed = _CLOSE * float(alone.max() - alone.min())
    return all(float((other - alone).abs().max()) <= allowed for other in (together, behind))


def _is_plain(cache: Any) -> bool:
    """Return whether a cache is keys and values of all tokens, and nothing else."""
    from transformers.cache_utils import DynamicLayer

    return all(type(layer) is DynamicLayer for layer in getattr(cache, "layers", (None,)))
