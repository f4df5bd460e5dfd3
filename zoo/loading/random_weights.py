"""A model's weights as its library initialises them, in the place of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from zoo.catalog.entry import Entry
from zoo.errors import CheckpointError
from zoo.loading.buffers import constructed
from zoo.torch_state.modes import seeded
from zoo.weights.walk import index_module


def initial_tensors(entry: Entry, seed: int | None) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor) of the parameters and persistent buffers that the entry's module begins with.

    Args:
        entry: what to construct.
        seed: of everything that the library draws; None: torch's global generator, which then moves on.

    Raises:
        CheckpointError: the plugin leaves a parameter on `meta`.
    """
    with seeded(seed):
        index = index_module(constructed(entry))
    for group in index.groups:
        assert isinstance(group.value, nn.Parameter)
        if group.value.is_meta:
            raise CheckpointError(f"{entry.name!r}: {group.name} has no initial value; load it with a checkpoint")
        yield group.name, group.value.detach()
    for name, (layer, attribute, persistent) in index.buffers.items():
        buffer = layer._buffers[attribute]
        if persistent and buffer is not None:
            yield name, buffer
