"""The keys and values of many texts of different lengths, padded on the left, that join and leave one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch.nn import functional

from zoo.adapters.each_row import EachRow
from zoo.integrations.packed import takes

if TYPE_CHECKING:
    from torch import Tensor

    from zoo import Model

# Notation of the shapes: b texts, t tokens with the padding, v tokens in the vocabulary; keys and values [b, h, t, d].
_CLOSE = 2e-2  # share of the logits' range: what other shapes may change by rounding
_kept_apart: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


class RowsCache:
    """What a model remembers of texts, and which places of it are padding. It does not change.

    Attributes:
        layers: keys and values of each layer; None for one that has none of its own.
        mask: int64 [b, t], 0 where there is padding, which is on the left.
    """

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor] | None], mask: Tensor) -> None:
        self.layers, self.mask = list(layers), mask

    def joined(self, *others: RowsCache) -> RowsCache:
        """Return the texts of several, one after the other."""
        parts = [self, *others]
        length = max(part.mask.shape[1] for part in parts)
        more = [length - part.mask.shape[1] for part in parts]

        def together(tensors: Sequence[Tensor]) -> Tensor:
            return torch.cat([functional.pad(one, (0, 0, n, 0)) for one, n in zip(tensors, more, strict=True)])

        mask = torch.cat([functional.pad(part.mask, (n, 0)) for part, n in zip(parts, more, strict=True)])
        layers = list(zip(*(part.layers for part in parts), strict=True))
        return RowsCache(
            [None if None in layer else tuple(map(together, zip(*layer, strict=True))) for layer in layers],  # type: ignore[misc]
            mask,
        )

    def only(self, rows: Sequence[int]) -> RowsCache:
        """Return some of the texts, in this order, without padding that none of them needs."""
        index = torch.tensor(rows, device=self.mask.device)
        mask = self.mask.index_select(0, index)
        padding = int(mask.argmax(1).min())
        return RowsCache(
            [layer and tuple(one[:, :, padding:].index_select(0, index) for one in layer) for layer in self.layers],  # type: ignore[misc]
            mask[:, padding:],
        )


class Reader:
    """Reads texts with a model, in batches whose texts have adapters of their own."""

    def __init__(self, model: Model) -> None:
        self._model, self._each_row = model, EachRow(model.adapter_set, lambda found: found[0])
        known = ("cache", "past_key_values")  # the second one in transformers before 5.24
        self._name = next((name for name in known if takes(model.module, name)), "")
        self._takes = {name: takes(model.module, name) for name in ("position_ids", "logits_to_keep")}

    def begin(self, texts: Sequence[list[int]], adapters: Sequence[Any]) -> tuple[Tensor, RowsCache]:
        """Read texts, each under its adapter; returns the logits of what follows each, [b, v]."""
        length = max(map(len, texts))
        device = self._model.device
        inputs = torch.tensor([[0] * (length - len(ids)) + ids for ids in texts], device=device)  # [b, t]
        mask = torch.tensor([[0] * (length - len(ids)) + [1] * len(ids) for ids in texts], device=device)  # [b, t]
        positions = (mask.cumsum(1) - 1).clamp(min=0)

        def passing(rows: list[int]) -> tuple[Tensor, RowsCache]:
            return self._run(inputs[rows], RowsCache([], mask[rows]), positions[rows])

        return self._under(adapters, passing)

    def go_on(self, cache: RowsCache, tokens: Sequence[list[int]], adapters: Sequence[Any]) -> tuple[Tensor, RowsCache]:
        """Add tokens to each text, to all equally many; returns the logits of what follows, [b, v]."""
        inputs = torch.tensor(tokens, device=self._model.device)  # [b, t]
        count = inputs.shape[1]
        positions = cache.mask.sum(1, keepdim=True) + torch.arange(count, device=inputs.device)
        mask = functional.pad(cache.mask, (0, count), value=1)

        def passing(rows: list[int]) -> tuple[Tensor, RowsCache]:
            if len(rows) == len(tokens):
                return self._run(inputs, RowsCache(cache.layers, mask), positions)
            some = cache.only(rows)
            longer = functional.pad(some.mask, (0, count), value=1)
            return self._run(inputs[rows], RowsCache(some.layers, longer), positions[rows])

        return self._under(adapters, passing)

    def _under(
        self, adapters: Sequence[Any], passing: Callable[[list[int]], tuple[Tensor, RowsCache]]
    ) -> tuple[Tensor, RowsCache]:
        """Return what `passing` gives for all rows, each under its adapter."""
        if not any(adapters) and not self._model.active:
            with self._model.adapter_set.turns:
                return passing(list(range(len(adapters))))
        found = self._each_row.run(adapters, passing)
        if len(found) == 1:
            return found[0][1]
        numbers = [row for rows, _ in found for row in rows]
        order = sorted(range(len(numbers)), key=numbers.__getitem__)
        logits = torch.cat([part for _, (part, _) in found])[order]
        first, *others = (cache for _, (_, cache) in found)
        return logits, first.joined(*others).only(order)

    def _run(self, inputs: Tensor, before: RowsCache, positions: Tensor) -> tuple[Tensor, RowsCache]:
        """Run the module on tokens [b, t] behind those that it remembers; the mask covers both."""
        given: dict[str, Any] = {"input_ids": inputs, "attention_mask": before.mask, "use_cache": True}
        given |= {self._name: _library_cache(before)}
        if self._takes["position_ids"]:
            given["position_ids"] = positions
        if self._takes["logits_to_keep"]:
            given["logits_to_keep"] = 1
        output = self._model.module(**given)
        layers = output[self._name].layers
        after = [None if layer.keys is None else (layer.keys, layer.values) for layer in layers]
        return output.logits[:, -1].float(), RowsCache(after, before.mask)

    def keeps_apart(self) -> bool:
        """Return whether texts in one batch are continued as if each were alone, which is tried with small ones.

        Models without such a cache (recurrent ones), and those that count padding or read a text in pieces otherwise
        than as a whole, fail.
        """
        if self._model.module not in _kept_apart:
            _kept_apart[self._model.module] = self._tried()
        return _kept_apart[self._model.module]

    def _tried(self) -> bool:
        size = int(getattr(self._model.module.config, "vocab_size", 0) or 0)
        if size < 8 or not self._name or not takes(self._model.module, "attention_mask"):
            return False
        drawn = torch.randint(size, (2, 8), generator=torch.Generator().manual_seed(0)).tolist()
        short, long = drawn[0][:3], drawn[1]
        try:
            alone, _ = self.begin([[*short, 1, 2]], [None])
            cache = self.begin([short], [None])[1].joined(self.begin([long], [None])[1])
            _, cache = self.go_on(cache, [[1], [1]], [None, None])
            joined = self.go_on(cache, [[2], [1]], [None, None])[0][:1]
            left, _ = self.go_on(cache.only([0]), [[2]], [None])
            _, cache = self.begin([long, short], [None, None])
            _, cache = self.go_on(cache.only([1]), [[1]], [None])
            padded, _ = self.go_on(cache, [[2]], [None])
            pieces, _ = self.go_on(self.begin([short[:2]], [None])[1], [[*short[2:], 1, 2]], [None])
        except Exception:  # whatever a module raises that cannot do it
            return False
        allowed = _CLOSE * float(alone.max() - alone.min())
        return all(float((other - alone).abs().max()) <= allowed for other in (joined, left, padded, pieces))


def _library_cache(before: RowsCache) -> Any:
    """Return a cache of transformers that begins with what is remembered, and keeps all of it."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    cache = DynamicCache()
    for layer in before.layers:
        own = DynamicLayer()
        if layer is not None:
            own.lazy_initialization(*layer)
            own.keys, own.values = layer
        cache.layers.append(own)
    return cache
