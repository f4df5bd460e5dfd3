"""State dicts that a managed module cannot load raise, with `strict=False` too, and change nothing."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_model, save_file
from torch import Tensor, nn

import zoo
from zoo.errors import StateDictError, WeightError
from zoo.weights.walk import managed_weights


class Net(nn.Module):
    """A tied table, a recurrent layer, a raw parameter, and layers that stay plain."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 8)
        self.norm = nn.LayerNorm(8)
        self.cell = nn.LSTM(8, 8, batch_first=True)
        self.raw = nn.Parameter(torch.randn(8, 8))
        self.head = nn.Linear(8, 9)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.cell(self.norm(self.embed(ids)))[0] @ self.raw)


IDS = torch.arange(9).view(1, 9)


@pytest.fixture(params=[None, 4], ids=["32 bit", "4 bit"])
def model(request: pytest.FixtureRequest) -> zoo.Model:
    return stirred(zoo.wrap(Net().eval(), bits=request.param, lora=2))


@torch.no_grad()
def stirred(model: zoo.Model) -> zoo.Model:
    for name, parameter in model.module.named_parameters():
        if ".updates." in name:
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return model


def frozen(model: zoo.Model) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def load(module: nn.Module, state: dict[str, Any], folder: Path) -> Any:
    return module.load_state_dict(state, strict=False)


def strictly(module: nn.Module, state: dict[str, Any], folder: Path) -> Any:
    return module.load_state_dict(state)


def assigned(module: nn.Module, state: dict[str, Any], folder: Path) -> Any:
    return module.load_state_dict(state, strict=False, assign=True)


def wrapped(module: nn.Module, state: dict[str, Any], folder: Path) -> Any:
    outer = nn.ModuleDict({"model": module})
    return outer.load_state_dict({f"model.{key}": value for key, value in state.items()}, strict=False)


def by_safetensors(module: nn.Module, state: dict[str, Any], folder: Path) -> Any:
    save_file({name: tensor.clone() for name, tensor in state.items()}, folder / "model.safetensors")
    return load_model(module, folder / "model.safetensors", strict=False)


def by_accelerate(module: nn.Module, state: dict[str, Any], folder: Path) -> Any:
    from accelerate import load_checkpoint_in_model

    save_file({name: tensor.clone() for name, tensor in state.items()}, folder / "model.safetensors")
    return load_checkpoint_in_model(module, str(folder / "model.safetensors"), strict=False)


def by_dcp(module: nn.Module, state: dict[str, Any], folder: Path) -> Any:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    return set_model_state_dict(module, state, options=StateDictOptions(strict=False))


LOADERS = [load, strictly, assigned, wrapped, by_safetensors, by_accelerate, by_dcp]
Loader = Callable[[nn.Module, dict[str, Any], Path], Any]


@pytest.mark.parametrize("loader", LOADERS, ids=lambda loader: loader.__name__)
def test_dense_weights(loader: Loader, model: zoo.Model, tmp_path: Path) -> None:
    dense = frozen(model)
    stirred(model)
    expected = model(IDS)
    for only in (None, "head.weight", "cell.weight_hh_l0", "raw"):
        state = {**dense, "norm.weight": torch.ones(8) * 7} if only is None else {only: dense[only]}
        with pytest.raises(StateDictError, match=r"Unexpected key: expected the tensors of a managed weight"):
            loader(model.module, state, tmp_path)
    assert torch.equal(model(IDS), expected), "nothing is half loaded"
    assert issubclass(StateDictError, WeightError)
    assert issubclass(StateDictError, RuntimeError), "as torch's own error for state dicts"


def test_dense_weights_for_one_layer(model: zoo.Model) -> None:
    for layer, name in (("head", "weight"), ("cell", "weight_ih_l0"), ("embed", "weight")):
        with pytest.raises(StateDictError, match=f"^{name}: Unexpected key"):
            model.module.get_submodule(layer).load_state_dict({name: torch.randn(9, 8)}, strict=False)


def test_copies_refuse_too(model: zoo.Model) -> None:
    dense = frozen(model)
    for copied in (copy.deepcopy(model.module), pickle.loads(pickle.dumps(model.module))):
        with pytest.raises(StateDictError):
            copied.load_state_dict(dense, strict=False)
        copied.load_state_dict(model.module.state_dict())


def test_dense_weights_for_a_compiled_module() -> None:
    model = stirred(zoo.wrap(torch.compile(Net().eval(), backend="eager"), lora=2))
    plain, inner = frozen(model), model.module._orig_mod
    assert "head.weight" in plain, "the library's names"
    raw = copy.deepcopy(model.module.state_dict())
    for module, prefix in ((model.module, ""), (model.module, "_orig_mod."), (inner, "")):
        with pytest.raises(StateDictError, match="got a dense weight"):
            module.load_state_dict({prefix + name: tensor for name, tensor in plain.items()}, strict=False)
    model.module.load_state_dict(raw)
    with pytest.raises(StateDictError, match="is no managed weight of this module"):
        inner.load_state_dict(raw, strict=False)
    model.unload()
    assert not inner._load_state_dict_pre_hooks
    assert not model.module._load_state_dict_pre_hooks


def test_an_average_comes_back_through_a_file(model: zoo.Model, tmp_path: Path) -> None:
    average = torch.optim.swa_utils.AveragedModel(model.module)
    expected = average(IDS)
    torch.save(average.module.state_dict(), tmp_path / "average.pt")
    stirred(model)
    model.module.load_state_dict(torch.load(tmp_path / "average.pt", weights_only=True))
    assert torch.equal(model(IDS), expected)


def test_accelerate_state_comes_back(model: zoo.Model, tmp_path: Path) -> None:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState

    try:
        accelerator = Accelerator(cpu=True)
        accelerator.prepare(model.module)
        expected = model(IDS)
        accelerator.save_state(str(tmp_path))
        stirred(model)
        accelerator.load_state(str(tmp_path))
        assert torch.equal(model(IDS), expected)
    finally:  # accelerate keeps it for the whole process
        for kept in (AcceleratorState, PartialState, GradientState):
            kept._shared_state.clear()


def test_what_accelerate_hands_to_save_pretrained_is_written_dense(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"vocab_size": 20, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2}
    model = stirred(zoo.wrap(GPT2LMHeadModel(GPT2Config(**sizes)).eval(), bits=4, lora=2))
    ids = torch.arange(8).view(1, 8)
    model.module.save_pretrained(tmp_path, state_dict=model.module.state_dict())
    plain = GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(plain(ids).logits, model(ids).logits)
    with pytest.raises(StateDictError, match="expected a state dict of dense weights"):
        model.module.save_pretrained(tmp_path, state_dict=copy.deepcopy(model.module.state_dict()))


def test_tensors_of_other_adapters_targets_or_bits(model: zoo.Model) -> None:
    state = copy.deepcopy(model.module.state_dict())
    bits = 4 if model.scheme is None else None
    for other, match in (
        (zoo.wrap(Net(), bits=model.scheme, lora={"other": 2}), r"expected one of .*updates\.other\.A"),
        (
            zoo.wrap(Net(), lora=zoo.LoRA(rank=2, targets=["raw"])),
            "is no managed weight of this module|expected one of",
        ),
        (zoo.wrap(Net(), bits=bits, lora=2), "expected one of"),
    ):
        expected = other(IDS)
        with pytest.raises(StateDictError, match=match):
            other.module.load_state_dict(state, strict=False)
        assert torch.equal(other(IDS), expected)


def test_a_state_from_before_a_merge(model: zoo.Model) -> None:
    state = copy.deepcopy(model.module.state_dict())
    model.merge()
    with pytest.raises(StateDictError, match=r"expected merged weights.*model\.unmerge"):
        model.module.load_state_dict(state, strict=False)
    model.unmerge()
    model.module.load_state_dict(state)


def test_the_adapters_alone_are_complete(model: zoo.Model) -> None:
    expected = model(IDS)
    state = {name: tensor.clone() for name, tensor in model.module.state_dict().items() if ".updates." in name}
    stirred(model)
    assert not model.module.load_state_dict(state, strict=False).missing_keys
    assert torch.equal(model(IDS), expected)
    state.popitem()
    assert model.module.load_state_dict(state, strict=False).missing_keys
    with pytest.raises(RuntimeError, match="Missing key"):
        model.module.load_state_dict(state)


def test_a_plain_module_loads_again(model: zoo.Model) -> None:
    dense = frozen(model)
    stirred(model)
    plain = model.unload()
    plain.load_state_dict(dense)
    assert not any(layer._load_state_dict_pre_hooks or layer._load_state_dict_post_hooks for layer in plain.modules())
    again = zoo.wrap(Net(), lora=2)
    again.remove_adapter("default")
    again.module.load_state_dict(dense)
    assert not managed_weights(again.module)
