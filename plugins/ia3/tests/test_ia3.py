"""(IA)³ against PEFT's, on weights that PEFT has none for, and as a plugin."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import zoo
import zoo_ia3
from zoo.catalog import discovery
from zoo.errors import AdapterError
from zoo.plugin import hooks
from zoo_ia3.update import Scaled

LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "Linear": (lambda: nn.Linear(20, 12), lambda: torch.randn(2, 5, 20)),
    "Linear without bias": (lambda: nn.Linear(20, 12, bias=False), lambda: torch.randn(2, 5, 20)),
    "Conv1D": (lambda: Conv1D(12, 20), lambda: torch.randn(2, 5, 20)),
    "Conv2d": (lambda: nn.Conv2d(6, 8, 3, padding=1, stride=2), lambda: torch.randn(2, 6, 7, 8)),
    "Conv3d": (lambda: nn.Conv3d(4, 6, 3), lambda: torch.randn(1, 4, 4, 5, 4)),
}


class Holder(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(0.5 * torch.randn_like(parameter))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def error(found: Tensor | None, expected: Tensor | None) -> float:
    assert found is not None
    assert expected is not None
    assert found.shape == expected.shape
    assert expected.abs().max() > 0
    return ((found - expected).abs().max() / expected.abs().max()).item()


def update_of(model: zoo.Model) -> Scaled:
    (update,) = model.module.layer.weight._zoo_store.updates.values()
    assert isinstance(update, Scaled)
    return update


@pytest.mark.parametrize("feedforward", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_outputs_gradients_and_merging_equal_peft(name: str, feedforward: bool) -> None:
    import peft

    make, draw = LAYERS[name]
    module, x = Holder(make()), draw()
    within = ["layer"] if feedforward else []
    config = peft.IA3Config(target_modules=["layer"], feedforward_modules=within, fan_in_fan_out=name == "Conv1D")
    theirs: Any = peft.inject_adapter_in_model(config, copy.deepcopy(module))
    model = zoo.wrap(copy.deepcopy(module), lora=zoo_ia3.IA3(targets=["layer"], feedforward=within))
    expected = theirs.layer.ia3_l["default"]
    found = update_of(model).ia3_l
    assert found.shape == expected.shape
    assert error(model(x), module(x)) < 1e-6  # ones change nothing; a bias is added apart
    with torch.no_grad():
        found.copy_(expected.normal_())
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    y, other = model(inputs[0]), theirs(inputs[1])
    assert error(y, other) < 1e-5
    g = torch.randn_like(y)
    y.backward(g)
    other.backward(g)
    assert error(found.grad, expected.grad) < 1e-5
    assert error(inputs[0].grad, inputs[1].grad) < 1e-5
    assert [one.data_ptr() for _, one in model.trainable_parameters()] == [found.data_ptr()]
    model.merge()
    assert error(model(x), other) < 1e-5
    model.unmerge()
    assert torch.equal(model(x), y)
    model.deactivate()
    assert torch.equal(model(x), module(x))
    model.remove_adapter("default")
    assert {name for name, _ in model.module.named_parameters()} == {name for name, _ in module.named_parameters()}


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 6)
        self.up = nn.ConvTranspose1d(6, 8, 3, groups=2)
        self.raw = nn.Parameter(torch.randn(1, 8, 4))
        self.att = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, index: Tensor) -> Tensor:
        x = self.up(self.embed(index).mT).mT @ self.raw
        return self.att(x, x, x)[0]


@pytest.mark.parametrize("bits", [None, 4])
def test_any_weight_and_its_bias(bits: int | None) -> None:
    model, index = zoo.wrap(Odd().eval(), bits=bits), torch.randint(9, (3, 5))
    before, dense = model(index), {name: one.clone() for name, one in model.state_dict().items()}
    model.add_adapter("a", zoo_ia3.IA3(targets="all"))
    assert (model(index) - before).abs().max() < 1e-6
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.add_(torch.rand_like(parameter))
    now = model.state_dict()
    l = {name.split("_store")[0]: one for name, one in model.trainable_parameters()}  # noqa: E741 - as in the paper
    assert torch.equal(now["embed.weight"], dense["embed.weight"] * l["embed.weight"].view(1, 6))
    assert torch.equal(now["up.weight"], dense["up.weight"] * l["up.weight"].view(1, 4, 1))
    assert torch.equal(now["up.bias"], dense["up.bias"] * l["up.weight"].view(4).repeat(2))
    assert torch.equal(now["raw"], dense["raw"] * l["raw"].view(1, 8, 1))
    assert torch.equal(now["att.in_proj_bias"], dense["att.in_proj_bias"] * l["att.in_proj_weight"].view(12))
    assert torch.equal(now["att.out_proj.weight"], dense["att.out_proj.weight"] * l["att.out_proj.weight"].view(4, 1))
    copied = copy.deepcopy(model.module)
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.fill_(1)
    assert (copied(index) - before).abs().max() > 1e-3
    assert (model(index) - before).abs().max() < 1e-6


@pytest.mark.parametrize("bits", [None, 4])
def test_it_tunes_a_model(bits: int | None) -> None:
    config = zoo_ia3.IA3(targets=["c_attn", "mlp.c_proj"], feedforward=["mlp.c_proj"])
    model = zoo.load("gpt", bits=bits, lora=config, device="cpu")
    shapes = {tuple(one.shape) for _, one in model.trainable_parameters()}
    width = model.module.config.n_embd
    assert shapes == {(3 * width, 1), (1, 4 * width)}
    batch = next(iter(model.batches(Path(__file__), batch_size=2)))
    before = model.loss(batch).item()
    model.tune(Path(__file__), steps=2, batch_size=2, lr=1e-3)
    assert model.loss(batch).item() != before
    model.deactivate()
    assert model.loss(batch).item() == pytest.approx(before, rel=1e-5)


def test_the_configuration_is_read_as_peft_writes_it_and_back(tmp_path: Path) -> None:
    import peft

    values: dict[str, Any] = {"target_modules": ["a", "b"], "feedforward_modules": ["b"], "modules_to_save": ["head"]}
    peft.IA3Config(**values).save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "adapter_config.json").read_text())
    config = hooks.adapter_config("ia3", raw)
    assert isinstance(config, zoo_ia3.IA3)
    assert (set(config.targets or ()), config.feedforward, config.modules_to_save) == ({"a", "b"}, ("b",), ("head",))
    assert zoo_ia3.IA3.from_peft(config.to_peft()) == config
    assert peft.IA3Config(**{**config.to_peft(), "peft_type": None}).feedforward_modules == {"b"}
    assert [config.scales_inputs(name) for name in ("x.a.weight", "x.b.weight", "b", "ab.weight")] == [
        False,
        True,
        True,
        False,
    ]
    with pytest.raises(AdapterError, match="other = 3 is a feature of PEFT"):
        zoo_ia3.IA3.from_peft(raw | {"other": 3})


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"feedforward": ["c"], "targets": ["a"]}, "feedforward: 'c' is not one of the targets"),
        ({"feedforward": "("}, "feedforward: .* is not a regular expression"),
        ({"feedforward": [1]}, "feedforward: expected suffixes"),
        ({"targets": []}, "targets: expected"),
    ],
)
def test_what_cannot_be_is_named(values: dict[str, Any], match: str) -> None:
    with pytest.raises(AdapterError, match=match):
        zoo_ia3.IA3(**values)


def test_importing_it_imports_nothing_heavy() -> None:
    code = "import sys, zoo_ia3; zoo_ia3.IA3(targets=['a']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_the_installed_plugin_is_found() -> None:
    assert "ia3" in discovery.claims(), "its entry point is not installed: pip install --no-deps -e . at the root"
    assert set(hooks.implemented("ia3")) == {"adapter_config", "inject_adapter"}
