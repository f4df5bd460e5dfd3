"""Weights of which each process keeps a part: the same outputs and gradients, and the same weights afterwards.

One process here, with collectives of its own; tests/tuning/test_sharding.py has two.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import zoo
from zoo.weights.gathering import is_sharded, regathering, whole
from zoo.weights.sharded import Shards, gather_base, gather_updates, shard_base, shard_updates
from zoo.weights.walk import managed_weights

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="no gloo here")


@pytest.fixture
def mesh(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    yield torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


class Net(nn.Module):
    """A tied table, a linear layer, and a weight that another module reads."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(70, 64), nn.Linear(64, 70, bias=False)
        self.head.weight = self.embed.weight
        self.up, self.out = nn.Linear(64, 96), nn.Linear(96, 64)

    def forward(self, index):
        x = torch.tanh(self.up(self.embed(index)))
        return self.head(nn.functional.linear(x, self.out.weight, self.out.bias))


LORAS = {
    "lora": zoo.LoRA(rank=16, targets="all"),
    "dora": zoo.LoRA(rank=16, dora=True, targets="all"),
    "loha": zoo.LoHa(rank=16, targets="all"),
    "full": zoo.Full(targets="all"),
}


def _gradients(module, named):
    with regathering():
        loss = module(torch.arange(12).view(3, 4)).square().mean()
    loss.backward()
    return loss.detach(), {name: whole(p.grad) for name, p in named}


@pytest.mark.parametrize(("bits", "kind"), [(4, "lora"), (8, "dora"), (None, "loha"), (4, "full"), ("bf16", "lora")])
def test_sharded_weights_compute_the_same_and_come_back(mesh, bits, kind):
    torch.manual_seed(0)
    scheme = zoo.Quantization(16, scheme="bf16") if bits == "bf16" else bits
    model = zoo.wrap(Net(), bits=scheme, lora=LORAS[kind], seed=0)
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    before = copy.deepcopy(model.module.state_dict())
    loss, gradients = _gradients(model.module, list(model.trainable_parameters()))
    managed = list(managed_weights(model.module).values())
    for one in managed:
        shard_base(one, mesh)
        shard_updates(one, mesh)
    named = list(model.trainable_parameters())
    assert any(is_sharded(parameter) for _, parameter in named)
    assert all(isinstance(one.packed.codec, Shards) for one in managed if len(one.shape) > 1)
    assert model.footprint().parameters == 70 * 64 + 2 * 64 * 96 + 96 + 64
    sharded_loss, sharded = _gradients(model.module, named)
    torch.testing.assert_close(sharded_loss, loss, rtol=1e-6, atol=1e-7)
    for name, gradient in gradients.items():
        torch.testing.assert_close(sharded[name], gradient, rtol=1e-5, atol=1e-7)
    for one in managed:
        gather_base(one)
        gather_updates(one)
    after = model.module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_autograd_keeps_parts_and_not_what_was_gathered(mesh):
    model = zoo.wrap(Net(), bits=4, lora=LORAS["lora"], seed=0)
    for one in managed_weights(model.module).values():
        shard_updates(one, mesh)
    kept = []

    def pack(tensor):
        kept.append(tensor.untyped_storage())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), regathering():
        model.module(torch.arange(12).view(3, 4)).sum().backward()
    factors = {parameter.shape for _, parameter in model.trainable_parameters()}
    assert factors
    sizes = {shape.numel() * 4 for shape in factors}
    assert not [one for one in kept if one.nbytes() in sizes and one.nbytes() >= 4096]
