"""A strict accelerator in Python, device "sim": what would fail or wait on a GPU fails or is counted without one.

Its tensors hold their values on the CPU and are computed by the CPU's own kernels, so figures are the CPU's to the last
digit. Refused is what CUDA refuses: one operation over two devices, `.numpy()`, a generator of another device. Counted,
with the lines of code that made them, are the times that the host waits for the device:

    >>> import torch
    >>> from zoo.testing.strict import strict_accelerator
    >>> with strict_accelerator() as waits:
    ...     total = torch.ones(2, 3, device="sim").sum()
    ...     assert total.device == torch.device("sim:0")
    ...     assert total.item() == 6.0
    >>> len(waits.synchronisations)
    1

Imports: torch alone. Start with `tensor.py`, then `rules.py`.
"""

from __future__ import annotations

from zoo.testing.strict.device import NAME, register, strict_accelerator
from zoo.testing.strict.log import DeviceError, Event, Waits

__all__ = ["NAME", "DeviceError", "Event", "Waits", "register", "strict_accelerator"]
