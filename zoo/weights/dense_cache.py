"""Keep the dense forms of a module's weights for a block in which it runs many times, such as a sampler's loop."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from torch import nn

from zoo.bounded.sizes import size_of
from zoo.errors import ZooError
from zoo.weights.choice import keeping_dense
from zoo.weights.kept_weight import KeptWeights

Cache = Literal["auto", "dense"] | str | int | None
AUTO = 1 << 29  # bytes: the small models of a catalogue whole, and little beside those that fill a device


def cache_bytes(cache: Cache) -> float:
    """Return how many bytes of dense weights may be kept: 0 for None, infinity for "dense", `AUTO` for "auto".

    Raises:
        ZooError: it is none of these, nor a size such as "512MB" or a number of bytes.
    """
    if cache is None:
        return 0
    if isinstance(cache, str):
        found = {"auto": AUTO, "dense": math.inf}.get(cache) or size_of(cache)
    else:
        found = cache if isinstance(cache, int) and not isinstance(cache, bool) and cache > 0 else None
    if found is None:
        raise ZooError(
            f"expected cache as 'auto' ({AUTO >> 20} MiB at most), 'dense' (all weights), None, or a size such as "
            f"'2GB', got {cache!r:.40}"
        )
    return found


@contextmanager
def caching(module: nn.Module, cache: Cache) -> Iterator[KeptWeights]:
    """Keep dense forms of the managed weights that are used in the block, in its thread; all are freed when it ends.

    They are used where there are no gradients. A weight that is changed in the block (other adapters, a merge, a step
    of training) is computed anew. Weights that are sharded or offloaded, and those of a compiled module, are not kept.

    Args:
        module: The module that runs in the block.
        cache: As `cache_bytes` takes it.

    Raises:
        ZooError: as `cache_bytes`.
    """
    kept = KeptWeights(cache_bytes(cache), module)
    if not kept.limit:
        yield kept
        return
    try:
        with keeping_dense(kept):
            yield kept
    finally:
        kept.clear()
