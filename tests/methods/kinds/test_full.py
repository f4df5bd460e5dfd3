"""Full training of chosen weights: norms, biases, heads, of any shape, alone and together with other kinds."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.pytorch_utils import Conv1D

import zoo
from zoo.errors import AdapterError
from zoo.methods.full import FullUpdate
from zoo.weights.lazy_weight import LazyWeight
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.walk import managed_weights

from .layers import error


class Mixed(nn.Module):
    """Layers with weights of one dimension and biases of many kinds; `head` shares its weight with `embed`."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 16)
        self.conv = nn.Conv1d(16, 16, 3, padding=1)
        self.norms = nn.ModuleDict(
            {"layer": nn.LayerNorm(16), "batch": nn.BatchNorm1d(16), "group": nn.GroupNorm(4, 16)}
        )
        self.att = nn.MultiheadAttention(16, 4, batch_first=True)
        self.lstm = nn.LSTM(16, 16, batch_first=True)
        self.up = nn.ConvTranspose1d(16, 16, 3, padding=1)
        self.act = nn.PReLU(16)
        self.gain = nn.Parameter(torch.ones(16))
        self.head = nn.Linear(16, 30)
        self.head.weight = self.embed.weight
        self.own = False

    def forward(self, index: Tensor) -> Tensor:
        x = self.conv(self.embed(index).mT).mT
        x = self.norms["group"](self.norms["batch"](self.norms["layer"](x).mT)).mT
        x = x + self.att(x, x, x)[0]
        x = self.lstm(x)[0]
        x = checkpoint(self.end, x, use_reentrant=False) if self.own else self.end(x)
        return self.head(x)

    def end(self, x: Tensor) -> Tensor:
        return self.act(self.up(x.mT)).mT * self.gain


def mixed() -> Mixed:
    torch.manual_seed(5)
    module = Mixed().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module


def index() -> Tensor:
    return torch.randint(30, (3, 7))


EVERY = {name for name, _ in Mixed().named_parameters()}
BIASES = {name for name in EVERY if name.endswith(".bias")}


@pytest.mark.parametrize(
    ("config", "replaced", "others"),
    [
        (zoo.Full(targets="all"), EVERY, 0),
        (zoo.Full(targets=["bias"]), BIASES, 0),
        (zoo.Full(targets=["norms"]), {name for name in EVERY if name.startswith("norms.")}, 0),
        (
            zoo.Full(targets=["layer", "group.weight", "gain"]),
            {"norms.layer.weight", "norms.layer.bias", "norms.group.weight", "gain"},
            0,
        ),
        (zoo.Full(targets=r"norms\..*|.*bias_.*"), {n for n in EVERY if n.startswith("norms.") or "bias_" in n}, 0),
        (zoo.Full(targets=["head"]), {"embed.weight", "head.bias"}, 0),
        (zoo.LoRA(2, targets=["conv", "up"], bias="lora_only"), {"conv.bias", "up.bias"}, 2),
        (zoo.LoRA(2, targets=["conv"], bias="all"), BIASES, 1),
        (
            zoo.LoRA(2, modules_to_save=["att", "norms.batch", "gain"], bias="lora_only"),
            {n for n in EVERY if n.startswith(("att.", "norms.batch."))}
            | {"gain", "conv.bias", "up.bias", "head.bias"},
            5,
        ),
        (zoo.LoHa(2, targets=["conv"], modules_to_save=["up"]), {"up.weight", "up.bias"}, 1),
        (zoo.LoKr(2, targets=["conv"], bias="lora_only"), {"conv.bias"}, 1),
    ],
    ids=lambda value: ",".join(sorted(value)) if isinstance(value, set) else str(value),
)
@pytest.mark.parametrize("bits", [None, 4])
def test_what_trains_switches_off_and_merges_exactly(
    config: Any, replaced: set[str], others: int, bits: int | None
) -> None:
    model, x = zoo.wrap(mixed(), bits=bits), index()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    raw = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    y = model(x)
    model.add_adapter("a", config)
    found = {name: store.updates["a"] for name, store in managed_weights(model.module).items() if "a" in store.updates}
    assert {name for name, update in found.items() if isinstance(update, FullUpdate)} == replaced
    assert len(found) == len(replaced) + others
    assert error(model(x), y) < 1e-6
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    model(x).square().mean().backward()
    trained = dict(model.trainable_parameters())
    assert all(parameter.grad is not None and bool(parameter.grad.isfinite().all()) for parameter in trained.values())
    assert all(found[name].weight.grad.any() for name in replaced if name != "att.in_proj_bias")
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(0.1 * torch.randn_like(parameter))
    moved = model(x)
    assert (moved - y).abs().max() > 1e-3
    dense = model.state_dict()
    for name in replaced:
        assert torch.equal(dense[name], found[name].weight)
    plain = Mixed().eval()
    plain.load_state_dict(dense)
    assert error(moved, plain(x)) < 1e-5
    model.merge()
    assert error(model(x), moved) < 1e-5
    merged = model.state_dict()
    model.unmerge()
    assert all(torch.equal(merged[name], dense[name]) for name in replaced)
    assert error(model(x), moved) < 1e-6
    model.deactivate()
    now = model.state_dict()
    assert all(torch.equal(now[name], tensor) for name, tensor in before.items())
    model.remove_adapter("a")
    held = model.module.state_dict()
    assert held.keys() == raw.keys()
    assert all(torch.equal(held[name], tensor) for name, tensor in raw.items())


@pytest.mark.parametrize("bits", [None, 4])
def test_gradients_are_those_of_the_plain_module(bits: int | None) -> None:
    plain, x = mixed(), index()
    model = zoo.wrap(copy.deepcopy(plain), bits=bits)
    with torch.no_grad():
        dense = model.state_dict()
    plain.load_state_dict(dense)
    model.add_adapter("a", zoo.Full(targets="all"))
    for module in (plain, model.module):
        module.train()
        module.own = True
    y, expected = model(x), plain(x)
    assert error(y, expected) < 1e-5
    g = torch.randn_like(y)
    y.backward(g)
    expected.backward(g)
    found = {name: store.updates["a"].weight.grad for name, store in managed_weights(model.module).items()}
    for name, parameter in plain.named_parameters():
        assert (found[name] - parameter.grad).abs().max() < 1e-5 * max(1.0, parameter.grad.abs().max()), name


def test_a_bias_keeps_the_low_rank_path_of_its_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[ManagedWeight] = []
    dense = ManagedWeight.dense
    monkeypatch.setattr(ManagedWeight, "dense", lambda self, dtype=None: (made.append(self), dense(self, dtype))[1])
    layers: list[tuple[nn.Module, Tensor]] = [
        (nn.Linear(6, 5), torch.randn(3, 6)),
        (Conv1D(5, 6), torch.randn(3, 6)),
        (nn.Conv2d(6, 5, 3), torch.randn(2, 6, 5, 5)),
        (nn.Conv1d(6, 5, 3, padding=1, padding_mode="circular"), torch.randn(2, 6, 5)),
        (nn.ConvTranspose2d(6, 5, 3), torch.randn(2, 6, 5, 5)),
    ]
    for layer, x in layers:
        for bits in (None, 4):
            model = zoo.wrap(copy.deepcopy(layer), bits=bits, lora=zoo.LoRA(2, bias="all"))
            made.clear()
            for y in (model(x), nn.functional.relu(model(x))):
                y.sum().backward()
            assert {tuple(store.shape) for store in made} == {(5,)}, layer
            gradients = {name: one.grad for name, one in model.trainable_parameters()}
            assert all(one is not None for one in gradients.values())
            assert gradients["bias_store.updates.default.weight"].any()
    model = zoo.wrap(nn.Linear(6, 5), lora=zoo.LoRA(2, bias="all"))
    weight, bias = model.module.weight, model.module.bias
    made.clear()
    y = nn.functional.linear(torch.randn(3, 6), weight=weight, bias=bias)
    assert isinstance(bias, LazyWeight)
    assert {tuple(store.shape) for store in made} == {(5,)}
    assert y.requires_grad


def test_compiled_without_a_break() -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.norm, self.two = nn.Linear(8, 8), nn.LayerNorm(8), nn.Conv1d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.norm(self.one(x)))

    x = torch.randn(2, 3, 8)
    dora = zoo.LoRA(2, dora=True, bias="all", modules_to_save=["norm"])
    configs: list[tuple[int | None, Any]] = [
        (None, {"dora": dora, "loha": zoo.LoHa(2, targets=["two"])}),
        (4, {"full": zoo.Full(targets="all"), "pissa": zoo.LoRA(2, init="pissa"), "lokr": zoo.LoKr(2)}),
    ]
    for bits, config in configs:
        torch.compiler.reset()
        model = zoo.wrap(Small(), bits=bits, lora=config).eval()
        expected = model(x)
        compiled = torch.compile(model.module, fullgraph=True, backend="aot_eager")
        y = compiled(x)
        assert error(y, expected) < 1e-5
        y.square().sum().backward()
        assert all(parameter.grad is not None for _, parameter in model.trainable_parameters())


def test_copies_and_types() -> None:
    model, x = zoo.wrap(mixed(), bits=4, lora=zoo.LoRA(2, bias="all", modules_to_save=["norms"])), index()
    copied = copy.deepcopy(model.module)
    assert torch.equal(copied(x), model(x))
    with torch.no_grad():
        for parameter in copied.parameters():
            if parameter.is_floating_point():
                parameter.zero_()
    assert model(x).any()
    half = zoo.wrap(mixed().bfloat16(), lora=zoo.Full(targets=["norms", "head"]))
    assert {one.dtype for _, one in half.trainable_parameters()} == {torch.float32}
    y = half(x)
    assert y.dtype == torch.bfloat16
    y.float().square().mean().backward()
    assert all(one.grad is not None and one.grad.dtype == torch.float32 for _, one in half.trainable_parameters())


@pytest.mark.parametrize("bits", [None, 4])
def test_under_autocast_as_the_plain_module_is(bits: int | None) -> None:
    plain, x = mixed(), index()
    model = zoo.wrap(copy.deepcopy(plain), bits=bits)
    plain.load_state_dict(model.state_dict())
    model.add_adapter("a", zoo.Full(targets="all"))
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = model(x), plain(x)
    assert y.dtype == expected.dtype == torch.bfloat16
    assert error(y, expected) < 0.02
    y.float().square().mean().backward()
    assert all(one.grad is not None and one.grad.dtype == torch.float32 for _, one in model.trainable_parameters())


def test_the_last_of_several_replacements_applies_and_low_rank_updates_go_on_top() -> None:
    layer, x = nn.Linear(6, 5), torch.randn(3, 6)
    base = layer.weight.detach().clone()
    model = zoo.wrap(layer, lora={"a": zoo.Full(targets=["weight"]), "b": zoo.Full(targets=["weight"])})
    store = model.module.weight_store
    with torch.no_grad():
        store.updates["a"].weight.fill_(1)  # type: ignore[index, union-attr]
        store.updates["b"].weight.fill_(2)  # type: ignore[index, union-attr]
    assert (model.module.weight == 2).all()  # type: ignore[union-attr]
    model.activate("b", "a")
    assert (model.module.weight == 1).all()  # type: ignore[union-attr]
    model.add_adapter("c", zoo.LoRA(2))
    with torch.no_grad():
        store.updates["c"].B.normal_()  # type: ignore[index, union-attr]
    expected = 1 + store.updates["c"].product()  # type: ignore[index, union-attr]
    assert error(model(x), nn.functional.linear(x, expected, model.module.bias)) < 1e-5  # type: ignore[arg-type]
    model(x).sum().backward()
    assert store.updates["a"].weight.grad.any()  # type: ignore[index, union-attr]
    assert store.updates["b"].weight.grad is None  # type: ignore[index, union-attr]
    model.activate("c", "a")
    assert (model.module.weight == 1).all()  # type: ignore[union-attr]
    model.deactivate()
    assert torch.equal(model.module.weight + 0, base)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("config", "match"),
    [
        (
            zoo.Full(targets=["norm"]),
            r"target 'norm' matches no parameter and no module with any\. Did you mean 'norms'\?",
        ),
        (zoo.Full(targets=["gain", "hed"]), r"target 'hed' matches no .* Did you mean 'head'\?"),
        (zoo.Full(targets="nothing"), "target 'nothing' matches no parameter"),
        (zoo.LoRA(2, modules_to_save=["heads"]), r"modules_to_save: 'heads' matches no .* Did you mean 'head'\?"),
    ],
)
def test_names_that_find_nothing(config: Any, match: str) -> None:
    module = mixed()
    before = set(module.state_dict())
    for bits in (None, 4):
        with pytest.raises(AdapterError, match=match) as caught:
            zoo.wrap(module, bits=bits, lora=config)
        assert "\n" not in str(caught.value)
        assert set(module.state_dict()) == before


def test_full_has_no_default_targets() -> None:
    with pytest.raises(AdapterError, match=r"zoo\.Full has no default"):
        zoo.Full()


def test_modules_to_save_and_biases_equal_peft() -> None:
    import peft

    module, x = mixed(), index()
    beside: Any = {"modules_to_save": ["act", "norms.layer"], "bias": "lora_only"}
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["conv"], init_lora_weights=False, **beside)
    theirs = peft.get_peft_model(copy.deepcopy(module), config)
    ours = zoo.wrap(copy.deepcopy(module), lora=zoo.LoRA(2, 4, targets=["conv"], **beside))
    reference = {name: one for name, one in theirs.named_parameters() if one.requires_grad}
    names = {
        "conv.weight_store.updates.default.A": "conv.lora_A.default.weight",
        "conv.weight_store.updates.default.B": "conv.lora_B.default.weight",
        "conv.bias_store.updates.default.weight": "conv.base_layer.bias",
        "act.weight_store.updates.default.weight": "act.modules_to_save.default.weight",
        "norms.layer.weight_store.updates.default.weight": "norms.layer.modules_to_save.default.weight",
        "norms.layer.bias_store.updates.default.weight": "norms.layer.modules_to_save.default.bias",
    }
    mine = dict(ours.trainable_parameters())
    assert mine.keys() == names.keys()
    assert {"base_model.model." + name for name in names.values()} == reference.keys()
    with torch.no_grad():
        for name, other in names.items():
            value = reference["base_model.model." + other]
            value.add_(0.3 * torch.randn_like(value))
            mine[name].copy_(value.reshape(mine[name].shape))
    theirs.eval()
    y, expected = ours(x), theirs(x)
    assert error(y, expected) < 1e-5
    y.square().mean().backward()
    expected.square().mean().backward()
    for name, other in names.items():
        grad = reference["base_model.model." + other].grad
        assert grad is not None
        assert error(mine[name].grad, grad.reshape(mine[name].shape)) < 1e-5
