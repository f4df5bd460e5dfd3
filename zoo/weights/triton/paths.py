"""Whether the Triton kernels are in force on a device, and if not, why not. Importing this imports no triton."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from zoo.weights.triton.interpreter import INTERPRETER, interpreting

SWITCH = "ZOO_TRITON"  # environment variable: 0 turns the kernels off
OLDEST = (8, 0)  # CUDA capability: the first with bfloat16


class KernelPath(NamedTuple):
    """Which kernels serve packed weights on a device.

    Attributes:
        name: "triton" or "torch".
        reason: Why, in words: triton's version, or what is missing.
    """

    name: str
    reason: str

    def __str__(self) -> str:
        """Return both in one line."""
        return f"{self.name}: {self.reason}"


_reasons: dict[str, str] = {}  # device type → why torch's path is in force, "" if triton's is
_off = os.environ.get(SWITCH, "") == "0"


def enabled(device: torch.device) -> bool:
    """Return whether the Triton kernels are in force on `device`; decided at the first call for a type of device.

    That a CUDA device has to do without, unless somebody chose so, is logged as a warning of `zoo`, once.
    """
    return not (_off or _reason(device.type))


@torch.compiler.assume_constant_result  # what decides cannot be traced
def _reason(kind: str) -> str:
    reason = _reasons.get(kind)
    return _decide(kind) if reason is None else reason


def kernel_path(device: torch.device | str | None = None) -> KernelPath:
    """Return which kernels serve packed weights on a device: fused ones in Triton, or torch's with bitsandbytes'.

    Args:
        device: A device or its type; default CUDA.
    """
    chosen = torch.device("cuda" if device is None else device)
    if enabled(chosen):
        import triton

        where = " (its interpreter)" if interpreting() else ""
        return KernelPath("triton", f"triton {triton.__version__}{where}")
    return KernelPath("torch", _reason(chosen.type) or f"turned off by {SWITCH}=0 or torch_only()")


@contextmanager
def torch_only() -> Iterator[None]:
    """Turn the Triton kernels off in the block, in every thread: for comparisons."""
    global _off
    before, _off = _off, True
    try:
        yield
    finally:
        _off = before


def _decide(kind: str) -> str:
    reason = _missing(kind)
    if not reason:
        try:
            import zoo.weights.triton.ops  # noqa: F401 - registers the operators
        except Exception as error:  # whatever a triton that does not fit this torch or machine raises
            reason = f"triton cannot be used: {type(error).__name__}: {error}"
    _reasons[kind] = reason
    if reason and kind == "cuda" and torch.cuda.is_available() and not _off:
        logging.getLogger("zoo").warning("packed weights use torch's kernels on CUDA, not the fused ones: %s", reason)
    return reason


def _missing(kind: str) -> str:
    """Return what is missing for the kernels on a type of device; "" if nothing is."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if interpreting():
        return "" if kind == "cpu" else f"{INTERPRETER}=1 runs kernels on the CPU only"
    if kind != "cuda":
        return f"the kernels are for CUDA, not for {kind!r}"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    capability = torch.cuda.get_device_capability()
    return "" if capability >= OLDEST else f"the card's CUDA capability is {capability}, expected {OLDEST} or more"
