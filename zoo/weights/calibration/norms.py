"""Follow batch norms: what quantization changes in their inputs' statistics is added to the running ones.

The running statistics are those of the training data, which few batches do not know well: taking them anew from the
batches alone destroys a network. But the batches do tell how the statistics of their own inputs move when weights are
quantized, and that is what is corrected: the mean by the difference, the variance by the ratio. Corrections are in
force while later ones are measured, batch by batch, so that no shift is counted twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
# Batch norms → the position of the running mean among the arguments, and of the flag `training` if there is one.
NORMS: dict[Any, tuple[int, int | None]] = {
    aten.native_batch_norm.default: (3, 5),
    aten._native_batch_norm_legit.default: (3, 5),
    aten._native_batch_norm_legit_no_training.default: (3, None),
    aten._batch_norm_no_update.default: (3, None),
    aten.cudnn_batch_norm.default: (3, 5),
    aten.miopen_batch_norm.default: (3, 5),
}
FEWEST = 8  # values of a channel in a batch: with fewer, statistics say nothing
MOST = 4.0  # times that a variance is corrected by


class Moments(NamedTuple):
    """The mean and variance of each channel, float32 (channels,)."""

    mean: Tensor
    var: Tensor


class Norms(TorchDispatchMode):
    """Watches the batch norms of a module that use running statistics.

    Attributes:
        follows: Whether statistics are compared and corrected; before, they are only remembered.
        batch: The number of the batch that is running.
        settled: Whether all that was computed in this run so far will be the same in later ones.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.follows = False
        self.batch = 0
        self.settled: Callable[[], bool] = lambda: False
        self._names = {buffer.data_ptr(): name for name, buffer in module.named_buffers() if buffer.numel()}
        self._reference: dict[tuple[int, int, int], Moments] = {}  # (norm, batch, call) → of full precision
        self._calls: dict[int, int] = {}
        self._settled: dict[tuple[int, int, int], Moments] = {}
        self._shifts: dict[int, list[Moments]] = {}  # norm → of every batch, what the running ones become
        self._running: dict[int, tuple[Tensor, Tensor]] = {}

    def start(self, batch: int) -> None:
        """Begin a run of the module."""
        self.batch, self._calls = batch, {}

    def clear(self) -> None:
        """Forget the corrections of the last pass."""
        self._shifts.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        place = NORMS.get(func)
        if place is not None and torch._C._current_graph_task_id() == -1:
            at, training = place
            if isinstance(args[at], Tensor) and not (training is not None and args[training]):
                args = self._followed(args, at)
        return func(*args, **(kwargs or {}))

    def _followed(self, args: tuple[Any, ...], at: int) -> tuple[Any, ...]:
        x, mean, var = args[0], args[at], args[at + 1]
        key = mean.data_ptr()
        if key not in self._names or x.numel() // x.shape[1] < FEWEST:
            return args
        call = self._calls[key] = self._calls.get(key, -1) + 1
        if not self.follows:
            self._reference[key, self.batch, call] = _moments(x)
            self._running[key] = (mean, var)
            return args
        corrected = self._settled.get((key, self.batch, call))
        if corrected is None:
            reference = self._reference.get((key, self.batch, call))
            if reference is None:  # a part that did not run in full precision
                return args
            now = _moments(x)
            tiny = 1e-6 * reference.var.mean() + torch.finfo(torch.float32).tiny
            ratio = ((now.var + tiny) / (reference.var + tiny)).clamp(1 / MOST, MOST)
            corrected = Moments(mean.float() + now.mean - reference.mean, var.float() * ratio)
            if self.settled():
                self._settled[key, self.batch, call] = corrected
        self._shifts.setdefault(key, []).append(corrected)
        return (*args[:at], corrected.mean.to(mean.dtype), corrected.var.to(var.dtype), *args[at + 2 :])

    def apply(self) -> Iterator[str]:
        """Write the corrected statistics, means over the last pass; yield the names of the running means."""
        for key, found in self._shifts.items():
            mean, var = self._running[key]
            mean.copy_(torch.stack([one.mean for one in found]).mean(0))
            var.copy_(torch.stack([one.var for one in found]).mean(0))
            yield self._names[key]


def _moments(x: Tensor) -> Moments:
    """Return the moments of the channels of a norm's input (batch, channels, …)."""
    x = x.detach().float()
    if x.device.type in ("cpu", "cuda"):  # several times as fast as var_mean
        return Moments(*torch.batch_norm_update_stats(x, None, None, 0.0))
    var, mean = torch.var_mean(x, dim=[0, *range(2, x.dim())], correction=0)
    return Moments(mean, var)
