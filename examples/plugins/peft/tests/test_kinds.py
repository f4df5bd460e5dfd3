"""Each of PEFT's kinds on small layers: the same outputs as PEFT's own, gradients, stacking, and what is refused."""

from __future__ import annotations

import copy
import json
import warnings
from typing import Any

import peft
import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

import zoo
from zoo.testing import conformance
from zoo.weights.walk import managed_weights
from zoo_peft import Peft
from zoo_peft.kinds import REFUSED, SUPPORTED

pytestmark = [
    pytest.mark.filterwarnings("ignore:Failed to load the CUDA extension"),  # PEFT's own, of an optional kernel
    pytest.mark.filterwarnings("ignore:Setting boft_n_butterfly_factor to 1"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled"),  # torch's, of SHiRA's tensors
]
CONFIGS: dict[str, Any] = {
    "BOFT": peft.BOFTConfig(boft_block_size=4),
    "C3A": peft.C3AConfig(block_size=8),
    "DEFT": peft.DeftConfig(r=4),
    "DELORA": peft.DeloraConfig(r=4),
    "FOURIERFT": peft.FourierFTConfig(n_frequency=30, scaling=20.0),
    "GRALORA": peft.GraloraConfig(r=4),
    "HIRA": peft.HiraConfig(r=4),
    "HRA": peft.HRAConfig(r=4),
    "IA3": peft.IA3Config(feedforward_modules=["fc1"]),
    "LOHA": peft.LoHaConfig(r=4),
    "LOKR": peft.LoKrConfig(r=4),
    "MISS": peft.MissConfig(r=5),
    "OFT": peft.OFTConfig(oft_block_size=8),
    "PEANUT": peft.PeanutConfig(r=4),
    "SHIRA": peft.ShiraConfig(r=4, random_seed=0),
    "WAVEFT": peft.WaveFTConfig(n_frequency=30, scaling=5.0),
}


def config(kind: str, **changes: Any) -> Any:
    made = copy.deepcopy(CONFIGS[kind])
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def own_parameters(tuner: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a layer of PEFT's without the base's."""
    return {name: p for name, p in tuner.named_parameters() if not name.startswith("base_layer.")}


def perturb(module: nn.Module, seed: int = 0) -> None:
    """Move every trainable parameter away from where it starts."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.requires_grad:
            size = 0.1 * float(parameter.detach().abs().mean()) + 0.05
            parameter.data += size * torch.randn(parameter.shape, generator=generator)


LAYERS = ("table", "fc1", "fc2", "hf", "conv", "one", "conv1d")
# What PEFT adapts, of those. fc1 is a feedforward layer to IA3, fc2 is not.
LINEAR = {"fc1", "fc2"}
THEIRS = {
    **dict.fromkeys(("C3A", "DELORA", "MISS", "PEANUT", "SHIRA"), LINEAR),
    **dict.fromkeys(("DEFT", "FOURIERFT", "GRALORA", "WAVEFT"), LINEAR | {"hf"}),
    **dict.fromkeys(("BOFT", "HRA"), LINEAR | {"conv", "one"}),
    **dict.fromkeys(("LOHA", "LOKR"), LINEAR | {"conv", "one", "conv1d"}),
    "IA3": LINEAR | {"hf", "conv", "one"},
    "OFT": LINEAR | {"table", "conv", "one"},
    "HIRA": set(LAYERS),
}


class Net(nn.Module):
    """One layer of each sort, biases included."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(24, 16)
        self.fc1 = nn.Linear(16, 24)
        self.fc2 = nn.Linear(24, 24)
        self.hf = Conv1D(32, 24)
        self.conv = nn.Conv2d(8, 16, 3, padding=1)
        self.one = nn.Conv2d(16, 8, 1)
        self.conv1d = nn.Conv1d(8, 8, 3, padding=1)

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        x = self.hf(torch.tanh(self.fc2(torch.tanh(self.fc1(self.table(index))))))
        return self.conv1d(self.one(torch.tanh(self.conv(x.view(-1, 8, 4, 4)))).flatten(2))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(3)
    made = Net()
    nn.init.normal_(made.hf.bias)
    return made.eval()


INDEX = torch.tensor([[0, 5, 23, 7], [1, 1, 2, 20], [9, 8, 6, 3]])


def tuner_of(module: nn.Module) -> BaseTunerLayer:
    (found,) = (layer for layer in module.modules() if isinstance(layer, BaseTunerLayer))
    return found


def update_of(module: nn.Module, suffix: str = ".weight") -> zoo.Update:
    (store,) = (store for name, store in managed_weights(module).items() if name.endswith(suffix))
    return store.updates["default"]


@pytest.mark.parametrize(("kind", "layer"), [(kind, layer) for kind in SUPPORTED for layer in LAYERS])
def test_it_computes_what_peft_computes_and_all_of_it_trains(net, kind, layer):
    theirs = copy.deepcopy(net)
    chosen = config(kind, target_modules=[layer])
    if layer not in THEIRS[kind]:
        with pytest.raises((TypeError, ValueError, NotImplementedError)):
            peft.inject_adapter_in_model(copy.deepcopy(chosen), theirs)
        if layer in ("conv", "one", "conv1d"):
            before = net(INDEX)
            with pytest.raises(zoo.AdapterError, match=rf"^{layer}\.weight \(.*\): PEFT's {kind} does not take it: "):
                zoo.wrap(net, lora=Peft(chosen))
            assert isinstance(net.get_parameter(f"{layer}.weight"), nn.Parameter)
            assert torch.equal(net(INDEX), before)
            return
        # Matrices of other layers than PEFT knows: its own formula, on any of them.
        model = zoo.wrap(net, lora=Peft(chosen), seed=0)
        perturb(update_of(net))
        with torch.no_grad():
            assert 1e-6 < float((model(INDEX) - theirs(INDEX)).norm() / theirs(INDEX).norm()) < 10
    else:
        model = zoo.wrap(net, lora=Peft(chosen), seed=0)
        update = update_of(net)
        peft.inject_adapter_in_model(copy.deepcopy(chosen), theirs)
        perturb(theirs)
        tuner = tuner_of(theirs.eval())
        values, mine = own_parameters(tuner), dict(update.tuner.named_parameters())
        assert values.keys() == mine.keys()
        for name, parameter in mine.items():
            parameter.data.copy_(values[name].data)
        y = model(INDEX)
        if (kind, layer) == ("OFT", "conv"):  # whose unmerged outputs are not those of its merged weight, in PEFT
            tuner.merge()
        torch.testing.assert_close(y, theirs(INDEX), rtol=1e-5, atol=1e-6)
        assert (y - Net.forward(_without(model), INDEX)).abs().max() > 1e-4
        model.activate("default")
    model(INDEX).square().sum().backward()
    for name, parameter in update_of(net).named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def _without(model: zoo.Model) -> nn.Module:
    model.deactivate()
    return model.module


@pytest.mark.parametrize("kind", SUPPORTED)
def test_copies_merging_and_four_bit(net, kind):
    scheme = 4 if kind in ("OFT", "HRA", "LOHA", "FOURIERFT") else None
    model = zoo.wrap(net, bits=scheme, lora=Peft(config(kind, target_modules=["fc1", "fc2"])), seed=0)
    perturb(net)
    y = model(INDEX)
    assert torch.equal(copy.deepcopy(model)(INDEX), y)
    model.merge()
    torch.testing.assert_close(model(INDEX), y, rtol=1e-4, atol=1e-6)
    model.unmerge()
    assert torch.equal(model(INDEX), y)
    half = copy.deepcopy(model).module.to(torch.bfloat16)
    torch.testing.assert_close(half(INDEX).float(), y, rtol=0.1, atol=0.1 * float(y.detach().abs().max()))


@pytest.mark.parametrize("kind", SUPPORTED)
def test_two_of_a_kind_both_train_and_gradients_are_right(kind):
    torch.manual_seed(0)
    model = zoo.wrap(nn.Linear(16, 24).double(), lora=Peft(config(kind, target_modules=["weight"])), seed=0)
    model.add_adapter("second", Peft(config("LOHA", target_modules=["weight"])), seed=1)
    model.module.double()
    perturb(model.module)
    store = managed_weights(model.module)["weight"]
    first, second = store.updates["default"], store.updates["second"]
    held = list(first.parameters())
    W = torch.randn(24, 16, dtype=torch.float64, requires_grad=True)

    def changed(weight: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return first(weight)

    single = kind in ("C3A", "DEFT", "FOURIERFT")  # which go through float32 inside PEFT
    step, atol, rtol = (1e-2, 1e-2, 2e-2) if single else (1e-6, 1e-5, 1e-3)
    assert torch.autograd.gradcheck(changed, (W, *held), eps=step, atol=atol, rtol=rtol, fast_mode=True)
    model.activate("second", "default")
    model(torch.randn(5, 16, dtype=torch.float64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in (*held, *second.parameters()))


def test_patterns_by_name_hold(net):
    chosen = config("DELORA", target_modules=["fc1", "fc2"], rank_pattern={"fc2": 2})
    model = zoo.wrap(net, lora=Peft(chosen), seed=0)
    held = managed_weights(model.module)
    assert held["fc1.weight"].updates["default"].tuner.delora_A["default"].shape[0] == 4
    assert held["fc2.weight"].updates["default"].tuner.delora_A["default"].shape[0] == 2


class Raw(nn.Module):
    """Weights that PEFT has no layer for."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(16, 8)
        self.att = nn.Parameter(torch.randn(1, 4, 8))
        self.up = nn.ConvTranspose2d(8, 4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.rnn(x)[0]
        return self.up((x.unsqueeze(1) * self.att).transpose(1, 2)[..., None])


def test_weights_that_peft_has_no_layer_for():
    torch.manual_seed(0)
    raw = Raw()
    x = torch.randn(3, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = zoo.wrap(raw, lora=Peft(peft.LoKrConfig(r=2), targets="all"), seed=0)
        perturb(raw)
        model(x).square().sum().backward()
    assert {name for name, _, _, _, adapters in model.weights() if adapters} == {
        "att",
        "rnn.weight_ih_l0",
        "rnn.weight_hh_l0",
        "up.weight",
    }
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in raw.parameters() if p.requires_grad)
    assert raw.get_parameter("up.weight").shape == (8, 4, 2, 2)


# What is refused


@pytest.mark.parametrize("kind", sorted(peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING))
def test_every_kind_of_peft_is_either_taken_or_refused_with_a_reason(kind):
    assert (kind in SUPPORTED) != (kind in REFUSED)
    assert (kind in SUPPORTED) == (kind in CONFIGS)


def made(kind: Any, **arguments: Any) -> Any:
    return peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING[kind](**arguments)


@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        (lambda: made("LORA", r=4), "LoraConfig: zoo has it itself: use zoo.LoRA"),
        (lambda: made("VERA", r=4), "VeraConfig: its weights share tensors"),
        (lambda: made("PROMPT_TUNING"), "PromptTuningConfig: it adds tokens or states and changes no weight"),
        (lambda: made("LOHA", module_dropout=0.1), "LoHaConfig: module_dropout = 0.1 is drawn for each input"),
        (lambda: made("HRA", bias="all"), "HRAConfig: bias = 'all' is not read"),
        (lambda: made("SHIRA"), "ShiraConfig: give it a random_seed"),
        (lambda: made("LOKR", layers_to_transform=[0], target_modules=["a"]), "layers_to_transform is not read"),
        (lambda: zoo.LoRA(), "expected a configuration such as peft.OFTConfig"),
    ],
)
def test_what_is_no_function_of_a_weight_is_refused(refused, reason):
    with pytest.raises(zoo.AdapterError) as caught:
        Peft(refused())
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_configuration_survives_its_file():
    for kind in SUPPORTED:
        one = Peft(config(kind, target_modules={"fc1", "fc2"}), modules_to_save=["head"])
        assert sorted(one.targets) == ["fc1", "fc2"]
        raw = json.loads(json.dumps(one.to_peft()))
        again = Peft.from_peft(raw)
        assert again.targets == one.targets
        assert again.modules_to_save == ("head",)
        assert again.to_peft() == one.to_peft()
        assert type(again.config) is type(one.config)
    assert Peft(config("OFT", target_modules="all-linear")).targets == "all"
    assert Peft(config("OFT"), targets="all").targets == "all"
    for wrong in (None, 3, {"peft_type": "NOTHING"}):
        with pytest.raises(zoo.AdapterError):
            Peft.from_peft({"peft_type": "PEFT", "config": wrong})


# Added to the weight, and a product with it that changes biases too.
test_promise_of_lokr = conformance("peft", adapter=Peft(config("LOKR"), targets="all"))
test_promise_of_ia3 = conformance("peft", adapter=Peft(config("IA3"), targets="all"))
