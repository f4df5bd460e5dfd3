"""The device "sim" of torch: its registration, its module `torch.sim`, its generators, and the block that counts."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import _engine_run_backward

from zoo.testing.strict import log
from zoo.testing.strict.autocast import register_autocast
from zoo.testing.strict.log import Waits
from zoo.testing.strict.tensor import NAME, SIM_GENERATORS, register_kernels

_lock = threading.Lock()
_libraries: list[torch.library.Library] = []  # their kernels last as long as they do


@contextmanager
def strict_accelerator() -> Iterator[Waits]:
    """Count in the block how often the host waits for the device "sim", which is registered if it is not yet.

    Blocks may be nested, and count what all threads do. The device works outside of them too; nothing is counted then.

    Raises:
        RuntimeError: see `register`.
    """
    register()
    waits = Waits()
    log.begin(waits)
    try:
        yield waits
    finally:
        log.end(waits)


def register() -> None:
    """Make torch know the device "sim", once in a process: `torch.ones(2, device="sim")`, `module.to("sim")`.

    It is also `torch.accelerator`'s from then on. Random numbers on it come from the CPU's generator, so that they are
    those that the CPU draws.

    Raises:
        RuntimeError: the process has another device of torch's kind "privateuseone" already.
    """
    with _lock:
        if _libraries:
            return
        from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

        taken = torch._C._get_privateuse1_backend_name()
        if taken != "privateuseone":
            raise RuntimeError(f"torch can have one device of a Python's or an extension's, and has {taken!r} already")
        _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
        factories, casts, others = (torch.library.Library(name, "IMPL") for name in ("aten", "aten", "_"))
        register_kernels(factories)
        register_autocast(casts)
        torch.Generator = Generator  # type: ignore[misc]
        torch.Tensor.pin_memory = _pinned  # type: ignore[method-assign, assignment]
        torch.autograd._engine_run_backward = _run_backward  # type: ignore[assignment]
        others.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
        _libraries.extend((factories, casts, others))


class _Module:
    """`torch.sim`, what libraries ask of a device's module, after `torch.cuda`."""

    def is_available(self) -> bool:
        """Return True."""
        return True

    def is_initialized(self) -> bool:
        """Return True."""
        return True

    def _is_in_bad_fork(self) -> bool:
        return False

    def device_count(self) -> int:
        """Return 1."""
        return 1

    def current_device(self) -> int:
        """Return 0."""
        return 0

    def set_device(self, device: Any) -> None:
        """Do nothing: there is one."""

    def synchronize(self, device: Any = None) -> None:
        """Wait for the device, which is written down."""
        log.synchronised("synchronize")

    def empty_cache(self) -> None:
        """Do nothing."""

    def get_rng_state(self, device: Any = None) -> Tensor:
        """Return the state of the generator that the device draws from."""
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        """Set it."""
        torch.set_rng_state(state)

    def initial_seed(self) -> int:
        """Return its seed."""
        return torch.initial_seed()

    def manual_seed(self, seed: int) -> None:
        """Do nothing: `torch.manual_seed`, which calls this, seeds the CPU's."""

    def manual_seed_all(self, seed: int) -> None:
        """Do nothing, as `manual_seed`."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """Return the types that autocast may cast to."""
        return [torch.bfloat16, torch.float16]

    def is_bf16_supported(self) -> bool:
        """Return True."""
        return True


class _AnyGenerator(type(torch._C.Generator)):  # type: ignore[misc]
    """Of which every generator is an instance, those included that were made before."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, torch._C.Generator)


class Generator(torch._C.Generator, metaclass=_AnyGenerator):
    """`torch.Generator`, which can be of the device "sim" too."""

    def __new__(cls, device: Any = "cpu") -> torch._C.Generator:  # type: ignore[misc]
        """Return a generator of the device."""
        if torch.device(device).type != NAME:
            return torch._C.Generator(device)
        made: Any = torch._C.Generator.__new__(cls, "cpu")  # type: ignore[call-arg]
        weakref.finalize(made, SIM_GENERATORS.discard, made._cdata)
        SIM_GENERATORS.add(made._cdata)
        return made

    def __init__(self, device: Any = "cpu") -> None:
        pass

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """The device."""
        return torch.device(NAME, 0)


def _run_backward(outputs: Any, *args: Any, **kwargs: Any) -> Any:
    """Run a backward pass in the thread that asks for it.

    Autograd has a thread for each device that it knew at its first backward pass, and aborts the process where another
    device comes later. In the same thread the lines that led to a synchronisation can be named, too.
    """
    with torch.autograd.set_multithreading_enabled(False):
        return _engine_run_backward(outputs, *args, **kwargs)


def _pinned(tensor: Tensor, *args: Any) -> Tensor:
    """Return a copy, as `Tensor.pin_memory` does; there is no device that would gain from it."""
    return tensor.clone()
