"""Copy tensors from a device to the host together: one wait for all of them, and not one for each."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

# Larger tensors are copied one by one, where waiting costs nothing beside the copy: those that are on their way
# together lie in pinned memory, which the machine cannot use otherwise.
TOGETHER = 16 << 20  # bytes


def to_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors on the CPU, contiguous and without a graph, under the same names."""
    copies, devices = {}, set()
    for name, tensor in tensors.items():
        device, small = tensor.device, tensor.nbytes <= TOGETHER
        copies[name] = tensor.detach().to("cpu", non_blocking=small)
        if small and device.type not in ("cpu", "meta"):
            devices.add(device)
    for device in devices:
        torch.get_device_module(device).synchronize(*(() if device.type == "mps" else (device,)))
    return {name: tensor.contiguous() for name, tensor in copies.items()}
