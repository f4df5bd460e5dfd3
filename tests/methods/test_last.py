"""Adapters that are applied last: zeros and quantized values that whatever trains beside them keeps."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import zoo
from zoo.errors import AdapterError, QuantizationError, TuningError
from zoo.methods.prune import kept
from zoo.weights.layout import Layout


class Odd(nn.Module):
    """Weights of every kind of use: a product, a convolution, a table that is the head too, a raw parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(40, 64)
        self.lin = nn.Linear(64, 64)
        self.conv = nn.Conv1d(64, 64, 3, padding=1)
        self.raw = nn.Parameter(torch.randn(64, 64) / 8)
        self.norm = nn.LayerNorm(64)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.lin(self.table(ids)))
        x = self.conv(x.transpose(1, 2)).transpose(1, 2)
        return torch.einsum("btc,oc->bto", x, self.raw) @ self.table.weight.T


IDS = torch.arange(12).view(2, 6)


def odd(**lora: object) -> zoo.Model:
    torch.manual_seed(0)
    model = zoo.wrap(Odd(), lora=lora, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model


def values(model: zoo.Model) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if tensor.dim() > 1}


@pytest.mark.parametrize("how", [(4, "nf4"), (8, "int8"), (8, "dynamic8"), (4, "fp4"), (16, "bf16")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merged_is_what_the_forward_pass_has_computed(how, dtype, tmp_path):
    model = odd(a=4, low=zoo.QuantizeAware(*how))
    model.module.to(dtype)
    before, weights = model(IDS), values(model)
    before.float().sum().backward()
    assert all(p.grad.abs().sum() > 0 for _, p in model.trainable_parameters())
    model.merge()
    assert torch.equal(model(IDS), before)
    assert all(torch.equal(one, weights[name]) for name, one in values(model).items())
    widths = {info.name: info.bits for info in model.weights() if len(info.shape) > 1}
    assert len(widths) == 4
    model.unmerge()
    assert torch.equal(model(IDS), before)


def test_packed_and_saved_is_what_was_trained(tmp_path):
    model = zoo.load("gat", lora=zoo.LoRA(4, targets="all"), device="cpu", seed=0)
    model.tune(steps=2, batch_size=64, quantize=4, quiet=True)
    assert model.active == ("default", "quantized")
    batch = next(iter(model.batches(batch_size=8)))
    before = model.loss(batch)
    model.save_adapter(tmp_path / "adapter")
    model.merge()
    assert torch.equal(model.loss(batch), before)
    assert model.footprint().quantized_share > 0.9
    model.save(tmp_path / "model", packed=True)
    again = zoo.load(str(tmp_path / "model"), device="cpu")
    assert torch.equal(again.loss(batch), before)
    places = {"default": tmp_path / "adapter", "quantized": tmp_path / "adapter" / "quantized"}
    apart = zoo.load("gat", device="cpu", lora={name: str(place) for name, place in places.items()})
    assert torch.equal(apart.loss(batch), before)


@pytest.mark.parametrize(("pattern", "share"), [("magnitude", 0.8), ("channels", 0.5), ("2:4", 0.5), ("1:8", 0.875)])
def test_zeros_stay_through_training_and_merging(pattern, share):
    model = odd(a=4, zeros=zoo.Prune(share, pattern))
    zero = {name: tensor == 0 for name, tensor in values(model).items()}
    assert all(one.float().mean().item() == pytest.approx(share, abs=0.02) for one in zero.values())
    optimizer = torch.optim.SGD([p for _, p in model.trainable_parameters()], lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        model(IDS).square().mean().backward()
        optimizer.step()
    before = model(IDS)
    model.merge()
    assert all((tensor[zero[name]] == 0).all() for name, tensor in values(model).items())
    torch.testing.assert_close(model(IDS), before)
    assert not any(isinstance(one, zoo.LazyWeight) for one in model.unload().__dict__.values())


def test_the_order_of_adding_does_not_matter():
    first, second = odd(zeros=zoo.Prune(0.8), low=zoo.QuantizeAware(4), a=4), odd(a=4, low=zoo.QuantizeAware(4))
    second.add_adapter("zeros", zoo.Prune(0.8))
    for model in (first, second):
        assert all((tensor == 0).float().mean() > 0.79 for tensor in values(model).values())
        before = model(IDS)
        model.merge()
        assert torch.equal(model(IDS), before)
    first.unmerge()
    first.activate("a")
    assert not any((tensor == 0).float().mean() > 0.1 for tensor in values(first).values())
    first.remove_adapter("zeros")


def test_channels_are_outputs_and_groups_are_of_inputs():
    sizes = torch.arange(1.0, 33.0).view(4, 8)
    rows = kept(sizes, Layout(), zoo.Prune(0.5, "channels"))
    assert rows.flatten().tolist() == [False, False, True, True]
    columns = kept(sizes.T, Layout(transposed=True), zoo.Prune(0.5, "channels"))
    assert columns.shape == (1, 4)
    assert torch.equal(kept(sizes, Layout(), zoo.Prune(pattern="2:4"))[0], torch.tensor([0, 0, 1, 1] * 2).bool())
    assert torch.equal(
        kept(sizes.T, Layout(transposed=True), zoo.Prune(pattern="2:4"))[:, 0], torch.tensor([0, 0, 1, 1] * 2).bool()
    )
    assert kept(torch.rand(3, 6), Layout(), zoo.Prune(pattern="2:4"))[:, 4:].all()  # a rest of fewer stays


def test_full_training_of_quantized_values():
    model = odd(whole=zoo.Full(targets=["lin.weight", "raw"]), low=zoo.QuantizeAware(4, targets=["lin", "raw"]))
    before = model(IDS)
    before.sum().backward()
    assert all(p.grad.abs().sum() > 0 for _, p in model.trainable_parameters())
    model.merge()
    assert torch.equal(model(IDS), before)


def test_copies_and_meta():
    model = odd(a=2, zeros=zoo.Prune(0.5), low=zoo.QuantizeAware(8))
    for module in (copy.deepcopy(model.module), pickle.loads(pickle.dumps(model.module))):
        assert torch.equal(module(IDS), model(IDS))
    empty = zoo.load(
        "vit", device="meta", lora={"a": 2, "zeros": zoo.Prune(0.5, "channels"), "low": zoo.QuantizeAware(4)}
    )
    assert empty.footprint().trainable > 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: zoo.Prune(1.0),
        lambda: zoo.Prune(float("nan")),
        lambda: zoo.Prune(pattern="4:2"),
        lambda: zoo.Prune(pattern="best"),
        lambda: zoo.Prune(pattern=None),
        lambda: zoo.QuantizeAware(3),
        lambda: zoo.QuantizeAware(4, "int8"),
    ],
)
def test_what_cannot_be(make):
    with pytest.raises(AdapterError, match=r"expected|stores"):
        make()


def test_bad_input_leaves_the_model_as_it_was():
    model = zoo.load("gat", lora=2, device="cpu")
    with pytest.raises(QuantizationError, match="no quantizer for scheme 'nothing'"):
        model.tune(steps=1, quantize=zoo.Quantization(3, "nothing"), quiet=True)
    with pytest.raises(AdapterError, match="expected a width"):
        model.tune(steps=1, quantize=zoo.Quantization(4, average=4.5), quiet=True)
    assert model.active == ("default",)
    model.deactivate()
    with pytest.raises(AdapterError, match="beside what trains"):
        model.tune(steps=1, quantize=4, quiet=True)
    with pytest.raises(TuningError, match=r"zoo\.Model"):
        model.tune(steps=1, teacher="gat", quiet=True)
