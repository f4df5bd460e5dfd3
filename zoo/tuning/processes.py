"""Accelerate for one run: precision, gradient scaling and other processes, with its global state restored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import Parameter

from zoo.errors import TuningError

if TYPE_CHECKING:
    from accelerate import Accelerator

PRECISIONS = ("no", "bf16", "fp16")


@contextmanager
def own_accelerator(
    device: torch.device, precision: str | None, gradient_accumulation_steps: int
) -> Iterator[Accelerator]:
    """Yield an Accelerator of our own for a model on `device`.

    Accelerate keeps one state for the whole process: the first Accelerator decides its device and precision. The
    caller's earlier one goes on as it was when the block ends, and where there was none, a later one can still decide.

    Args:
        device: where the model is.
        precision: "no", "bf16" or "fp16"; None: the caller's, or that of `accelerate launch`, or else "no".
        gradient_accumulation_steps: batches in one optimizer step.

    Raises:
        TuningError: the precision does not exist, accelerate cannot run here, or it is set to shard the model.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState
    from accelerate.utils import GradientAccumulationPlugin

    if precision is not None and precision not in PRECISIONS:
        raise TuningError(f"expected a precision of {', '.join(PRECISIONS)}, got {precision!r}")
    states = [kind._shared_state for kind in (PartialState, AcceleratorState, GradientState)]
    before = [dict(state) for state in states]
    precision = precision or before[1].get("_mixed_precision")
    for state in states:
        state.clear()  # in place: the caller's objects hold this very dict
    try:
        try:
            accelerator = Accelerator(
                cpu=device.type == "cpu",
                mixed_precision=precision,
                # given, so that a variable of the environment does not divide the loss once more
                gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=gradient_accumulation_steps),
            )
        except (ValueError, ImportError, RuntimeError) as error:
            raise TuningError(f"accelerate cannot run on {device} here: {' '.join(str(error).split())}") from error
        if accelerator.distributed_type not in {"NO", "MULTI_CPU", "MULTI_GPU", "MULTI_XPU", "MULTI_NPU"}:
            raise TuningError(
                f"expected one process or data parallel ones, got {accelerator.distributed_type.value}: "
                "launch with `accelerate launch --multi_gpu`, or shard the module yourself and write your own loop"
            )
        yield accelerator
    finally:
        for state, kept in zip(states, before, strict=True):
            state.clear()
            state.update(kept)


def same_everywhere(accelerator: Accelerator, parameters: Sequence[Parameter]) -> None:
    """Broadcast the first process's values: new factors may have been drawn differently."""
    if accelerator.num_processes > 1:
        from accelerate.utils import broadcast

        with torch.no_grad():
            for parameter in parameters:
                parameter.copy_(broadcast(parameter.detach().clone()))


def average_gradients(accelerator: Accelerator, parameters: Iterable[Parameter]) -> None:
    """Replace every gradient by its mean over the processes.

    What trains is small (factors), and losses call the module as they like, so one reduction after the backward pass
    replaces a wrapper around the module. A parameter that some process did not use counts as zero there.
    """
    if accelerator.num_processes == 1:
        return
    kinds: dict[torch.dtype, list[Parameter]] = {}
    for parameter in parameters:
        kinds.setdefault(parameter.dtype, []).append(parameter)
    for group in kinds.values():
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in group]
        flat: Any = accelerator.reduce(torch.cat([gradient.flatten() for gradient in gradients]), "mean")
        for parameter, part in zip(group, flat.split([p.numel() for p in group]), strict=True):
            parameter.grad = part.view_as(parameter).clone()


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
