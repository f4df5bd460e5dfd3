"""The rank of LoRA for the tables of a vocabulary.

A step changes a table's rows by the tokens of a batch, each in a direction of its own; rank 8 holds few of them. On the
small models here a table at eight times the rank is worth more than all other weights at twice theirs.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace

from zoo.bounded.patterns import endmatch
from zoo.methods.config import Adapter, LoRA
from zoo.methods.targets import match_weights
from zoo.weights.walk import TiedGroup

TIMES = 8  # the rank of other weights
SHARE = 3  # of the table's smaller dimension, beyond which its factors have little less to store than it has


def with_table_ranks(config: Adapter, groups: list[TiedGroup]) -> Adapter:
    """Return a new LoRA's configuration with the ranks of tables in `rank_pattern`: min(8 · rank, d / 3).

    d is the table's smaller dimension. A table is what a layer looks rows up in, whatever else uses it, such as a tied
    head; a path that `rank_pattern` matches stays as it is, and no rank becomes lower. The update's scale stays.

    Args:
        config: any adapter's; other kinds are returned as they are.
        groups: the module's parameters.
    """
    if not isinstance(config, LoRA):
        return config
    ranks, alphas = dict(config.rank_pattern), dict(config.alpha_pattern)
    for group in match_weights(groups, config.targets):
        path, shape = group.name.removesuffix(".weight"), group.value.shape
        rank = min(TIMES * config.rank, min(shape) // SHARE)
        rank -= rank % 2  # which "orthogonal" needs
        if len(shape) != 2 or rank <= config.rank or not group.lazy().layout.zero_first:
            continue
        if any(endmatch(pattern, path) for pattern in config.rank_pattern):
            continue
        own = "^" + re.escape(path)
        ranks[own] = rank
        if not any(endmatch(pattern, path) for pattern in config.alpha_pattern):
            times = rank / config.rank
            alphas[own] = config.alpha * (math.sqrt(times) if config.rslora else times)
    return replace(config, rank_pattern=ranks, alpha_pattern=alphas) if ranks != config.rank_pattern else config
