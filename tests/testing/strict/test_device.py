"""The strict accelerator computes what the CPU computes, refuses what CUDA refuses, and counts when the host waits."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.testing.strict import DeviceError, strict_accelerator

HERE = "strict/test_device.py"


@pytest.fixture(autouse=True)
def waits() -> Any:
    with strict_accelerator() as counted:
        yield counted


def ones(*shape: int) -> Tensor:
    return torch.ones(*shape, device="sim")


def network() -> nn.Module:
    torch.manual_seed(int(np.random.default_rng().integers(1 << 30)))
    layers = (nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.SiLU(), nn.Flatten(), nn.Linear(144, 3), nn.LayerNorm(3))
    return nn.Sequential(*layers)


MADE: dict[str, Callable[[], Tensor]] = {
    "empty": lambda: torch.empty(2, 3, device="sim"),
    "arange": lambda: torch.arange(6, device="sim").view(2, 3),
    "tensor": lambda: torch.tensor([[1.0, 2.0, 3.0]] * 2, device="sim"),
    "as_tensor": lambda: torch.as_tensor(np.ones((2, 3)), device="sim"),
    "randn": lambda: torch.randn(2, 3, device="sim"),
    "eye": lambda: torch.eye(3, device="sim")[:2],
    "tril_indices": lambda: torch.tril_indices(2, 2, device="sim"),
    "zeros_like": lambda: torch.zeros_like(torch.ones(2, 3), device="sim"),
    "new_zeros": lambda: ones(1).new_zeros(2, 3),
    "to": lambda: torch.ones(2, 3).to("sim"),
    "with device": lambda: _under_device(),
    "out": lambda: torch.add(ones(2, 3), 1, out=torch.empty(0, device="sim")),
    "unsqueeze_": lambda: ones(6).unsqueeze_(0).view(2, 3),
    "resized": lambda: ones(2).resize_(2, 3),
    "parameter": lambda: nn.Parameter(ones(2, 3)),
    "deepcopy": lambda: copy.deepcopy(nn.Parameter(ones(2, 3))),
    "pickle": lambda: pickle.loads(pickle.dumps(nn.Parameter(ones(2, 3)))),
    "module": lambda: nn.Linear(3, 2, device="sim").weight,
}


def _under_device() -> Tensor:
    with torch.device("sim"):
        return torch.ones(2, 3)


@pytest.mark.parametrize("how", MADE)
def test_whatever_is_made_on_it_stays_there(how: str) -> None:
    made = MADE[how]()
    assert made.device == torch.device("sim:0")
    assert made.cpu().device.type == "cpu"
    assert made.cpu().shape == made.shape == (made + made).shape
    assert isinstance(made, nn.Parameter) == (how in ("parameter", "deepcopy", "pickle", "module"))


@pytest.mark.parametrize("after", ["forward", "backward", "double backward"])
def test_figures_are_the_cpus(after: str) -> None:
    module = network()
    found = []
    for device in ("cpu", "sim"):
        mine = copy.deepcopy(module).to(device)
        torch.manual_seed(3)
        x = torch.randn(2, 1, 8, 8, device=device, requires_grad=True)
        y = F.dropout(mine(x), 0.3).square().sum()
        if after == "double backward":
            (slope,) = torch.autograd.grad(y, x, create_graph=True)
            y = slope.square().sum()
        if after != "forward":
            y.backward()
        found.append([y.detach(), *(one.grad for one in mine.parameters() if after != "forward")])
    for one, two in zip(*found, strict=True):
        assert (one is None) == (two is None)
        if one is not None:
            assert two.device.type == "sim"
            torch.testing.assert_close(two.cpu(), one, rtol=1e-5, atol=1e-5 * float(one.abs().max()))


def test_it_works_where_autograd_knew_no_device_before_and_in_other_threads() -> None:
    import threading

    torch.ones(2, requires_grad=True).sum().backward()
    found: list[Tensor] = []

    def step() -> None:
        x = ones(3).requires_grad_()
        x.square().sum().backward()
        assert x.grad is not None
        found.append(x.grad.cpu())

    threads = [threading.Thread(target=step) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.tolist() for one in found] == [[2.0] * 3] * 3


REFUSED: dict[str, Callable[[], Any]] = {
    "sum of two devices": lambda: ones(2) + torch.ones(2),
    "product": lambda: ones(2, 2) @ torch.ones(2, 2),
    "cat": lambda: torch.cat([ones(2), torch.ones(2)]),
    "into the cpu": lambda: torch.tensor(1.0).add_(ones(1)[0]),
    "cpu look-up": lambda: F.embedding(torch.tensor([1]), ones(2, 2)),
    "cpu indexed by it": lambda: torch.ones(2)[torch.tensor([1], device="sim")],
    "numpy": lambda: ones(2).numpy(),
    "asarray": lambda: np.asarray(ones(2)),
    "dlpack": lambda: np.from_dlpack(ones(2)),
    "generator of the cpu": lambda: torch.randn(2, device="sim", generator=torch.Generator()),
    "generator in place": lambda: ones(2).normal_(generator=torch.Generator()),
    "data of the cpu": lambda: setattr(nn.Parameter(ones(2)), "data", torch.ones(2)),
    "pinned": lambda: ones(2).pin_memory(),
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_refuses_what_cuda_refuses_and_names_line_and_fix(what: str) -> None:
    with pytest.raises(DeviceError) as caught:
        REFUSED[what]()
    assert HERE in str(caught.value)
    assert caught.value.fix
    assert isinstance(caught.value, TypeError if "numpy" in str(caught.value) else RuntimeError)


ALLOWED: dict[str, Callable[[], Any]] = {
    "a number of the cpu": lambda: ones(2) * torch.tensor(2.0),
    "cpu indices": lambda: ones(3)[torch.tensor([0, 2])],
    "cpu mask": lambda: ones(3)[torch.tensor([True, False, True])],
    "its own generator": lambda: torch.randn(2, device="sim", generator=torch.Generator("sim").manual_seed(1)),
    "masked fill": lambda: ones(3).masked_fill(ones(3) > 0, 2.0),
    "assignment by mask": lambda: ones(3).__setitem__(torch.tensor([True] * 3, device="sim"), 2.0),
    "in the background": lambda: torch.ones(2).to("sim", non_blocking=True),
    "pinned memory": lambda: torch.ones(2).pin_memory().to("sim", non_blocking=True),
}


@pytest.mark.parametrize("what", ALLOWED)
def test_it_allows_what_cuda_allows_without_waiting(what: str, waits: Any) -> None:
    ALLOWED[what]()
    # An index of the CPU with a mask is looked at on the CPU; on CUDA its indices are then copied.
    assert len(waits.synchronisations) == (what == "cpu mask")


WAITING: dict[str, Callable[[], Any]] = {
    "item": lambda: ones(1).item(),
    "float": lambda: float(ones(1)),
    "bool": lambda: bool(ones(1)),
    "format": lambda: f"{ones(1).sum():.2f}",
    "repr": lambda: repr(ones(3)),
    "tolist": lambda: ones(3).tolist(),
    "cpu": lambda: ones(3).cpu(),
    "to": lambda: ones(3).to("cpu", torch.float64),
    "copy_": lambda: torch.empty(3).copy_(ones(3)),
    "nonzero": lambda: ones(3).nonzero(),
    "by mask": lambda: ones(3)[ones(3) > 0],
    "equal": lambda: torch.equal(ones(3), ones(3)),
    "unique": lambda: ones(3).unique(),
    "repeat_interleave": lambda: ones(3).repeat_interleave(torch.tensor([1, 2, 3], device="sim")),
    "multinomial": lambda: ones(3).multinomial(1),
    "synchronize": lambda: torch.get_device_module("sim").synchronize(),
}


@pytest.mark.parametrize("what", WAITING)
def test_it_counts_when_the_host_waits_by_the_line(what: str, waits: Any) -> None:
    WAITING[what]()
    assert len(waits.synchronisations) == 1
    (line,) = waits.by_line()
    assert line.startswith(f"{HERE}:")
    text = Path(__file__).read_text().splitlines()[int(line.rpartition(":")[2]) - 1]
    assert f'"{what}": ' in text
    waits.clear()
    assert not waits.by_line()


def test_a_copy_in_the_background_is_there_when_the_host_has_waited(waits: Any) -> None:
    behind = [ones(3).to("cpu", non_blocking=True), torch.empty(3).copy_(ones(3), non_blocking=True)]
    assert not waits.synchronisations
    assert all(bool(copy.isnan().all()) for copy in behind)
    torch.get_device_module("sim").synchronize()
    assert all(torch.equal(copy, torch.ones(3)) for copy in behind)
    assert len(waits.synchronisations) == 1


def test_uploads_are_counted_apart(waits: Any) -> None:
    torch.ones(3).to("sim")
    ones(3).copy_(torch.ones(3))
    assert [event.line().rpartition(":")[0] for event in waits.uploads] == [HERE] * 2
    assert not waits.synchronisations


def test_a_backward_pass_is_counted_with_the_line_that_asked(waits: Any) -> None:
    class Reads(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return grad * grad.sum().item()

    Reads.apply(ones(2).requires_grad_()).sum().backward()
    assert sum(waits.by_line().values()) == 1
    assert waits.by_line(Path(__file__).parent).keys() == waits.by_line().keys()


@pytest.mark.parametrize("device", ["cpu", "sim"])
def test_random_numbers_and_their_states(device: str) -> None:
    torch.manual_seed(5)
    first = torch.randn(4, device=device)
    with torch.random.fork_rng(device_type="sim"):
        torch.manual_seed(5)
        assert torch.equal(torch.randn(4, device=device), first)
    generators = [torch.Generator(one).manual_seed(9) for one in ("cpu", "sim")]
    assert [one.device.type for one in generators] == ["cpu", "sim"]
    assert all(isinstance(one, torch.Generator) for one in (*generators, torch.default_generator))
    drawn = [torch.randn(4, device=one.device, generator=one).cpu() for one in generators]
    assert torch.equal(*drawn)


def test_autocast_narrows_products_and_widens_losses() -> None:
    layer = nn.Linear(3, 2).to("sim")
    x = ones(4, 3)
    with torch.autocast("sim", dtype=torch.bfloat16):
        y = layer(x)
        assert y.dtype == torch.bfloat16
        assert F.layer_norm(y, (2,)).dtype == torch.float32
        assert F.cross_entropy(y, torch.zeros(4, dtype=torch.int64, device="sim")).dtype == torch.float32
        with torch.autocast("sim", enabled=False):
            assert layer(x).dtype == torch.float32
        y.float().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32
    assert torch.equal(y.cpu(), F.linear(x.cpu().bfloat16(), *(p.cpu().bfloat16() for p in layer.parameters())))


def test_a_module_moves_to_it_and_back_with_what_is_shared() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.BatchNorm1d(2))
    module[1].weight = module[0].weight
    kept = {name: value.clone() for name, value in module.state_dict().items()}
    module.to("sim")
    assert module[1].weight is module[0].weight
    assert {value.device.type for value in module.state_dict().values()} == {"sim"}
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    module(torch.randn(4, 2, device="sim")).square().mean().backward()
    optimizer.step()
    module.to("cpu")
    assert {value.device.type for value in module.state_dict().values()} == {"cpu"}
    assert not any(torch.equal(kept[name], value) for name, value in module.state_dict().items())
