"""DistributedDataParallel and FSDP2 over managed weights: two processes on gloo give the gradients of one.

With FSDP2 the 4-bit data and its scales are themselves sharded, also if they do not divide evenly.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo

SAMPLES = 6
SEED = int(os.environ.get("ZOO_TEST_SEED", "0"))  # the same in both processes, another in every run


class Block(nn.Module):
    """Odd sizes on purpose: nothing divides by two processes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 13), nn.Linear(13, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(x)))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(17, 7)
        self.blocks = nn.ModuleList([Block(7), Block(7)])
        self.conv = nn.Conv1d(7, 5, 3, padding=1)
        self.raw = nn.Parameter(torch.randn(3, 5))

    def forward(self, index: Tensor) -> Tensor:
        x = self.embed(index)
        for block in self.blocks:
            x = block(x)
        return torch.einsum("ncl,kc->nkl", torch.tanh(self.conv(x.mT)), self.raw)


class Tied(nn.Module):
    """The embedding is the head as well: its FSDP group is the root's."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(17, 7), nn.Linear(7, 17, bias=False)
        self.blocks = nn.ModuleList([Block(7)])
        self.head.weight = self.embed.weight

    def forward(self, index: Tensor) -> Tensor:
        x = self.embed(index)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


ADAPTERS: dict[str, Any] = {
    "net": zoo.LoRA(rank=3, targets="all"),
    "tied": zoo.LoRA(rank=3, targets="all"),
    # DoRA on everything, and biases; then factors that stay frozen, a product, and a replacement.
    "kinds": {
        "dora": zoo.LoRA(rank=3, dora=True, bias="lora_only"),
        "pissa": zoo.LoRA(rank=2, init="pissa", targets=["up"]),
        "loha": zoo.LoHa(rank=2, targets=["down", "conv"]),
        "full": zoo.Full(targets=["raw"]),
    },
}


def build(name: str, bits: int | None, dtype: torch.dtype) -> zoo.Model:
    torch.manual_seed(SEED)
    model = zoo.wrap({"net": Net, "tied": Tied, "kinds": Net}[name](), bits=bits, lora=ADAPTERS[name])
    # A replaced weight is not affected by the adapters before it.
    model.activate(*(one for one in ("full", *model.active) if one in model.active))
    with torch.no_grad():
        for _, factor in model.trainable_parameters():
            factor.normal_(std=0.3)
    model.module.to(dtype)
    return model


def batch() -> Tensor:
    return torch.randint(17, (SAMPLES, 9), generator=torch.Generator().manual_seed(SEED + 1))


def train(module: nn.Module, factors: list[nn.Parameter], index: Tensor, steps: int) -> list[Tensor]:
    """Return the gradients of each step."""
    optimizer = torch.optim.AdamW(factors, lr=1e-2)
    seen = []
    for _ in range(steps):
        module(index).square().mean().backward()
        seen += [full(factor.grad).clone() for factor in factors]
        optimizer.step()
        optimizer.zero_grad()
    return seen


def full(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def compare(rank: int, how: str, name: str, bits: int | None, dtype: torch.dtype, steps: int) -> float:
    """Return the largest relative difference between this process's gradients and those of a single process."""
    alone = build(name, bits, dtype)
    expected = train(alone.module, [factor for _, factor in alone.trainable_parameters()], batch(), steps)
    model = build(name, bits, dtype)
    wrapped = distribute(model.module, how, bits)
    factors = [factor for _, factor in model.trainable_parameters()]
    got = train(wrapped, factors, batch().chunk(2)[rank], steps)
    assert len(got) == len(expected) == steps * len(factors)
    assert all(float(grad.norm()) > 0 for grad in expected)
    return max(float((a - b).norm() / b.norm()) for a, b in zip(got, expected, strict=True))


def distribute(module: nn.Module, how: str, bits: int | None) -> nn.Module:
    """Return the module under DistributedDataParallel, or sharded by FSDP2 block by block."""
    if how == "ddp":
        return nn.parallel.DistributedDataParallel(module)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))
    for block in module.blocks:
        fully_shard(block, mesh=mesh)
    wrapped = fully_shard(module, mesh=mesh)
    sharded = dict(module.named_parameters())
    assert all(hasattr(parameter, "full_tensor") for parameter in sharded.values())
    if bits:
        packed = sharded["blocks.0.up.weight_store.packed." + ("packed" if bits == 4 else "values")]
        assert packed.to_local().numel() < packed.full_tensor().numel()
    return wrapped


def worker(rank: int, meeting: str, how: str, name: str, bits: int | None) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    # In float32 only one step: Adam would move the weights by the sign of rounding errors before a second one.
    single = compare(rank, how, name, bits, torch.float32, steps=1)
    double = compare(rank, how, name, bits, torch.float64, steps=3)
    if rank == 0:
        print(f"{how} {name} {bits}: {single:.1e}, in float64 {double:.1e}", flush=True)
    assert single < 1e-4  # rounding: the halves are summed in another order
    assert double < 1e-10
    torch.distributed.destroy_process_group()


def spawn(how: str, cases: str) -> str:
    """Run the cases in two processes, one after the other, and return the first process's output."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    with tempfile.TemporaryDirectory() as folder:
        started = [
            subprocess.Popen(
                [sys.executable, __file__, str(rank), str(Path(folder) / "meet"), how, cases],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(2)
        ]
        try:
            outputs = [process.communicate(timeout=150)[0] for process in started]
        finally:
            for process in started:
                process.kill()
    assert all(process.returncode == 0 for process in started), "\n".join(outputs)[-3000:]
    return outputs[0]


CASES = "net-None net-8 net-4 tied-None tied-4 kinds-4"  # in one pair of processes, whose start takes longest


@pytest.mark.slow
@pytest.mark.parametrize("how", ["fsdp", "ddp"])
def test_two_processes_give_the_gradients_of_one(how: str) -> None:
    output = spawn(how, CASES)
    assert output.count(how) == len(CASES.split()), output


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    own_rank, place, kind, wanted = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
    for one in wanted.split():
        module_name, _, width = one.partition("-")
        worker(own_rank, f"{place}-{one}", kind, module_name, None if width == "None" else int(width))
