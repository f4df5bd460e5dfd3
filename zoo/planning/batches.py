"""A batch of a model's data for a plan, of which only the shapes count."""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from zoo.errors import DataError, ZooError
from zoo.model import Model

LOOKED_AT = 16  # batches, where one is not as the next
LENGTHS = (512, 256, 128, 64, 32)  # tokens in a row where none are asked for; the first that the model takes


def example_batches(model: Model, data: Any, batch_size: int, length: int | None) -> list[Any]:
    """Return one batch as the model's plugin makes it, or several where they are not all alike.

    They are not where their sizes differ, as of graphs; or where a batch says what falls due with it, as in adversarial
    training.

    Args:
        model: the model; its files need not be there.
        data: what to make it of; None: the plugin's own data, or token ids where these need files that are not there.
        batch_size: items in it.
        length: tokens in each row of a model of token ids; None: as the data are.

    Raises:
        DataError: the plugin makes no batch of this.
    """
    if data is None and length is not None:
        return _of_tokens(model, batch_size, length)
    try:
        return _first(model, data, batch_size)
    except ZooError as error:
        if data is not None:
            raise
        for one in LENGTHS:
            try:
                return _of_tokens(model, batch_size, one)
            except ZooError:
                continue
        raise DataError(f"{model.entry.name}: there is no batch to plan with ({error}): give data=") from error


def _of_tokens(model: Model, batch_size: int, length: int) -> list[Any]:
    # Ids that every vocabulary has; as many rows again are held out.
    return _first(model, torch.arange(2 * batch_size * length).view(-1, length) % 5 + 1, batch_size)


def _first(model: Model, data: Any, batch_size: int) -> list[Any]:
    drawn = iter(model.batches(data, batch_size=batch_size))
    found = list(islice(drawn, 2))
    if not found:
        raise DataError(f"{model.entry.name}: there is no batch of {batch_size} in the data: give a smaller batch_size")
    if len({_shapes(batch) for batch in found}) == len({_rest(batch) for batch in found}) == 1:
        return found[:1]
    found += islice(drawn, LOOKED_AT - len(found))
    # The largest; and what falls due every second, fourth, … time.
    due = [found[place - 1] for place in (1, 2, 4, 8, 16) if place <= len(found)]
    return [max(found, key=_size), *(due if len({_rest(batch) for batch in found}) > 1 else [])]


def _shapes(batch: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(each.shape) for each in tree_leaves(batch) if isinstance(each, Tensor))


def _rest(batch: Any) -> str:
    """Return all that is in a batch beside tensors, as text."""
    return repr([each for each in tree_leaves(batch) if not isinstance(each, Tensor)])


def _size(batch: Any) -> int:
    return sum(each.numel() * each.element_size() for each in tree_leaves(batch) if isinstance(each, Tensor))
