"""LoHa and LoKr: PEFT's names, shapes, outputs and gradients, and any other weight."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import zoo
from zoo.errors import AdapterError
from zoo.methods.loha_lokr import factorize
from zoo.weights.walk import managed_weights

from .layers import error, pair, peft_parameters, update_of

LIKE_PEFT = ["Linear", "Conv1d", "Conv2d", "Conv2d 1×1", "Conv2d groups"]
LOHA: list[dict[str, Any]] = [{}, {"use_effective_conv2d": True}]
LOKR: list[dict[str, Any]] = [
    {"r": 1},
    {"r": 2, "decompose_both": True, "decompose_factor": 3},
    {"r": 2, "use_effective_conv2d": True, "decompose_factor": 1},
    {"r": 1, "decompose_both": True, "decompose_factor": 4},
    {"r": 16},
]


def make(kind: str, name: str, options: dict[str, Any]) -> tuple[Any, Any, torch.Tensor]:
    import peft

    options = {"r": 3, "alpha": 5, **options}
    config = (peft.LoHaConfig if kind == "loha" else peft.LoKrConfig)(target_modules=["layer"], **options)
    ours = {"rank": options.pop("r"), "targets": ["layer"], **options}
    return pair(name, config, zoo.LoHa(**ours) if kind == "loha" else zoo.LoKr(**ours))


@pytest.mark.parametrize(
    ("kind", "options"), [("loha", one) for one in LOHA] + [("lokr", one) for one in LOKR], ids=str
)
@pytest.mark.parametrize("name", LIKE_PEFT)
def test_outputs_and_gradients_equal_peft(kind: str, options: dict[str, Any], name: str) -> None:
    theirs, ours, x = make(kind, name, options)
    update, reference = update_of(ours), peft_parameters(theirs)
    mine = dict(update.named_parameters())
    assert {key: one.shape for key, one in mine.items()} == {key: one.shape for key, one in reference.items()}
    assert {key: bool(one.any()) for key, one in mine.items()} == {
        key: bool(one.any()) for key, one in reference.items()
    }
    with torch.no_grad():
        assert torch.equal(ours.layer.weight.dense(), ours.layer.weight.base())
        for key, one in mine.items():
            one.copy_(reference[key].normal_())
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    y, expected = ours(inputs[0]), theirs(inputs[1])
    assert error(y, expected) < 1e-5
    g = torch.randn_like(y)
    y.backward(g)
    expected.backward(g)
    for key, one in mine.items():
        if "hada_t1" not in mine:  # PEFT's backward pass of LoHa with cores uses the other factor's tensors: see below
            assert error(one.grad, reference[key].grad) < 1e-5, key
    assert error(inputs[0].grad, inputs[1].grad) < 1e-5


@pytest.mark.parametrize("name", ["Conv1d", "Conv2d"])
def test_gradients_of_cores_are_those_of_finite_differences(name: str) -> None:
    _, ours, _ = make("loha", name, {"use_effective_conv2d": True})
    update = update_of(ours).double()
    with torch.no_grad():
        values = {key: one.normal_().clone().requires_grad_() for key, one in update.named_parameters()}
    base = ours.layer.weight.base().double()

    def weight(*parameters: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(update, dict(zip(values, parameters, strict=True)), (base,))

    assert torch.autograd.gradcheck(weight, tuple(values.values()))


def test_dimensions_are_divided_as_pefts() -> None:
    from peft.tuners.lokr.layer import factorization

    for size in (*range(1, 200), 768, 3072, 4096, 50257):
        for factor in (-1, 1, 2, 3, 4, 7, 8, 12, 16, 300):
            assert factorize(size, factor) == factorization(size, factor), (size, factor)


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 6)
        self.up = nn.ConvTranspose2d(6, 4, 3)
        self.deep = nn.Conv3d(1, 4, 3)
        self.raw = nn.Parameter(torch.randn(1, 3, 4))


@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("config", [zoo.LoHa(2, 3), zoo.LoKr(2, 3), zoo.LoKr(1, 3, decompose_both=True)], ids=repr)
def test_any_other_weight_as_a_matrix_of_outputs_and_inputs(bits: int | None, config: Any) -> None:
    model = zoo.wrap(Odd(), bits=bits, lora=config)
    sizes = {"embed.weight": (6, 9), "up.weight": (36, 6), "deep.weight": (4, 27), "raw": (3, 4)}
    for name, store in managed_weights(model.module).items():
        (update,) = store.active_updates()
        assert torch.equal(store.dense(), store.base_tensor())
        with torch.no_grad():
            for one in update.parameters():
                one.normal_()
        p = {key.partition("_")[2]: one.double() for key, one in update.named_parameters()}
        if config.kind == "loha":
            delta = (p["w1_a"] @ p["w1_b"]) * (p["w2_a"] @ p["w2_b"])
        else:
            w1, w2 = (p.get(f"w{n}", p[f"w{n}_a"] @ p[f"w{n}_b"] if f"w{n}_a" in p else None) for n in (1, 2))
            delta = torch.kron(w1, w2)  # type: ignore[arg-type]
        assert tuple(delta.shape) == sizes[name]
        delta = 3 / config.rank * (delta.t() if store.layout.transposed else delta).reshape(store.shape)
        assert error(store.dense(), store.base_tensor().double() + delta) < 1e-5


@pytest.mark.parametrize("kind", [zoo.LoHa, zoo.LoKr])
def test_dropouts_are_of_whole_rows_or_of_the_whole_update_and_only_in_training(kind: Any) -> None:
    torch.manual_seed(0)
    for options in ({"rank_dropout": 0.5}, {"module_dropout": 0.5}):
        model = zoo.wrap(nn.Linear(6, 40), lora=kind(2, 2, **options)).eval()
        store = model.module.weight_store
        with torch.no_grad():
            for one in store.updates.parameters():  # type: ignore[union-attr]
                one.normal_()
        full = store.dense() - store.base_tensor()  # type: ignore[operator, union-attr]
        rows = []
        model.train()
        for _ in range(20):
            change = store.dense() - store.base_tensor()  # type: ignore[operator, union-attr]
            rows.append(int(change.abs().sum(1).count_nonzero()))
        assert set(rows) == {0, 40} if "module_dropout" in options else 5 < min(rows) <= max(rows) < 35
        model.eval()
        assert torch.equal(store.dense() - store.base_tensor(), full)  # type: ignore[operator, union-attr]
        x = torch.randn(3, 6)
        model.train()
        before = torch.random.get_rng_state()
        y = model(x)
        (grad,) = torch.autograd.grad(y.sum(), next(store.updates.parameters()))  # type: ignore[union-attr]
        torch.random.set_rng_state(before)  # the backward pass drew what the forward pass had drawn
        again = nn.functional.linear(x, store.dense(), model.module.bias)  # type: ignore[operator, union-attr, arg-type]
        assert error(again, y) < 1e-6
        assert error(torch.autograd.grad(again.sum(), next(store.updates.parameters()))[0] + 1, grad + 1) < 1e-5  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["loha", "lokr"])
def test_configurations_are_read_as_peft_writes_them_and_back(kind: str, tmp_path: Any) -> None:
    import json

    import peft

    values: dict[str, Any] = {
        "r": 5,
        "alpha": 3,
        "rank_dropout": 0.1,
        "module_dropout": 0.2,
        "target_modules": ["a", "b"],
    }
    values |= {"rank_pattern": {"a": 2}, "alpha_pattern": {"b": 7}, "modules_to_save": ["head"]}
    values |= {"use_effective_conv2d": True}
    if kind == "lokr":
        values |= {"decompose_both": True, "decompose_factor": 4, "rank_dropout_scale": True}
    config = (peft.LoHaConfig if kind == "loha" else peft.LoKrConfig)(**values)
    config.save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "adapter_config.json").read_text())
    ours = (zoo.LoHa if kind == "loha" else zoo.LoKr).from_peft(raw)
    assert (ours.rank, ours.alpha, set(ours.targets or ())) == (5, 3, {"a", "b"})
    assert (ours.rank_of("x.a"), ours.alpha_of("x.b"), ours.modules_to_save) == (2, 7, ("head",))
    written = ours.to_peft()
    for key, value in raw.items():
        if value and key not in ("peft_version", "init_weights", "auto_mapping") and key != "target_modules":
            assert written[key] == value, key
    known = type(config)(**{key: value for key, value in written.items() if key not in ("peft_type", "inference_mode")})
    assert known.r == 5
    assert known.use_effective_conv2d
    assert type(ours).from_peft(written) == ours
    with pytest.raises(AdapterError, match="some_feature = True is a feature of PEFT"):
        type(ours).from_peft(raw | {"some_feature": True})
    with pytest.raises(AdapterError, match="expected peft_type"):
        type(ours).from_peft(raw | {"peft_type": "LORA"})


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: zoo.LoHa(rank=0), "rank: expected"),
        (lambda: zoo.LoHa(rank_dropout=1), "rank_dropout: expected a share"),
        (lambda: zoo.LoKr(module_dropout=-1), "module_dropout: expected a share"),
        (lambda: zoo.LoKr(decompose_factor=0), "decompose_factor: expected"),
        (lambda: zoo.LoKr(decompose_both=1), "decompose_both: expected True or False"),
        (lambda: zoo.LoHa(alpha_pattern={"(": 1}), "alpha_pattern"),
        (lambda: zoo.LoHa(bias="x"), "bias: expected"),
    ],
)
def test_what_cannot_be_is_named(make: Any, match: str) -> None:
    with pytest.raises(AdapterError, match=match):
        make()
