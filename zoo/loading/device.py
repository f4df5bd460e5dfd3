"""Choose the device and the compute dtype of a model."""

from __future__ import annotations

import os

import torch

from zoo.errors import ZooError

COMPUTE_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def pick_device(device: str | torch.device | None) -> torch.device:
    """Return the requested device; by default CUDA, then MPS, then CPU.

    Raises:
        ZooError: this machine has no such device.
    """
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda", _own_index(torch.cuda.current_device()))
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ZooError(f"device {device!r}: expected 'cpu', 'cuda', 'cuda:1', 'mps' or 'meta'") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ZooError(f"device {device!r}: torch sees {torch.cuda.device_count()} CUDA devices; use device='cpu'")
    try:
        probe = torch.empty(0, device=chosen)
    except Exception as error:  # each missing backend raises its own error
        raise ZooError(f"device {device!r} is not there; use device='cpu'") from error
    if chosen.type != "cuda":
        return chosen if chosen.type == "mps" else probe.device
    return torch.device("cuda", _own_index(0) if chosen.index is None else chosen.index)


def _own_index(default: int) -> int:
    """Return which GPU is this process's, where torchrun or accelerate has started one for each; else `default`."""
    rank = os.environ.get("LOCAL_RANK") if os.environ.get("WORLD_SIZE", "1") != "1" else None
    return default if rank is None else int(rank) % torch.cuda.device_count()


def pick_dtype(dtype: torch.dtype | str | None, device: torch.device) -> torch.dtype:
    """Return the requested compute dtype; by default bfloat16 on a GPU that has it, else float32.

    Raises:
        ZooError: it is not one of `COMPUTE_TYPES`.
    """
    if dtype is None:
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if has_bf16 else torch.float32
    chosen = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if chosen not in COMPUTE_TYPES:
        known = ", ".join(str(each).removeprefix("torch.") for each in COMPUTE_TYPES)
        raise ZooError(f"dtype {dtype!r}: expected one of {known}")
    return chosen
