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
    """Return a new LoRA's configuration with the ranks of a vocabulary's weights: min(8 · rank, d / 3).

    d is the smaller side. The ranks are in `rank_pattern`, where PEFT reads them. A path that it matches already stays
    as it is, and no rank becomes lower. The update's scale stays.

    Args:
        config: any adapter's; other kinds are returned as they are.
        groups: the module's parameters.
    """
    if not isinstance(config, LoRA):
        return config
    ranks, alphas = dict(config.rank_pattern), dict(config.alpha_pattern)
    for group in _vocabulary(match_weights(groups, config.targets), groups):
        path = group.name.removesuffix(".weight")
        rank = min(TIMES * config.rank, min(group.value.shape) // SHARE)
        rank -= rank % 2  # which "orthogonal" needs
        if rank <= config.rank or any(endmatch(pattern, path) for pattern in config.rank_pattern):
            continue
        own = "^" + re.escape(path)
        ranks[own] = rank
        if not any(endmatch(pattern, path) for pattern in config.alpha_pattern):
            times = rank / config.rank
            alphas[own] = config.alpha * (math.sqrt(times) if config.rslora else times)
    return replace(config, rank_pattern=ranks, alpha_pattern=alphas) if ranks != config.rank_pattern else config


def _vocabulary(chosen: list[TiedGroup], groups: list[TiedGroup]) -> list[TiedGroup]:
    """Return the chosen weights that are tables, or a matrix with an output for each row of the longest one.

    A table is what a layer looks rows up in, whatever else uses it, such as a tied head.
    """
    tables = {id(group) for group in groups if len(group.value.shape) == 2 and group.layout.zero_first}
    rows = max((group.value.shape[0] for group in groups if id(group) in tables), default=0)
    return [
        group
        for group in chosen
        if id(group) in tables
        or (len(group.value.shape) == 2 and group.layout.matrix(group.value.shape)[0] == rows > min(group.value.shape))
    ]
