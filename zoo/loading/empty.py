"""Let constructors create parameters without values, in one thread: other threads' modules are as ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import is_lazy
from torch.utils.weak import WeakIdKeyDictionary

Empty = Callable[[nn.Parameter], nn.Parameter]


class _Block(NamedTuple):
    """How a parameter of one block becomes empty, and the empty ones by the parameters in whose place they are."""

    empty: Empty
    made: WeakIdKeyDictionary


_block: ContextVar[_Block | None] = ContextVar("block", default=None)


@contextmanager
def meta_parameters() -> Iterator[None]:
    """Create parameters on `meta` in the block; buffers are real, because nothing would fill them later.

    accelerate's `init_empty_weights` creates a new parameter at every assignment, and so unties shared ones.
    """

    def on_meta(parameter: nn.Parameter) -> nn.Parameter:
        return nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=parameter.requires_grad)

    with parameters_as(on_meta):
        yield


@contextmanager
def parameters_as(empty: Empty) -> Iterator[None]:
    """Register in the block, for each new parameter, what `empty` returns for it; shared ones stay shared.

    Only in the block's own thread.
    """
    token = _block.set(_Block(empty, WeakIdKeyDictionary()))
    try:
        yield
    finally:
        _block.reset(token)


def _emptied(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
    """Return the empty parameter to register in the place of another, or None to leave it."""
    block = _block.get()
    if block is None or parameter is None or is_lazy(parameter) or parameter.is_meta:
        return None
    made = block.made
    if parameter not in made:
        made[parameter] = block.empty(parameter)
        made[parameter].__dict__.update(parameter.__dict__)
    return made[parameter]


# torch's own hook, once for the process and for good: torch walks over its hooks whenever a parameter is registered,
# in any thread, so that adding and removing one for each block would break a walk that goes on elsewhere.
register_module_parameter_registration_hook(_emptied)  # type: ignore[arg-type]
