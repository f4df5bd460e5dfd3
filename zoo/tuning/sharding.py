"""A run whose weights, adapters, gradients and moments are each shared out over its processes, as FSDP2 shares them.

The bases of managed weights and the larger parameters of adapters are sharded (`zoo.weights.sharded`); what else trains
is in every process, and DistributedDataParallel averages its gradients.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from zoo.errors import TuningError
from zoo.weights.gathering import is_sharded
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.sharded import Shards, gather_base, gather_updates, shard_base, shard_updates
from zoo.weights.walk import managed_weights

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

Named = Sequence[tuple[str, Parameter]]
OFFLOAD = "FSDP_OFFLOAD_PARAMS"


def asked(plugin: Any = None) -> bool:
    """Return whether `accelerate launch --use_fsdp --fsdp_version 2`, or accelerate's plugin, asks to shard.

    Raises:
        TuningError: it asks for FSDP of version 1, or for what there is not here.
    """
    if plugin is None and os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return False
    version = os.environ.get("FSDP_VERSION", "1") if plugin is None else str(plugin.fsdp_version)
    if version != "2":
        raise TuningError(
            f"expected FSDP of version 2, got {version}, which flattens weights and writes to them: launch with "
            "`accelerate launch --use_fsdp --fsdp_version 2`"
        )
    offload = os.environ.get(OFFLOAD, "false").lower() == "true" if plugin is None else bool(plugin.cpu_offload)
    if offload:
        raise TuningError("FSDP that keeps its parts on the CPU is not supported: launch without fsdp_offload_params")
    return True


def mesh_to_load_on(device: torch.device, calibrated: bool) -> DeviceMesh | None:
    """Return the mesh of the processes among which a model is sharded while it is loaded; None if it is not.

    The processes are joined first, where that has not happened.

    Args:
        device: where this process keeps its part.
        calibrated: whether the weights are to be rounded by data.

    Raises:
        TuningError: as in `asked`; or weights that are rounded by data are to be sharded.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1" or not asked():
        return None
    if calibrated:
        raise TuningError(
            "calibrate= takes the whole model: calibrate in one process, model.save(FOLDER, packed=True), and load "
            "that with FSDP2"
        )
    join(device)
    return mesh_of(device)


def join(device: torch.device) -> tuple[int, int]:
    """Join the processes that torchrun or accelerate has started; return this one's number and how many there are."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return 0, 1
    from accelerate import PartialState

    state = PartialState(cpu=device.type == "cpu")
    return state.process_index, state.num_processes


def mesh_of(device: torch.device) -> DeviceMesh:
    """Return the mesh of all processes, which have been joined."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device.type, (torch.distributed.get_world_size(),))


class Sharding:
    """The managed weights of a run's module, whose bases are sharded from here on.

    Attributes:
        mesh: the processes.
    """

    def __init__(self, module: nn.Module, mesh: DeviceMesh) -> None:
        self.mesh = mesh
        self._managed = list(managed_weights(module).values())
        if not self._managed:
            raise TuningError(
                "FSDP2 shards quantized and adapted weights, and this model has none: load it with bits=4 or lora=8, "
                "or launch without --use_fsdp"
            )
        self._whole = [managed for managed in self._managed if not _base_is_sharded(managed)]
        for managed in self._whole:
            shard_base(managed, mesh)

    def spread(self, named: Named, optimizer: torch.optim.Optimizer) -> list[tuple[str, Parameter]]:
        """Shard the larger parameters of the adapters, and let the optimizer train the parts instead.

        Returns:
            `named` with the new parameters.
        """
        made: dict[int, nn.Parameter] = {}
        for managed in self._managed:
            made |= shard_updates(managed, self.mesh)
        for group in list(optimizer.param_groups):
            trained = [made.get(id(one), one) for one in group["params"]]
            rest = [one for one in trained if not is_sharded(one)]
            group["params"] = [one for one in trained if is_sharded(one)] or rest
            if 0 < len(rest) < len(trained):  # AdamW cannot step both kinds at once
                optimizer.add_param_group({**group, "params": rest})
        return [(name, made.get(id(parameter), parameter)) for name, parameter in named]

    def gather(self) -> None:
        """Make whole again what was whole."""
        for managed in self._managed:
            gather_updates(managed)
        for managed in self._whole:
            gather_base(managed)


@contextmanager
def sharded(module: nn.Module, device: torch.device, wanted: bool) -> Iterator[Sharding | None]:
    """Shard a module's managed weights for the block; None, and nothing happens, if it is not wanted.

    After an error the weights stay as they are: gathering them again takes all processes, and some may be gone.

    Raises:
        TuningError: there is nothing to shard.
    """
    sharding = Sharding(module, mesh_of(device)) if wanted else None
    yield sharding
    if sharding is not None:
        sharding.gather()


def total_norm(gradients: Sequence[Tensor], device: torch.device) -> Tensor:
    """Return the norm of gradients, some of which may be sharded, float32 ()."""
    total = torch.zeros((), device=device)
    for kind in ([one for one in gradients if is_sharded(one) is parts] for parts in (False, True)):
        if kind:
            norm: Any = nn.utils.get_total_norm(kind)
            norm = norm.full_tensor() if is_sharded(norm) else norm
            total = torch.hypot(total, norm.to(device, torch.float32))
    return total


def clip(parameters: Sequence[Parameter], most: float, norm: Tensor) -> None:
    """Scale gradients of this norm, some of which may be sharded, down to `most`."""
    for kind in ([one for one in parameters if is_sharded(one) is parts] for parts in (False, True)):
        if kind:
            nn.utils.clip_grads_with_norm_(kind, most, norm)


def _base_is_sharded(managed: ManagedWeight) -> bool:
    return managed.packed is not None and isinstance(managed.packed.codec, Shards)
