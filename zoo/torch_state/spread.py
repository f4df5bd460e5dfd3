"""Work that is done in parts, by several processes that all get all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

P = TypeVar("P")
R = TypeVar("R")

_processes: ContextVar[tuple[int, int]] = ContextVar("processes", default=(0, 1))


class _Failed(NamedTuple):
    """An exception of one process, which all raise."""

    error: Exception


@contextmanager
def spreading(process: int, processes: int) -> Iterator[None]:
    """Let `spread` share its work in the block, which all the processes go through in the same way."""
    token = _processes.set((process, processes))
    try:
        yield
    finally:
        _processes.reset(token)


def pieces(count: int, most: int) -> list[slice]:
    """Return 0 to `count` in pieces of at most `most`, for `spread`: one for each process at least, if they suffice."""
    _, processes = _processes.get()
    size = max(1, min(most, -(-count // processes)))
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def spread(parts: Iterable[P], compute: Callable[[P], R]) -> list[R]:
    """Return `[compute(part) for part in parts]`, in the order of the parts.

    Where several processes evaluate a model together, each computes some of the parts, and all get the results of all:
    what is made of these is the same in each of them, and the same as in one process alone. `compute` should return
    little (numbers of each example, not logits), and draw from no generator but its own. Where there are several
    processes, tensors arrive on the CPU.

    Args:
        parts: the same in every process, such as ranges of the examples.
        compute: the result of a part; it depends on nothing else.

    >>> spread(range(3), lambda part: part * part)
    [0, 1, 4]
    """
    process, processes = _processes.get()
    if processes == 1:
        return [compute(part) for part in parts]
    import torch.distributed
    from torch.utils._pytree import tree_map_only

    found: list[Any] = []
    try:
        own = [compute(part) for number, part in enumerate(parts) if number % processes == process]
        found = tree_map_only(torch.Tensor, lambda tensor: tensor.cpu(), own)
    except Exception as error:  # or the others would wait for this process
        found = [_Failed(error)]
    gathered: list[Any] = [None] * processes
    torch.distributed.all_gather_object(gathered, found)
    failed = next((part[0] for part in gathered if part and isinstance(part[0], _Failed)), None)
    if failed is not None:
        raise failed.error
    total = sum(len(part) for part in gathered)
    return [gathered[number % processes][number // processes] for number in range(total)]
