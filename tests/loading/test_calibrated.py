"""`calibrate=` in `zoo.wrap` and `zoo.load`: weights that are rounded by data."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import zoo
from zoo.errors import DataError, QuantizationError, ZooError
from zoo.loading import calibrated
from zoo.weights.codecs import StoredFloat, pack
from zoo.weights.quantized_tensor import QuantizedTensor

FOUR = zoo.Quantization(4, mixed=False)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(16, 32, 2, batch_first=True, bidirectional=True)
        self.out = nn.Linear(64, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.lstm(x)[0])


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.unused = nn.Embedding(50, 64), nn.Linear(64, 64)
        self.mix = nn.Parameter(torch.randn(64, 64) / 8)
        self.scale = nn.Parameter(torch.randn(8, 8))

    def forward(self, ids: Tensor, *, power: float = 1.0) -> Tensor:
        x = self.embed(ids) @ self.mix * self.scale.view(64)
        return F.linear(x.tanh() * power, self.embed.weight)


def uneven(*shape: int) -> Tensor:
    """Return inputs of which few directions are large, as activations are."""
    size = shape[-1]
    turn = torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(1)))[0]
    return torch.randn(shape) @ torch.diag(torch.logspace(0.5, -1, size)) @ turn + 0.3


def picture(n: int = 8) -> Tensor:
    return F.interpolate(torch.randn(n, 3, 6, 6), size=24, mode="bilinear") + 0.2


def convolutions() -> nn.Module:
    parts = [nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
    parts += [nn.Conv2d(32, 32, 3, groups=32), nn.BatchNorm2d(32), nn.ReLU()]
    return nn.Sequential(*parts, nn.ConvTranspose2d(32, 8, 3, stride=2), nn.Conv2d(8, 8, 3, groups=2))


MODULES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 16)), lambda: uneven(256, 64)),
    "convolutions": (convolutions, picture),
    "1-D and 3-D": (
        lambda: nn.Sequential(nn.Conv1d(16, 32, 5), nn.ReLU(), nn.Unflatten(2, (4, 4, 4)), nn.Conv3d(32, 16, 2)),
        lambda: uneven(16, 68, 16).mT.contiguous(),
    ),
    "recurrent": (Recurrent, lambda: uneven(16, 12, 16)),
    "attention": (lambda: nn.TransformerEncoderLayer(64, 4, 96, batch_first=True), lambda: uneven(16, 12, 64)),
}


def warmed(module: nn.Module, make: Callable[[], Tensor]) -> nn.Module:
    """Return the module in evaluation mode, with running statistics that fit its inputs."""
    with torch.no_grad():
        for _ in range(20):
            module.train()(make())
    return module.eval()


def off(module: nn.Module, reference: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float((module(x) - reference(x)).norm() / reference(x).norm())


@pytest.mark.parametrize("name", MODULES)
def test_outputs_on_fresh_inputs_are_nearer(name: str) -> None:
    build, make = MODULES[name]
    full = warmed(build(), make)
    plain, model = (
        zoo.wrap(copy.deepcopy(full), bits=FOUR),
        zoo.wrap(copy.deepcopy(full), bits=FOUR, calibrate=[make() for _ in range(6)]),
    )
    assert model.calibration is not None
    assert plain.calibration is None
    assert model.calibration.uncalibrated == {}
    assert all(one.calibrated < one.nearest for one in model.calibration.calibrated.values())
    assert [one.bits for one in model.weights()] == [one.bits for one in plain.weights()]
    before = sum(off(plain.module, full, make()) for _ in range(4))
    after = sum(off(model.module, full, make()) for _ in range(4))
    assert after < 0.92 * before


def test_batch_norms_follow_what_quantization_moves() -> None:
    full = warmed(convolutions(), picture)
    model = zoo.wrap(copy.deepcopy(full), bits=FOUR, calibrate=[picture() for _ in range(4)])
    assert model.calibration is not None
    assert set(model.calibration.corrected) == {"1.running_mean", "4.running_mean"}
    seen: dict[str, list[Tensor]] = {}
    for name, module in (("full", full), ("quantized", model.module)):
        norm = module[4]  # type: ignore[index]
        handle = norm.register_forward_hook(lambda layer, args, out, name=name: seen.setdefault(name, []).append(out))
        torch.manual_seed(5)
        with torch.no_grad():
            module(picture(64))
        handle.remove()
    a, b = seen["full"][0], seen["quantized"][0]
    assert (a.mean((0, 2, 3)) - b.mean((0, 2, 3))).abs().max() < 0.05
    assert (b.var((0, 2, 3)) / a.var((0, 2, 3)) - 1).abs().max() < 0.1


def test_equal_data_and_seeds_give_equal_bytes() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(64, 64)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x + torch.randn_like(x))

    full, data = Noisy(), [uneven(32, 64) for _ in range(3)]
    state = torch.get_rng_state()
    models = [zoo.wrap(copy.deepcopy(full), bits=4, calibrate=data, seed=seed) for seed in (3, 3, 4)]
    assert torch.equal(torch.get_rng_state(), state)
    first, same, other = (list(model.module.parameters()) for model in models)
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_calls_take_tensors_tuples_and_keywords_and_what_was_not_calibrated_is_named() -> None:
    module = Tied().train()
    data: list[Any] = [torch.randint(50, (8, 12)), (torch.randint(50, (8, 12)),)]
    data.append({"ids": torch.randint(50, (4, 5)), "power": 2.0})
    model = zoo.wrap(module, bits=FOUR, calibrate=iter(data))
    assert model.module.training
    found = model.calibration
    assert found is not None
    assert set(found.calibrated) == {"embed.weight", "mix"}
    assert set(found.uncalibrated) == {"unused.weight", "scale"}
    assert "no batch" in found.uncalibrated["unused.weight"]
    assert "no product" in found.uncalibrated["scale"]
    bits = {name: bits for name, _, _, bits, _ in model.weights()}
    assert all(bits[name] < 6 for name in ("embed.weight", "mix", "unused.weight", "scale"))


def test_a_loss_that_needs_gradients_can_be_calibrated() -> None:
    class Force(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 2))

        def forward(self, x: Tensor) -> Tensor:
            x = x.detach().requires_grad_()
            (force,) = torch.autograd.grad(self.net(x).sum(), x)
            return force

    model = zoo.wrap(Force(), bits=FOUR, calibrate=[torch.randn(64, 32)])
    assert model.calibration is not None
    assert set(model.calibration.calibrated) == {"net.0.weight", "net.2.weight"}


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"calibrate": [torch.randn(2, 5)]}, DataError, "batch 0.*RuntimeError"),
        ({"calibrate": [uneven(8, 64), {"y": 1}]}, DataError, "batch 1.*TypeError"),
        ({"calibrate": []}, DataError, "at least one batch"),
        ({"calibrate": torch.randn(3, 64)}, DataError, "iterable of batches"),
        ({"calibrate": 3}, DataError, "iterable of batches"),
        ({"calibrate": [uneven(8, 64)], "bits": None}, QuantizationError, "add bits=4"),
        ({"calibrate": [uneven(8, 64)], "lora": zoo.LoRA(targets=["nothing"])}, ZooError, "nothing"),
    ],
    ids=lambda value: None,
)
def test_a_module_that_cannot_be_calibrated_is_unchanged(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    module = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Linear(32, 4)).train()
    before = {name: (id(p), p.requires_grad, p.clone()) for name, p in module.named_parameters()}
    buffers = {name: b.clone() for name, b in module.named_buffers()}
    with pytest.raises(error, match=words):
        zoo.wrap(module, **{"bits": FOUR, **options})
    assert module.training
    assert {name: (id(p), p.requires_grad) for name, p in module.named_parameters()} == {
        name: was[:2] for name, was in before.items()
    }
    assert all(torch.equal(p, before[name][2]) for name, p in module.named_parameters())
    assert all(torch.equal(b, buffers[name]) for name, b in module.named_buffers())


def test_a_format_of_a_plugin_is_left_as_the_plugin_made_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def quantize(entry: object, name: str, weight: Tensor, scheme: object) -> QuantizedTensor:
        packed = pack(weight, zoo.Quantization(16))
        packed.codec = StoredFloat("strange", 4)
        return packed

    monkeypatch.setattr("zoo.plugin.hooks.quantize", quantize)
    model = zoo.wrap(nn.Sequential(nn.Linear(64, 32)), bits=FOUR, calibrate=[uneven(8, 64)])
    assert model.calibration is not None
    assert "strange" in model.calibration.uncalibrated["0.weight"]


def test_adapters_merging_and_saving_work_on_it(tmp_path: Path) -> None:
    model = zoo.load("vit", bits=4, lora=4, calibrate=True, device="cpu", seed=0)
    x = torch.randn(2, *next(iter(model.batches(batch_size=1)))["images"].shape[1:])
    loss = model.module(x).square().mean()
    loss.backward()
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        base = model.state_dict()
        before = model.module(x)
        model.merge()
        assert torch.allclose(model.module(x), before, atol=1e-3)
        model.unmerge()
        model.deactivate()
        before = model.module(x)
        model.save(tmp_path / "packed", packed=True)
        again = zoo.load(str(tmp_path / "packed"), device="cpu")
        assert torch.equal(again.module(x), before)
    assert base.keys() == model.state_dict().keys()
    with pytest.raises(QuantizationError, match="quantized already"):
        zoo.load(str(tmp_path / "packed"), bits=4, calibrate=True, device="cpu")


@pytest.mark.parametrize("name", ["gat", "vit"])
def test_loading_with_data_keeps_more(name: str) -> None:
    full, plain = (zoo.load(name, bits=bits, device="cpu").state_dict() for bits in (None, 4))
    models = [zoo.load(name, bits=4, calibrate=True, device="cpu", seed=1) for _ in range(2)]
    found = models[0].calibration
    assert found is not None
    assert found.calibrated
    assert all(one.calibrated <= one.nearest for one in found.calibrated.values())
    first, same = (model.state_dict() for model in models)
    assert all(torch.equal(first[key], same[key]) for key in first)
    changed = [key for key in full if not torch.equal(first[key], plain[key])]
    assert changed
    assert models[0].fingerprint == zoo.load(name, device="cpu").fingerprint


@pytest.mark.turns(3)
@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "gpt", "ddpm", "vae", "stylegan"])
def test_every_architecture_can_be_calibrated(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrated, "BATCHES", 1)
    monkeypatch.setattr(calibrated, "BATCH_SIZE", 4)
    model = zoo.load(name, bits=4, calibrate=True, device="cpu", seed=1)
    assert model.calibration is not None
    assert model.calibration.calibrated
    assert model.calibration.error < 1


def test_loading_takes_calls_as_wrapping_does() -> None:
    ids = torch.randint(100, (4, 16), generator=torch.Generator().manual_seed(0))
    model = zoo.load("gpt", bits=4, calibrate=[{"input_ids": ids}], device="cpu")
    assert model.calibration is not None
    assert "transformer.wpe.weight" in model.calibration.uncalibrated
    for options in ({"device": "meta"}, {"weights": "random"}):
        with pytest.raises(QuantizationError, match="trained weights"):
            zoo.load("gpt", bits=4, calibrate=[{"input_ids": ids}], **options)
