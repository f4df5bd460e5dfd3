"""Accelerate for one run: precision, gradient scaling and other processes, with its global state restored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.errors import TuningError
from zoo.tuning.sharding import asked

if TYPE_CHECKING:
    from accelerate import Accelerator

PRECISIONS = ("no", "bf16", "fp16")


@contextmanager
def own_accelerator(device: torch.device, precision: str | None) -> Iterator[tuple[Accelerator, bool]]:
    """Yield an Accelerator of our own for a model on `device`, and whether the model is to be sharded.

    Accelerate keeps one state for the whole process: the first Accelerator decides its device and precision. The
    caller's earlier one goes on as it was when the block ends, and where there was none, a later one can still decide.

    Args:
        device: where the model is.
        precision: "no", "bf16" or "fp16"; None: the caller's, or that of `accelerate launch`, or else "no".

    Raises:
        TuningError: the precision does not exist, accelerate cannot run here, or it is set to shard otherwise.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState
    from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin

    if precision is not None and precision not in PRECISIONS:
        raise TuningError(f"expected a precision of {', '.join(PRECISIONS)}, got {precision!r}")
    states = [kind._shared_state for kind in (PartialState, AcceleratorState, GradientState)]
    before = [dict(state) for state in states]
    plugin = before[1].get("fsdp_plugin")
    shards = asked(plugin)
    precision = precision or before[1].get("_mixed_precision")
    for state in states:
        state.clear()  # in place: the caller's objects hold this very dict
    try:
        try:
            accelerator = Accelerator(
                cpu=device.type == "cpu",
                mixed_precision=precision,
                # One, whatever a variable of the environment says: the loop weighs the batches of a step itself.
                gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
                fsdp_plugin=plugin,
                kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
            )
        except (ValueError, ImportError, RuntimeError) as error:
            raise TuningError(f"accelerate cannot run on {device} here: {' '.join(str(error).split())}") from error
        if accelerator.distributed_type not in {"NO", "MULTI_CPU", "MULTI_GPU", "MULTI_XPU", "MULTI_NPU", "FSDP"}:
            raise TuningError(
                f"expected one process, DDP or FSDP2, got {accelerator.distributed_type.value}: launch with `torchrun` "
                "or, to shard the model, with `accelerate launch --use_fsdp --fsdp_version 2`"
            )
        yield accelerator, shards
    finally:
        for state, kept in zip(states, before, strict=True):
            state.clear()
            state.update(kept)


def same_everywhere(accelerator: Accelerator, tensors: Iterable[Tensor]) -> None:
    """Give tensors, such as running means, the first process's values in every process."""
    if accelerator.num_processes > 1:
        for tensor in tensors:
            torch.distributed.broadcast(tensor.detach(), 0)


def mean(accelerator: Accelerator, values: Tensor) -> list[float]:
    """Return the mean of `values` [k] over the processes."""
    if accelerator.num_processes > 1:
        values = accelerator.reduce(values, "mean")
    return [float(value) for value in values.tolist()]


def gathered(accelerator: Accelerator, item: Any) -> list[Any]:
    """Return `item` of every process, in order, in every process."""
    if accelerator.num_processes == 1:
        return [item]
    from accelerate.utils import gather_object

    found: list[Any] = gather_object([item])
    return found


def summed(accelerator: Accelerator, digest: int, modulus: int) -> int:
    """Return the sum over the processes."""
    return sum(gathered(accelerator, digest)) % modulus
