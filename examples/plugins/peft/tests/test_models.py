"""PEFT's tuners on GPT-2, a vision transformer and a UNet: PEFT's own outputs and gradients, 4 bit, tuning, files."""

from __future__ import annotations

import copy
from typing import Any

import peft
import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

import zoo
from zoo.weights.walk import managed_weights
from zoo_peft import Peft

pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")

GPT, VIT, UNET = ["c_attn", "mlp.c_proj"], ["qkv", "fc1", "fc2"], ["conv1", "conv2", "conv_shortcut", "to_q", "to_v"]
CASES = [
    ("gpt", peft.IA3Config(target_modules=GPT, feedforward_modules=["mlp.c_proj"])),
    ("gpt", peft.FourierFTConfig(target_modules=GPT, n_frequency=100, scaling=20.0)),
    ("vit", peft.OFTConfig(target_modules=VIT, oft_block_size=8)),
    ("vit", peft.LoHaConfig(target_modules=[*VIT, "patch_embed.proj"], r=4)),
    ("ddpm", peft.LoKrConfig(target_modules=UNET, r=4)),
    ("ddpm", peft.HiraConfig(target_modules=UNET, r=4)),
]


def own_parameters(tuner: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a layer of PEFT's without the base's."""
    return {name: p for name, p in tuner.named_parameters() if not name.startswith("base_layer.")}


def perturb(module: nn.Module) -> None:
    """Move every trainable parameter away from where it starts."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        if parameter.requires_grad:
            size = 0.1 * float(parameter.detach().abs().mean()) + 0.05
            parameter.data += size * torch.randn(parameter.shape, generator=generator)


def ids(case: Any) -> str | None:
    return case if isinstance(case, str) else str(getattr(case.peft_type, "value", case.peft_type))


@pytest.fixture(scope="module")
def loaded() -> dict[str, zoo.Model]:
    return {}


def load(loaded: dict[str, zoo.Model], name: str) -> zoo.Model:
    if name not in loaded:
        loaded[name] = zoo.load(name, device="cpu")
    return loaded[name]


def outputs(name: str, module: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    if name == "gpt":
        return module(torch.randint(0, 3000, (2, 9), generator=generator)).logits
    if name == "vit":
        return module(torch.randn(3, 1, 32, 32, generator=generator))
    x, time = torch.randn(2, 1, 32, 32, generator=generator), torch.tensor([3, 700])
    return module(x, time, class_labels=torch.tensor([0, 25])).sample


@pytest.mark.parametrize(("name", "chosen"), CASES, ids=ids)
def test_a_models_outputs_and_gradients_are_those_of_peft(loaded, name, chosen):
    module = load(loaded, name).module
    theirs = peft.inject_adapter_in_model(copy.deepcopy(chosen), copy.deepcopy(module)).eval()
    perturb(theirs)
    model = zoo.wrap(copy.deepcopy(module), lora=Peft(chosen), seed=0)
    tuners = {path: layer for path, layer in theirs.named_modules() if isinstance(layer, BaseTunerLayer)}
    held = {name: store for name, store in managed_weights(model.module).items() if name.endswith(".weight")}
    assert {f"{path}.weight" for path in tuners} == held.keys()
    pairs = []
    for path, tuner in tuners.items():
        mine = dict(held[f"{path}.weight"].updates["default"].tuner.named_parameters())
        values = own_parameters(tuner)
        assert mine.keys() == values.keys()
        for key, parameter in mine.items():
            parameter.data.copy_(values[key].data)
            pairs.append((f"{path}.{key}", parameter, values[key]))
    one, two = outputs(name, model.module), outputs(name, theirs)
    assert (one - outputs(name, module)).norm() > 1e-3 * two.norm()
    assert (one - two).norm() <= 1e-5 * two.norm()
    one.square().mean().backward()
    two.square().mean().backward()
    for key, parameter, other in pairs:
        assert (parameter.grad - other.grad).norm() <= 1e-3 * other.grad.norm() + 1e-9, key


@pytest.mark.parametrize(("name", "chosen"), [CASES[0], CASES[2], CASES[4]], ids=ids)
def test_in_four_bit_it_learns_is_saved_and_merged(name, chosen, tmp_path):
    model = zoo.load(name, bits=4, lora=Peft(chosen), device="cpu", seed=0)
    before = [parameter.detach().clone() for _, parameter in model.trainable_parameters()]
    (tmp_path / "some.txt").write_text(
        "\n\n".join(f"The quick brown fox number {n} jumps over a lazy dog." for n in range(99))
    )
    data = str(tmp_path / "some.txt") if name == "gpt" else None
    model.tune(data, steps=2, batch_size=2, lr=1e-2, seed=0)
    assert all((new != old).any() for (_, new), old in zip(model.trainable_parameters(), before, strict=True))
    model.eval()
    with torch.no_grad():
        expected = outputs(name, model.module)
        model.save_adapter(tmp_path / "adapter")
        again = zoo.load(name, bits=4, lora=str(tmp_path / "adapter"), device="cpu")
        assert again.adapters["default"].to_peft() == model.adapters["default"].to_peft()
        torch.testing.assert_close(outputs(name, again.module), expected, rtol=1e-5, atol=1e-6)
        model.merge()
        merged = outputs(name, model.module)
        assert (merged - expected).norm() <= 1e-4 * expected.norm()
