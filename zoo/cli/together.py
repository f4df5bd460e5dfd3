"""Commands in several processes, as torchrun and `accelerate launch` start them: they share the work, one prints."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@contextmanager
def together(device: torch.device) -> Iterator[bool]:
    """Share the work in the block with the other processes, if there are some; yield whether this one prints.

    Processes that share the weights all do the same work, as each weight is gathered from all of them.
    """
    from zoo.torch_state.spread import spreading
    from zoo.tuning.sharding import asked, join

    process, processes = join(device)
    try:
        with spreading(process, 1 if processes > 1 and asked() else processes):
            yield process == 0
    finally:
        if processes > 1:
            import torch.distributed

            torch.distributed.destroy_process_group()


def common_seed(seed: int | None) -> int | None:
    """Return the seed; where several processes draw together and none is given, one that is the same in all of them."""
    if seed is not None or os.environ.get("WORLD_SIZE", "1") == "1":
        return seed
    import torch.distributed

    drawn = [random.randrange(2**63)]
    torch.distributed.broadcast_object_list(drawn)
    return drawn[0]
