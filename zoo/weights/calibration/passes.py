"""Run a module on batches: always in the same way, and only as far as it is needed."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import DataError, ZooError, one_line
from zoo.torch_state.modes import evaluating
from zoo.torch_state.rng import preserve_rng, seed_everything
from zoo.weights.calibration.norms import Norms
from zoo.weights.calibration.observe import Observer
from zoo.weights.calibration.outputs import Sketch, sketch
from zoo.weights.calibration.watch import FinishedEarly, Watch
from zoo.weights.walk import TiedGroup


class Passes:
    """Runs of a module on all batches.

    Attributes:
        counts: How often each weight was used, for each batch; by `reference`.
    """

    def __init__(
        self,
        module: nn.Module,
        calls: Sequence[Callable[[], Any]],
        groups: Sequence[TiedGroup],
        seed: int,
        norms: bool,
    ) -> None:
        """Prepare runs; see `steady` for what has to be around them.

        Args:
            module: the module.
            calls: each runs it on one batch.
            groups: its weights.
            seed: of what it draws.
            norms: whether batch norms are followed.
        """
        self._calls, self._groups, self._seed = calls, groups, seed
        self._norms = Norms(module) if norms else None
        self._buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
        self._grad = False
        self._watch = Watch()
        self.counts: list[Counter[str]] = []

    def reference(self) -> list[Sketch]:
        """Run the module as it is before quantization; return its outputs."""
        found = []
        for k in range(len(self._calls)):
            try:
                found.append(sketch(self._run(k)))
            except ZooError as error:
                if self._grad or not _lacks_grad(error):
                    raise
                self._grad = True  # such as a potential, whose forces are gradients
                found.append(sketch(self._run(k)))
            self.counts.append(self._watch.counts)
        if self._norms is not None:
            self._norms.follows = True
        return found

    @property
    def order(self) -> list[str]:
        """The weights' names in the order of their first use."""
        return list(self._watch.order)

    def gather(self, weights: Mapping[str, Tensor]) -> Observer:
        """Observe weights in runs of the module as it is now; each ends when all of them have been used."""
        observer = Observer(weights)
        for early in (True, False):
            for k in range(len(self._calls)):
                wanted = {name: self.counts[k][name] for name in weights} if early else None
                self._run(k, observer, wanted)
                observer.forget_copies()
            unseen = [name for name in weights if not observer.sites[name] and name not in observer.looked_up]
            if not unseen:
                break
            if early:  # perhaps it is used in another place than before
                observer = Observer(weights)
        return observer

    def final(self) -> tuple[list[Sketch], list[str]]:
        """Run the quantized module, correct its batch norms; return its outputs and the corrected running means."""
        if self._norms is not None:
            self._norms.clear()
        found = [sketch(self._run(k)) for k in range(len(self._calls))]
        self._restore()
        corrected = [] if self._norms is None else list(self._norms.apply())
        return found, corrected

    def _run(self, k: int, observer: Observer | None = None, wanted: Mapping[str, int] | None = None) -> Any:
        self._restore()
        self._watch.start(self._groups, wanted)
        if self._norms is not None:
            self._norms.start(k)
            self._norms.settled = lambda: wanted is not None and not self._watch.reached
        seed_everything(self._seed + k)
        with torch.set_grad_enabled(self._grad), self._norms or nullcontext(), observer or nullcontext(), self._watch:
            try:
                return self._calls[k]()
            except FinishedEarly:
                return None
            except ZooError:
                raise
            except Exception as error:
                raise DataError(
                    f"calibrate: the module fails on batch {k} of the data, {type(error).__name__}: {one_line(error)}; "
                    "expected what the module is called with"
                ) from error

    @torch.no_grad()
    def _restore(self) -> None:
        for buffer, value in self._buffers:
            buffer.copy_(value)


def _lacks_grad(error: BaseException | None) -> bool:
    """Return whether an error, or what it comes from, is torch's about a gradient that is not there."""
    if error is None:
        return False
    return (isinstance(error, RuntimeError) and "does not require grad" in str(error)) or _lacks_grad(error.__cause__)


@contextmanager
def steady(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Make runs of a module alike: evaluation mode, no fused kernels that hide products; all is put back on exit.

    The module's buffers and the global random state are put back too, the buffers only after an error.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    with ExitStack() as stack:
        stack.enter_context(preserve_rng(device))
        stack.enter_context(evaluating(module))
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        torch.backends.mha.set_fastpath_enabled(False)
        if "torch._dynamo" in sys.modules:  # compiled code would show no operations
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            yield
        except BaseException:
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)
            raise
