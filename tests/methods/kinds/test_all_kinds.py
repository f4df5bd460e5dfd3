"""Every adapter kind on every architecture: on its default targets, and LoRA on every weight in every precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import zoo
import zoo_ia3
from zoo.cli.matrix_run import Probe, names
from zoo.methods.full import FullUpdate
from zoo.torch_state.modes import evaluating
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.walk import managed_weights, tied_groups

KINDS: dict[str, zoo.Adapter] = {
    "dora": zoo.LoRA(2, dora=True),
    "orthogonal": zoo.LoRA(2, 2, init="orthogonal"),
    "pissa": zoo.LoRA(2, init="pissa_niter_2", bias="lora_only"),
    "olora": zoo.LoRA(2, 2, init="olora"),
    "loha": zoo.LoHa(2),
    "lokr": zoo.LoKr(2, decompose_both=True),
    "ia3": zoo_ia3.IA3(),
    "bitfit": zoo.Full(targets=["bias"]),
}


# The base must stay unchanged in 4 bit too, so 4 bit is among the quick tests; the other widths are slow.
OTHER = pytest.mark.slow
LOOSE = ("orthogonal", "pissa", "olora", "dora", "ia3")


def difference(found: list[Tensor], expected: list[Tensor]) -> float:
    """Return the largest difference relative to the largest value, over all outputs."""
    assert len(found) == len(expected) > 0
    pairs = [(one, other) for one, other in zip(found, expected, strict=True) if other.numel()]
    return max(float((one - other).abs().max() / other.abs().max().clamp(min=1e-12)) for one, other in pairs)


def base(module: nn.Module) -> dict[str, Tensor]:
    """Return every weight's stored base, by name."""
    found = {}
    for held, sites in ((group.value, group.refs) for group in tied_groups(module)):
        name = sites[0].name
        stored = {"": held} if isinstance(held, nn.Parameter) else {}
        if isinstance(held, ManagedWeight):
            own = held.packed.named_parameters() if held.packed is not None else [("", held.base)]
            stored = dict(own)  # type: ignore[arg-type]
        found |= {f"{name} {key}": tensor.detach().clone() for key, tensor in stored.items()}
    return found


@torch.no_grad()
def stir(model: zoo.Model) -> None:
    """Change all trained parameters by about a twentieth of their size, so that the adapter has an effect."""
    for _, parameter in model.trainable_parameters():
        parameter.grad = None
        parameter.add_(0.05 * torch.randn_like(parameter) * parameter.square().mean().sqrt().clamp(min=0.1))


@pytest.mark.turns(3)
@pytest.mark.parametrize("bits", [pytest.param(32, marks=OTHER), 4])
@pytest.mark.parametrize("name", names())
def test_every_kind(name: str, bits: int) -> None:
    model = zoo.load(name, bits=bits, device="cpu")
    data = model.entry.demo.get("data")
    batch = next(iter(model.batches(data, batch_size=2, seed=0)))
    probe = Probe(model, batch)
    outputs, before = probe.run(model.module), base(model.module)
    model.add_adapter("lora", zoo.LoRA(2))  # a bare rank may train more
    targeted = {info.name for info in model.weights() if info.adapters}
    model.remove_adapter("lora")
    for kind, config in KINDS.items():
        torch.manual_seed(0)
        model.add_adapter(kind, config)
        found = {
            one: store.updates[kind] for one, store in managed_weights(model.module).items() if kind in store.updates
        }
        own = {one for one, update in found.items() if not isinstance(update, FullUpdate) and list(update.parameters())}
        assert own == (set() if kind == "bitfit" else targeted), kind
        # Nonzero factors cancel, and a bias is added after the scaling: rounding differs in a whole network.
        assert difference(probe.run(model.module), outputs) <= (3e-6 if kind in LOOSE else 1e-6), kind
        with torch.enable_grad(), evaluating(model.module):
            model.loss(batch).backward()
        gradients = {one: parameter.grad for one, parameter in model.trainable_parameters()}
        missing = [one for one, gradient in gradients.items() if gradient is None]
        assert not missing, (kind, missing)
        assert all(bool(gradient.isfinite().all()) for gradient in gradients.values()), kind  # type: ignore[union-attr]
        dead = {one.split(".updates")[0] for one in gradients}
        dead -= {one.split(".updates")[0] for one, gradient in gradients.items() if gradient.any()}  # type: ignore[union-attr]
        assert not dead, (kind, dead)
        stir(model)
        moved = probe.run(model.module)
        assert difference(moved, outputs) > 1e-5, kind
        model.merge()
        assert difference(probe.run(model.module), moved) <= 1e-5, kind
        model.unmerge()
        assert difference(probe.run(model.module), moved) == 0, kind
        model.deactivate()
        assert difference(probe.run(model.module), outputs) <= (0 if bits == 4 else 1e-6), kind
        now = base(model.module)
        assert now.keys() == before.keys()
        assert all(torch.equal(now[one], before[one]) for one in before), kind
        model.remove_adapter(kind)
    assert difference(probe.run(model.module), outputs) == 0


@pytest.mark.turns(3)
@pytest.mark.parametrize("bits", [*(pytest.param(bits, marks=OTHER) for bits in (32, 16, 8)), 4])
@pytest.mark.parametrize("name", names())
def test_lora_on_every_weight_reloads_and_merges(name: str, bits: int, tmp_path: Path) -> None:
    model = zoo.load(name, bits=bits, lora=zoo.LoRA(4, targets="all"), device="cpu", seed=0)
    probe = Probe(model, next(iter(model.batches(model.entry.demo.get("data"), batch_size=4, seed=0))))
    plain = probe.run(model.module)
    stir(model)
    outputs = probe.run(model.module)
    assert difference(outputs, plain) > 1e-3
    again = zoo.load(name, bits=bits, lora=str(model.save_adapter(tmp_path / "adapter")), device="cpu")
    assert difference(probe.run(again.module), outputs) == 0
    model.merge()
    assert difference(probe.run(model.module), outputs) <= 1e-5
    model.unmerge()
    assert difference(probe.run(model.module), outputs) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_without_weights_as_many_parameters_train(kind: str) -> None:
    there = zoo.load("gat", bits=4, lora=KINDS[kind], device="cpu").footprint()
    nowhere = zoo.load("gat", bits=4, lora=KINDS[kind], device="meta").footprint()
    assert there == nowhere
    assert there.trainable > 0
