"""One rule for all data that have no splits of their own: which examples are held out."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Sequence

from zoo.data.spec import HOLD_OUT


def held_out(
    groups: Sequence[Hashable],
    *,
    labels: Sequence[Hashable] | None = None,
    sizes: Sequence[float] | None = None,
    share: float = HOLD_OUT,
    seed: int = 0,
) -> list[bool]:
    """Return for each of n examples whether it is held out: whole groups, drawn by the seed, evenly over the labels.

    Of two groups or more at least one is held out, unless the share is 0, and at least one is not. The order of the
    examples changes nothing.

    Args:
        groups: the group of each example, which stays together; equal examples should be of one group.
        labels: the class of each example, of which each gives its part.
        sizes: what each example counts; None: 1.
        share: of all that is counted.
        seed: of the draw.

    >>> sum(held_out(range(200), labels=[i % 4 for i in range(200)]))
    20
    """
    weight: dict[Hashable, float] = defaultdict(float)
    label: dict[Hashable, Hashable] = {}
    for i, group in enumerate(groups):
        weight[group] += 1 if sizes is None else sizes[i]
        label.setdefault(group, None if labels is None else labels[i])
    if len(weight) < 2 or share == 0:
        return [False] * len(groups)
    ranked = sorted(weight, key=lambda group: rank(group, seed))
    order = _evenly(ranked, weight, label, seed)
    room, chosen = share * sum(weight.values()), set[Hashable]()
    for group in order:
        if len(chosen) < len(weight) - 1 and (weight[group] / 2 <= room or not chosen):
            chosen.add(group)
            room -= weight[group]
    return [group in chosen for group in groups]


def rank(group: Hashable, seed: int = 0) -> float:
    """Return a number in [0, 1) that depends on nothing but the group and the seed: of a stream, the lowest are out."""
    value = group if isinstance(group, bytes) else repr(group).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(str(seed).encode() + b"\0" + value, digest_size=8).digest(), "big") / 2**64


def _evenly(
    ranked: list[Hashable], weight: dict[Hashable, float], label: dict[Hashable, Hashable], seed: int
) -> list[Hashable]:
    """Return the groups in an order in which every label comes in its share all along."""
    total: dict[Hashable, float] = defaultdict(float)
    for group in ranked:
        total[label[group]] += weight[group]
    seen: dict[Hashable, float] = defaultdict(float)
    place = {}
    for group in ranked:
        own = label[group]
        place[group] = (seen[own] + weight[group] / 2) / (total[own] or 1)
        seen[own] += weight[group]
    return sorted(ranked, key=lambda group: (place[group], rank(group, seed)))
