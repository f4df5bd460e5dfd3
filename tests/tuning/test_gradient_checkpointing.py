"""Gradient checkpointing: gradients to the bit, what is kept, and which blocks are found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.errors import TuningError
from zoo.torch_state.rng import seed_everything
from zoo.tuning.gradient_checkpointing import gradient_checkpointing, repeated_blocks

from .helpers import run, same

# The share of the bytes kept for the backward pass that is left, at most.
LEFT = {"gpt": 0.3, "bert": 0.2, "vit": 0.1, "ddpm": 0.45, "vae": 0.25, "gat": 0.3, "stylegan": 0.1}


def kept_for_backward(module: nn.Module, loss: Callable[[], Tensor]) -> tuple[int, dict[str, Tensor]]:
    """Return the bytes that the forward pass keeps, parameters left out, and the gradients after `backward`."""
    fixed = {one.untyped_storage().data_ptr() for one in (*module.parameters(), *module.buffers())}
    storages: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in fixed:
            storages[storage.data_ptr()] = storage
        return tensor

    module.zero_grad()
    seed_everything(5)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        value = loss()
    kept = sum(storage.nbytes() for storage in storages.values())
    value.backward()
    return kept, {name: one.grad.clone() for name, one in module.named_parameters() if one.grad is not None}


@pytest.mark.parametrize(("name", "bits"), [("gat", 32), *((name, 4) for name in LEFT)])
def test_gradients_are_the_same_and_less_is_kept(name: str, bits: int) -> None:
    model = zoo.load(name, bits=bits, lora=zoo.LoRA(4, dropout=0.1), seed=0, device="cpu").train()
    for number, batch in zip(range(2 if name == "stylegan" else 1), model.batches(batch_size=4), strict=False):
        before, plain = kept_for_backward(model.module, lambda batch=batch: model.loss(batch))
        with gradient_checkpointing(model.module):
            after, again = kept_for_backward(model.module, lambda batch=batch: model.loss(batch))
        assert plain.keys() == again.keys()
        assert all(torch.equal(plain[one], again[one]) for one in plain), number
        assert after < LEFT[name] * before
    assert not any("forward" in layer.__dict__ for layer in model.module.modules())
    assert kept_for_backward(model.module, lambda: model.loss(batch))[0] == before


class Block(nn.Module):
    """A block that draws, counts and averages: everything that running it twice could spoil."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc, self.norm, self.drop = nn.Linear(width, width), nn.BatchNorm1d(width), nn.Dropout(0.3)
        self.spectral = nn.utils.spectral_norm(nn.Linear(width, width))
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(()))

    def forward(self, x: Tensor, generator: torch.Generator, *, scale: float = 1.0) -> Tensor:
        self.calls += 1
        self.last = x.detach().mean()
        noise = torch.randn(x.shape, generator=generator)
        return x + self.drop(self.spectral(self.norm(self.fc(x)).tanh())) * scale * noise


class Tower(nn.Module):
    def __init__(self, listed: bool) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
        self.listed = listed
        if listed:
            self.blocks = nn.ModuleList([Block(16) for _ in range(3)])
        else:
            self.b4, self.b8, self.b16 = Block(16), Block(16), Block(16)

    def forward(self, x: Tensor, generator: torch.Generator) -> Tensor:
        x = self.before(x)
        for block in self.blocks if self.listed else (self.b4, self.b8, self.b16):
            x = block(x, generator, scale=0.5)
        return x


@pytest.mark.parametrize("listed", [True, False])
def test_what_is_drawn_counted_and_averaged_in_a_block_is_as_in_one_run(listed: bool) -> None:
    torch.manual_seed(0)
    net, other = Tower(listed).train(), Tower(listed).train()
    other.load_state_dict(net.state_dict())
    assert [type(one) for one in repeated_blocks(net)] == [Block] * 3
    x = torch.randn(12, 8)
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    for _ in range(2):
        before, plain = kept_for_backward(other, lambda: (other(x, generators[0]) ** 2).sum())
        with gradient_checkpointing(net):
            after, again = kept_for_backward(net, lambda: (net(x, generators[1]) ** 2).sum())
        assert all(torch.equal(plain[one], again[one]) for one in plain)
        assert after < 0.5 * before
        states = zip(net.state_dict().items(), other.state_dict().values(), strict=True)
        assert all(torch.equal(one, two) for (_, one), two in states)
        assert torch.equal(generators[0].get_state(), generators[1].get_state())


def test_without_gradients_nothing_is_computed_twice() -> None:
    net = Tower(True).eval()
    with gradient_checkpointing(net), torch.no_grad():
        net(torch.randn(2, 8), torch.Generator())
    assert [int(block.calls) for block in net.blocks] == [1, 1, 1]


def test_a_gradient_of_a_gradient_goes_through_a_block() -> None:
    net = nn.Sequential(*[nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(3)]).double()
    x = torch.randn(4, 6, dtype=torch.double, requires_grad=True)

    def penalty() -> Tensor:
        (slope,) = torch.autograd.grad(net(x).square().sum(), x, create_graph=True)
        return slope.square().sum()

    _, plain = kept_for_backward(net, penalty)
    with gradient_checkpointing(net):
        _, again = kept_for_backward(net, penalty)
    assert len(plain) == 6
    assert all(torch.equal(plain[one], again[one]) for one in plain)


@pytest.mark.parametrize("module", [nn.LSTM(4, 4), nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))])
def test_what_has_no_blocks_is_refused(module: nn.Module) -> None:
    with (
        pytest.raises(TuningError, match=f"{type(module).__name__} has no switch for it, and no blocks that repeat"),
        gradient_checkpointing(zoo.wrap(module, lora=2).module),
    ):
        pass


def test_what_was_on_before_stays_on() -> None:
    module = zoo.load("vit", device="cpu").module
    module.set_grad_checkpointing(True)
    with gradient_checkpointing(module):
        pass
    assert module.grad_checkpointing


def test_a_run_is_the_same_with_it_also_when_it_is_resumed(tmp_path: Any) -> None:
    def model() -> zoo.Model:
        return zoo.load("gat", bits=4, lora=zoo.LoRA(4, dropout=0.1), seed=0, device="cpu")

    options = {"steps": 4, "quiet": True, "report": False, "save_every": 2}
    plain = model()
    expected = plain.tune(**options)
    tuned = model()
    assert tuned.tune(**options, gradient_checkpointing=True).losses == expected.losses

    def stop(step: int, loss: float) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model().tune(**options, out=tmp_path, on_step=stop)
    resumed = model()  # it is no part of what a run is: its gradients are the same
    assert resumed.tune(**options, out=tmp_path, resume=True, gradient_checkpointing=True).losses == expected.losses
    for other in (tuned, resumed):
        values = [dict(one.trainable_parameters()) for one in (plain, other)]
        assert same(*values)


def test_the_argument_is_checked(fake: Callable[..., Any]) -> None:
    with pytest.raises(TuningError, match="expected gradient_checkpointing as True or False"):
        run(fake(), gradient_checkpointing=1)
    with pytest.raises(TuningError, match="no blocks that repeat"):
        run(fake(), gradient_checkpointing=True)
