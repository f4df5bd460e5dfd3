"""What an accelerator refuses, and when the host waits for it: the rules of CUDA in torch, operation by operation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# Operations of two devices.
COPIES = ("aten::_to_copy", "aten::copy_")
# Their indices may be on the CPU: they are copied to the device.
INDEXING = (
    "aten::index",
    "aten::_unsafe_index",
    "aten::index_put",
    "aten::index_put_",
    "aten::_index_put_impl_",
    "aten::_unsafe_index_put",
)
# Their CUDA kernels read a result back: how large it is, or whether all is well.
SYNCHRONISING = frozenset(
    f"aten::{name}"
    for name in (
        *("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "_unique", "_unique2"),
        *("unique_dim", "unique_consecutive", "unique_dim_consecutive", "bincount", "histc", "histogram"),
        *("multinomial", "_linalg_check_errors"),
    )
)
MASKS = (torch.bool, torch.uint8)


def synchronises(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Return whether the host waits for the device in an operation on it.

    Args:
        name: the operation's, as "aten::add".
        args: its positional arguments.
        kwargs: the others.
    """
    if name in SYNCHRONISING:
        return True
    if name == "aten::repeat_interleave":  # where the repeats are a tensor, their sum is the size
        return kwargs.get("output_size") is None
    if name in INDEXING:
        indices = [index for index in args[1] if index is not None]
        masks = [index for index in indices if index.dtype in MASKS]
        # One value for a mask is filled in.
        filled = len(args) > 2 and len(indices) == 1 and args[2].numel() == 1 and not (len(args) > 3 and args[3])
        return bool(masks) and not filled
    return False


def may_be_on_cpu(name: str, tensor: Tensor, indices: bool) -> bool:
    """Return whether an argument of an operation on the device may be on the CPU.

    Args:
        name: the operation's.
        tensor: the argument.
        indices: whether it is among the indices of `INDEXING`.
    """
    if indices:
        return name in INDEXING
    return tensor.dim() == 0  # its number is given to the kernel
