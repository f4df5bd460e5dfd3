"""PEFT's tests of every layer and kind of adapter, for zoo: merging, training, disabling, names, files.

After `tests/test_custom_models.py` and `tests/testing_common.py` of PEFT, with tolerances of 1e-5. That a mixed
batch equals separate runs is checked in `tests/adapters/test_mixed_batch.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.catalog import discovery


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin0 = nn.Linear(10, 20)
        self.norm = nn.LayerNorm(20)
        self.lin1 = nn.Linear(20, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin1(self.norm(self.lin0(x)).tanh())


class Embedded(nn.Module):
    """An embedding and transformers' Conv1D."""

    def __init__(self) -> None:
        from transformers.pytorch_utils import Conv1D

        super().__init__()
        self.emb = nn.Embedding(10, 6)
        self.conv1d = Conv1D(5, 6)

    def forward(self, ids: Tensor) -> Tensor:
        return self.conv1d(self.emb(ids))


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mha = nn.MultiheadAttention(12, 2, batch_first=True)
        self.lin = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin(self.mha(x, x, x, need_weights=False)[0])


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(10, 6)
        self.lin = nn.Linear(6, 6)
        self.head = nn.Linear(6, 10, bias=False)
        self.head.weight = self.emb.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.lin(self.emb(ids)).tanh())


def convolutions(dimensions: int, **options: Any) -> nn.Module:
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    return nn.Sequential(kind(2, 4, 3, padding=1, **options), nn.Tanh(), nn.Flatten(), nn.LazyLinear(3))


def transposed() -> nn.Module:
    return nn.Sequential(nn.ConvTranspose2d(2, 4, 3, stride=2), nn.Tanh(), nn.Conv2d(4, 2, 1))


MODULES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "MLP": (Mlp, lambda: torch.randn(4, 10)),
    "conv1d": (lambda: convolutions(1), lambda: torch.randn(2, 2, 5)),
    "conv2d": (lambda: convolutions(2), lambda: torch.randn(2, 2, 5, 4)),
    "conv3d": (lambda: convolutions(3), lambda: torch.randn(2, 2, 3, 4, 3)),
    "grouped": (lambda: convolutions(2, groups=2), lambda: torch.randn(2, 2, 5, 4)),
    "transposed": (transposed, lambda: torch.randn(2, 2, 4, 3)),
    "embedding and Conv1D": (Embedded, lambda: torch.randint(0, 10, (3, 4))),
    "MHA": (Attending, lambda: torch.randn(2, 5, 12)),
    "tied": (Tied, lambda: torch.randint(0, 10, (3, 4))),
}


def ia3() -> zoo.Adapter:
    from zoo_ia3 import IA3

    return IA3(targets="all")


KINDS: dict[str, Callable[[], zoo.Adapter]] = {
    "LoRA": lambda: zoo.LoRA(rank=2, targets="all"),
    "rsLoRA": lambda: zoo.LoRA(rank=3, targets="all", rslora=True, dropout=0.1),
    "DoRA": lambda: zoo.LoRA(rank=2, targets="all", dora=True, bias="all"),
    "PiSSA": lambda: zoo.LoRA(rank=2, targets="all", init="pissa"),
    "OLoRA": lambda: zoo.LoRA(rank=2, targets="all", init="olora"),
    "LoHa": lambda: zoo.LoHa(rank=2, targets="all", use_effective_conv2d=True),
    "LoKr": lambda: zoo.LoKr(rank=2, targets="all"),
    "Full": lambda: zoo.Full(targets="all"),
}
if "ia3" in discovery.claims():
    KINDS["IA3"] = ia3


def made(name: str) -> tuple[nn.Module, Tensor]:
    build, inputs = MODULES[name]
    module, x = build(), inputs()
    module(x)  # gives the lazy layer its size
    return module.eval(), x


def perturb(model: zoo.Model) -> None:
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))


@torch.no_grad()
def run(model: Any, x: Tensor) -> Tensor:
    """Run the model without torch's fast path, which attentions do not use once they have an adapter."""
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        return model(x)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def close(one: Tensor, other: Tensor, tolerance: float = 1e-5) -> bool:
    return bool((one - other).abs().max() <= tolerance * max(1.0, float(other.abs().max())))


CASES = [(module, kind) for module in MODULES for kind in KINDS]


@pytest.mark.parametrize(("module", "kind"), CASES)
def test_a_new_adapter_changes_nothing_merging_keeps_the_outputs_disabling_gives_the_base(
    module: str, kind: str
) -> None:
    base, x = made(module)
    plain = run(base, x)
    model = zoo.wrap(base, lora={"some_name": KINDS[kind]()})
    assert close(run(model, x), plain)
    perturb(model)
    adapted = run(model, x)
    assert not close(adapted, plain, 1e-3)
    model.deactivate()
    # An attention hands its inputs on transposed, which torch adds up in another order where the weight is managed.
    assert close(run(model, x), plain, 1e-6) if module == "MHA" else torch.equal(run(model, x), plain)
    model.activate("some_name")
    assert torch.equal(run(model, x), adapted)
    model.merge()
    assert close(run(model, x), adapted)
    model.unmerge()
    assert torch.equal(run(model, x), adapted)
    model.merge()
    assert close(run(model.unload(), x), adapted)


@pytest.mark.parametrize(("module", "kind"), CASES)
def test_training_changes_the_adapter_and_nothing_else(module: str, kind: str) -> None:
    base, x = made(module)
    model = zoo.wrap(base, lora=KINDS[kind]())
    before = {name: parameter.detach().clone() for name, parameter in model.module.named_parameters()}
    optimizer = torch.optim.SGD([parameter for _, parameter in model.trainable_parameters()], lr=0.5)
    model.train()
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    model.eval()
    trained = dict(model.trainable_parameters())
    changed = {n for n, p in model.module.named_parameters() if not torch.equal(p, before[n])}
    assert changed <= set(trained)
    assert len(changed) >= 0.5 * len(trained), "and most of it does train"
    updates = {id(p) for m in model.module.modules() if isinstance(m, zoo.Update) for p in m.parameters()}
    assert all(id(parameter) in updates for parameter in trained.values())
    model.deactivate()
    base = {name: parameter for name, parameter in model.module.named_parameters() if name not in trained}
    assert all(torch.equal(parameter, before[name]) for name, parameter in base.items())


@pytest.mark.parametrize(("module", "kind"), CASES)
def test_save_load_save_is_byte_identical_whatever_the_name(module: str, kind: str, tmp_path: Path) -> None:
    base, x = made(module)
    model = zoo.wrap(copy.deepcopy(base), lora={"one": KINDS[kind]()})
    perturb(model)
    model.save_adapter(tmp_path / "a")
    again = zoo.wrap(copy.deepcopy(base), lora={"another-name": tmp_path / "a"})
    assert close(run(again, x), run(model, x), 1e-6)
    again.save_adapter(tmp_path / "b")
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    for name in files:
        if kind in ("PiSSA", "OLoRA") and name == "zoo.json":
            continue  # saved as the ordinary LoRA that they are
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    quantized = zoo.wrap(copy.deepcopy(base), bits=4, lora=tmp_path / "a")
    assert quantized.active == ("default",)
