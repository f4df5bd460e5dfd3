"""The verbs of zoo.Model: adapters on and off, merging, saving, and what stays exactly as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.errors import AdapterError, OutputError, TuningError, UnknownNameError
from zoo.plugin import hooks
from zoo.storage import atomic


class Net(nn.Module):
    """Convolutions, linear layers, an embedding whose weight a head shares, dropout: ids (n, 6) → (n, 6, 9)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 64)
        self.conv = nn.Conv1d(64, 64, 3, padding=1)
        self.norm = nn.LayerNorm(64)
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(64, 64)
        self.head = nn.Linear(64, 9, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("shift", torch.randn(64))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.conv(self.embed(ids).transpose(1, 2)).transpose(1, 2) + self.shift
        return self.head(self.fc(self.drop(self.norm(x))).tanh())


@pytest.fixture
def net() -> Net:
    return Net().eval()


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(0, 9, (4, 6))


@torch.no_grad()
def out(model: Any, ids: Tensor) -> Tensor:
    return model(ids)


@torch.no_grad()
def perturb(model: zoo.Model, size: float = 0.1) -> None:
    for name, parameter in model.module.named_parameters():
        if ".updates." in name:
            parameter.copy_(size * torch.randn_like(parameter))


def held(model: zoo.Model) -> dict[str, Tensor]:
    """All that is stored, bit for bit."""
    return {name: tensor.clone() for name, tensor in model.module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


two = {"a": zoo.LoRA(rank=2, targets=["fc", "embed"]), "b": zoo.LoRA(rank=3, targets=["conv", "fc"], alpha=5)}


@pytest.mark.parametrize("bits", [None, 4, 8, 16])
def test_several_adapters_add_up_in_any_order(bits: int | None, net: Net, ids: Tensor) -> None:
    model = zoo.wrap(net, bits=bits, lora=two)
    plain = None
    perturb(model)
    weights = {}
    for names in ((), ("a",), ("b",), ("a", "b"), ("b", "a")):
        model.activate(*names)
        assert model.active == names
        weights[names] = model.state_dict()
        if not names:
            plain = out(model, ids)
        else:
            assert not torch.equal(out(model, ids), plain)
    for name in ("fc.weight", "conv.weight", "embed.weight"):
        base, a, b, ab, ba = (weights[names][name] for names in ((), ("a",), ("b",), ("a", "b"), ("b", "a")))
        torch.testing.assert_close(ab - base, (a - base) + (b - base), rtol=0, atol=1e-6)
        torch.testing.assert_close(ab, ba, rtol=0, atol=1e-6)
    model.activate("a", "b")
    one = out(model, ids)
    model.activate("b", "a")
    torch.testing.assert_close(out(model, ids), one, rtol=1e-5, atol=1e-5)
    model.activate("a", "a")
    assert model.active == ("a",)


@pytest.mark.parametrize("bits", [None, 4, 8])
def test_deactivate_restores_the_base_bit_for_bit(bits: int | None, net: Net, ids: Tensor) -> None:
    model = zoo.wrap(net, bits=bits)
    before, stored = out(model, ids), model.state_dict()
    for name, lora in two.items():
        model.add_adapter(name, lora)
    assert torch.allclose(out(model, ids), before, atol=1e-6)  # new ones change nothing
    perturb(model)
    assert not torch.allclose(out(model, ids), before, atol=1e-3)
    model.deactivate()
    assert model.active == ()
    assert torch.equal(out(model, ids), before)
    assert same(model.state_dict(), stored)
    model.activate("b")
    model.remove_adapter("b")
    assert torch.equal(out(model, ids), before)


def test_removing_the_last_adapter_gives_the_parameters_themselves_back(net: Net, ids: Tensor) -> None:
    net.conv.weight.requires_grad_(False)
    before = [(name, id(parameter), parameter.requires_grad) for name, parameter in net.named_parameters()]
    output, keys = out(net, ids), list(net.state_dict())
    model = zoo.wrap(net, lora=two)
    perturb(model)
    model.remove_adapter("a")
    assert tuple(model.adapters) == model.active == ("b",)
    assert all(".updates." in name for name, _ in model.trainable_parameters())
    model.remove_adapter("b")
    assert [(name, id(parameter), parameter.requires_grad) for name, parameter in net.named_parameters()] == before
    assert net.head.weight is net.embed.weight
    assert torch.equal(out(net, ids), output)
    assert list(net.state_dict()) == keys
    assert not model.adapters


@pytest.mark.parametrize("bits", [None, 4, 8, zoo.Quantization(4, "fp4", 256)])
def test_merging_keeps_the_adapter_and_unmerging_the_bits(bits: Any, net: Net, ids: Tensor) -> None:
    model = zoo.wrap(net, bits=bits, lora=two)
    perturb(model)
    before, output = held(model), out(model, ids)
    model.deactivate()
    base = out(model, ids)
    model.activate("a", "b")
    assert (output - base).norm() > 0.01 * base.norm()
    for _ in range(5):
        model.merge()
        assert model.active == ()
        merged = out(model, ids)
        assert (merged - output).abs().max() < (1e-4 if bits else 1e-5) * output.abs().max()
        model.unmerge()
        assert model.active == ("a", "b")
        assert same(held(model), before)
        assert torch.equal(out(model, ids), output)


def test_a_tiny_adapter_is_not_rounded_away_by_merging_into_4_bit(net: Net, ids: Tensor) -> None:
    """Requantizing after the merge loses an update of 1 % of the weight entirely."""
    model = zoo.wrap(net, bits=4, lora=zoo.LoRA(rank=4, targets=["fc"]))
    perturb(model, 0.01)
    model.deactivate()
    base = model.state_dict()["fc.weight"]
    model.activate("default")
    wanted = model.state_dict()["fc.weight"] - base
    assert wanted.norm() < 0.02 * base.norm()
    model.merge()
    assert (model.state_dict()["fc.weight"] - base - wanted).norm() < 1e-3 * wanted.norm()


def test_merging_some_and_what_is_refused_meanwhile(net: Net, ids: Tensor) -> None:
    model = zoo.wrap(net, bits=4, lora=two)
    perturb(model)
    output = out(model, ids)
    model.merge("a")
    assert model.active == ("b",)
    torch.testing.assert_close(out(model, ids), output, rtol=1e-4, atol=1e-4)
    for verb in (lambda: model.activate("a"), lambda: model.merge("a"), lambda: model.remove_adapter("a")):
        with pytest.raises(AdapterError, match="merged"):
            verb()
    model.merge("b", "b")  # twice named, once merged
    torch.testing.assert_close(out(model, ids), output, rtol=1e-4, atol=1e-4)
    with pytest.raises(AdapterError, match="no adapter is active"):
        model.merge()
    model.unmerge()
    assert model.active == ("a", "b")
    assert torch.equal(out(model, ids), output)
    with pytest.raises(AdapterError, match="no adapter is merged"):
        model.unmerge()


def test_unmerging_activates_what_was_active_before(net: Net) -> None:
    model = zoo.wrap(net, lora=two)
    model.activate("b")
    model.merge("a")
    assert model.active == ("b",)
    model.unmerge()
    assert model.active == ("b",)


@pytest.mark.parametrize("bits", [None, 4])
def test_unload_leaves_the_librarys_own_module(bits: int | None, net: Net, ids: Tensor, tmp_path: Path) -> None:
    keys = list(net.state_dict())
    model = zoo.wrap(net, bits=bits, lora=two)
    perturb(model)
    model.merge("a")
    model.deactivate()
    merged = out(model, ids)
    plain = model.unload()
    assert torch.equal(out(plain, ids), merged)
    assert plain is net
    assert [type(parameter) for parameter in plain.parameters()] == [nn.Parameter] * len(list(Net().parameters()))
    assert all(parameter.requires_grad for parameter in plain.parameters())
    assert list(plain.state_dict()) == keys
    assert plain.head.weight is plain.embed.weight
    assert not {"get_parameter", "save_pretrained"} & set(vars(plain))
    assert (model.adapters, model.active, model.scheme) == ({}, (), None)
    torch.save(plain, tmp_path / "module.pt")
    zoo.wrap(plain, bits=4, lora=2)


@pytest.mark.parametrize("bits", [None, 4])
def test_unload_keeps_what_was_merged(bits: int | None, net: Net, ids: Tensor) -> None:
    model = zoo.wrap(net, bits=bits, lora=two)
    perturb(model)
    model.merge()
    merged = out(model, ids)
    assert torch.equal(out(model.unload(), ids), merged)


def test_names_that_are_not_known(net: Net) -> None:
    model = zoo.wrap(net, lora={"letters": 2})
    for verb in (model.activate, model.merge, model.remove_adapter):
        with pytest.raises(
            UnknownNameError, match=r"no adapter 'lettres'; there are letters\. Did you mean 'letters'\?"
        ):
            verb("lettres")
    assert model.active == ("letters",)
    with pytest.raises(AdapterError, match="there is an adapter 'letters' already"):
        model.add_adapter("letters")
    with pytest.raises(TypeError):
        model.adapters["x"] = zoo.LoRA()  # type: ignore[index]


def test_what_can_train(net: Net, ids: Tensor) -> None:
    model = zoo.wrap(copy.deepcopy(net))
    assert [name for name, _ in model.trainable_parameters()] == [name for name, _ in net.named_parameters()]
    quantized = zoo.wrap(copy.deepcopy(net), bits=4)
    with pytest.raises(TuningError, match="nothing can train: add one with lora= or add_adapter"):
        quantized.trainable_parameters()
    quantized.add_adapter("a", zoo.LoRA(rank=2, targets=["fc"]))
    quantized.add_adapter("b", zoo.LoRA(rank=2, targets=["conv"]))
    assert len(list(quantized.trainable_parameters())) == 4
    quantized.activate("b")
    assert all("conv" in name for name, _ in quantized.trainable_parameters())
    quantized(ids).sum().backward()
    assert [name for name, p in quantized.module.named_parameters() if p.grad is not None] == [
        name for name, _ in quantized.trainable_parameters()
    ]
    quantized.deactivate()
    with pytest.raises(TuningError, match=r"activate an adapter first, model\.activate"):
        quantized.trainable_parameters()
    quantized.remove_adapter("a")
    quantized.remove_adapter("b")
    with pytest.raises(TuningError):  # a quantized base does not begin to train because its adapters went
        quantized.trainable_parameters()


def test_training_and_evaluating(net: Net, ids: Tensor) -> None:
    model = zoo.wrap(net, lora=zoo.LoRA(rank=2, dropout=0.5))
    perturb(model)
    assert torch.equal(out(model, ids), out(model, ids))
    assert model.train() is model
    assert net.drop.training
    assert not torch.equal(out(model, ids), out(model, ids))
    state = model.state_dict()  # adapters' dropout must not show in it
    assert net.drop.training
    assert same(state, model.eval().state_dict())


@pytest.mark.parametrize("bits", [None, 4, 16])
def test_the_state_is_what_the_librarys_own_module_loads(bits: int | None, net: Net, ids: Tensor) -> None:
    model = zoo.wrap(copy.deepcopy(net), bits=bits, lora=two)
    perturb(model)
    model.merge("a")
    net.load_state_dict(model.state_dict())
    torch.testing.assert_close(out(net, ids), out(model, ids), rtol=1e-5, atol=1e-5)


def test_repr(net: Net) -> None:
    model = zoo.wrap(net, bits=4, lora=two)
    assert repr(model) == "zoo.Model('Net', Net, cpu, torch.float32, bits=4, active=a, b)"
    model.deactivate()
    assert repr(model) == "zoo.Model('Net', Net, cpu, torch.float32, bits=4)"


def test_saving_a_wrapped_module(net: Net, ids: Tensor, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = zoo.wrap(copy.deepcopy(net), bits=4, lora=two)
    perturb(model)
    assert model.save(tmp_path / "m") == tmp_path / "m"
    net.load_state_dict(load_file(tmp_path / "m" / "model.safetensors"))
    torch.testing.assert_close(out(net, ids), out(model, ids), rtol=1e-5, atol=1e-5)
    (tmp_path / "m" / "notes.txt").write_text("mine")
    model.save(tmp_path / "m")
    assert (tmp_path / "m" / "notes.txt").read_text() == "mine"
    (tmp_path / "m" / "pytorch_model.bin").write_text("another model")
    with pytest.raises(OutputError, match=r"holds other weights, pytorch_model\.bin"):
        model.save(tmp_path / "m")


def test_saving_where_it_cannot_be(net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.wrap(net)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot write"):
        model.save(tmp_path / "file" / "below")
    model.save(tmp_path / "m")
    before = {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()}

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "save_tensors", full)
    with pytest.raises(OutputError, match="No space left"):
        model.save(tmp_path / "m")
    assert {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"m", "file"}


@pytest.mark.parametrize("bits", [None, 4])
def test_transformers_reads_what_gpt_saves(bits: int | None, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 64, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": 70, "bos_token_id": 0}
    GPT2LMHeadModel(GPT2Config(**sizes, eos_token_id=0)).save_pretrained(tmp_path / "base")
    model = zoo.load(str(tmp_path / "base"), bits=bits, lora=zoo.LoRA(rank=2, targets="all"), device="cpu")
    perturb(model)
    model.save(tmp_path / "out")
    ids = torch.randint(0, 70, (2, 9))
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path / "out").eval()
    ours = zoo.load(str(tmp_path / "out"), device="cpu")
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)
        assert torch.equal(ours(ids).logits, theirs(ids).logits)


@pytest.mark.parametrize("bits", [None, 4])
def test_diffusers_reads_what_ddpm_saves(bits: int | None, tmp_path: Path) -> None:
    from diffusers import UNet2DModel

    made = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(32,),
        down_block_types=("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",),
    )
    made.save_pretrained(tmp_path / "base")
    model = zoo.load(str(tmp_path / "base"), bits=bits, lora=zoo.LoRA(rank=2, targets="all"), device="cpu")
    perturb(model, 0.05)
    model.save(tmp_path / "out")
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 900])
    theirs = UNet2DModel.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(x, t).sample, model(x, t).sample, rtol=1e-4, atol=1e-4)


def test_the_verbs_of_a_plugin_see_evaluation_mode_and_no_gradients(net: Net, ids: Tensor) -> None:
    import dataclasses

    seen = []
    plugin = ModuleType("zoo_seen")

    def note(model: zoo.Model) -> None:
        seen.append((model.module.training, model.module.drop.training, torch.is_grad_enabled()))

    def sample(model: zoo.Model, request: zoo.SampleRequest) -> zoo.Samples:
        note(model)
        return zoo.Samples(["x"] * request.n, "text")

    def evaluate(model: zoo.Model, data: Any) -> dict[str, float]:
        note(model)
        return {"loss": 1}

    functions: dict[str, Callable[..., Any]] = {
        "sample": sample,
        "evaluate": evaluate,
        "loss": lambda model, batch: batch.sum(),
    }
    for name, hook in functions.items():
        setattr(plugin, name, zoo.hookimpl(hook))
    hooks.reset()
    hooks.register(plugin, "seen")
    try:
        model = zoo.wrap(net, lora=2)
        model.adapter_set.entry = dataclasses.replace(model.entry, plugin="seen")
        model.train()
        net.norm.eval()
        assert len(model.sample(3, seed=1)) == 3
        assert model.evaluate() == {"loss": 1.0}
        assert seen == [(False, False, False)] * 2
        assert net.training
        assert net.drop.training
        assert not net.norm.training
        assert model.loss(torch.ones(3)) == 3
    finally:
        hooks.reset()


def test_merging_in_training_mode_folds_no_dropout_in(net: Net) -> None:
    model = zoo.wrap(net, lora=zoo.LoRA(rank=2, dropout=0.5, targets="all"))
    perturb(model)
    wanted = model.state_dict()["fc.weight"]
    model.train()
    model.merge()
    torch.testing.assert_close(model.state_dict()["fc.weight"], wanted, rtol=0, atol=1e-6)
    assert net.training
