"""Combining adapters: as PEFT does, as in float64 arithmetic, and as well as any adapter of the same rank can."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.adapters import arithmetic
from zoo.errors import AdapterError, UnknownNameError
from zoo.weights.walk import managed_weights

from .helpers import Net, deltas, error, out, perturb, stirred

LORAS = {"a": zoo.LoRA(rank=3, alpha=4, targets="all"), "b": zoo.LoRA(rank=2, alpha=-3, targets=["fc", "raw", "conv"])}
EQUAL = {"a": zoo.LoRA(rank=3, alpha=4, targets="all"), "b": zoo.LoRA(rank=3, alpha=5, targets=["fc", "raw", "conv"])}
WEIGHTS = {"a": 0.7, "b": -1.3}


def weighted_sum(model: zoo.Model, weights: dict[str, float]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, weight in weights.items():
        for path, delta in deltas(model, name).items():
            found[path] = found.get(path, 0.0) + weight * delta
    return found


@pytest.mark.parametrize("bits", [None, 4])
def test_cat_is_the_weighted_sum(bits: int | None) -> None:
    model, x = stirred(Net(), LORAS, bits=bits)
    model.activate("a", "b", weights=list(WEIGHTS.values()))
    expected, trains = out(model, x), [name for name, _ in model.trainable_parameters()]
    state = torch.get_rng_state()
    report = model.combine_adapters("new", WEIGHTS)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.active == ("a", "b")
    assert [name for name, _ in model.trainable_parameters()] == trains
    wanted = weighted_sum(model, WEIGHTS)
    got = deltas(model, "new")
    assert got.keys() == wanted.keys()
    for path in wanted:
        assert error(got[path], wanted[path]) < 1e-6, path
    assert (report.name, report.method, report.rank, report.kept) == ("new", "cat", 5, 1.0)
    assert report.error < 1e-6
    model.activate("new")
    assert error(out(model, x), expected) < 1e-5
    assert {path: store.updates["new"].rank for path, store in managed_weights(model.module).items()} == {
        path: 5 if path in ("fc.weight", "raw", "conv.weight") else 3 for path in wanted
    }
    model.combine_adapters("newer", {"new": 2, "a": 0.5})  # of a combined one, active or not
    again = weighted_sum(model, {"a": 1.9, "b": -2.6})
    for path, delta in deltas(model, "newer").items():
        assert error(delta, again[path]) < 1e-6


@pytest.mark.parametrize("rank", [None, 1, 4, 50])
def test_svd_is_the_best_of_its_rank(rank: int | None) -> None:
    model, _ = stirred(Net(), LORAS)
    report = model.combine_adapters("new", WEIGHTS, "svd", rank=rank)
    wrong = whole = 0.0
    for path, wanted in weighted_sum(model, WEIGHTS).items():
        update = managed_weights(model.module)[path].updates["new"]
        matrix = wanted.reshape(update.matrices()[0].shape[0], -1)
        values = torch.linalg.svdvals(matrix)
        left = values[rank or 3 :].square().sum()
        distance = (deltas(model, "new")[path].reshape(matrix.shape) - matrix).square().sum()
        assert abs(float(distance - left)) < 1e-10 * float(values.square().sum()) + 1e-4 * float(left)
        wrong, whole = wrong + float(left), whole + float(values.square().sum())
        assert update.rank <= (rank or 3)
    assert report.kept == pytest.approx(1 - wrong / whole, abs=1e-6)
    assert report.error == pytest.approx((wrong / whole) ** 0.5, abs=1e-5)
    assert ("kept" in str(report)) == (report.kept < 1)


# Against PEFT


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.point = nn.Conv2d(4, 4, 1)
        self.fc = nn.Linear(32, 6)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.point(self.conv(self.embed(ids)[:, None]).tanh())  # (n, 4, t, 8)
        return self.fc(x.transpose(1, 2).flatten(2))


def of_peft(module: Any, name: str) -> dict[str, Tensor]:
    paths = ("embed", "conv", "point", "fc")
    return {path: module.get_submodule(path).get_delta_weight(name).detach() for path in paths}


def same_mask(density: Tensor) -> Tensor:
    """Return a mask that is not random, and the same for a matrix and for its transpose in PEFT, to compare the two."""
    if density.dim() == 2 and not density.is_contiguous():
        return same_mask(density.t()).t()
    spread = (torch.arange(density.numel()) * 0.6180339887) % 1
    return (spread.view(density.shape) < density).to(density.dtype)


METHODS = [
    ("cat", {}),
    ("linear", {}),
    ("svd", {"rank": 2}),
    ("ties", {"density": 0.4}),
    ("ties", {"density": 0.6, "majority_sign": "frequency"}),
    ("ties_svd", {"density": 0.4, "rank": 3}),
    ("magnitude_prune", {"density": 0.3}),
    ("magnitude_prune_svd", {"density": 0.3}),
    ("dare_linear", {"density": 0.5}),
    ("dare_ties", {"density": 0.5}),
    ("dare_linear_svd", {"density": 0.5, "rank": 4}),
    ("dare_ties_svd", {"density": 0.5, "rank": 4}),
]


@pytest.mark.parametrize(("method", "options"), METHODS)
def test_as_peft_computes_it(
    method: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import peft

    net = Layers()
    adapters, weights = ["a", "b", "c"], [0.6, -1.1, 0.8]
    model = zoo.wrap(copy.deepcopy(net).eval(), lora={name: zoo.LoRA(4, 2 + n) for n, name in enumerate(adapters)})
    perturb(model)
    theirs: Any = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in adapters:
            model.save_adapter(tmp_path / name, name=name)
            if theirs is None:
                theirs = peft.PeftModel.from_pretrained(net, tmp_path / name, adapter_name=name)
            else:
                theirs.load_adapter(tmp_path / name, adapter_name=name)
        named = {"rank": "svd_rank", "majority_sign": "majority_sign_method", "density": "density"}
        given = {named[key]: value for key, value in options.items() if key in named}
        monkeypatch.setattr(torch, "bernoulli", same_mask)
        theirs.base_model.add_weighted_adapter(adapters, weights, "new", method, **given)
        model.combine_adapters("new", dict(zip(adapters, weights, strict=True)), method, **options)
    wanted = of_peft(theirs.base_model.model, "new")
    for path, delta in deltas(model, "new").items():
        assert error(delta, wanted[path.removesuffix(".weight")]) < 1e-4, path
    # The result is an ordinary adapter: PEFT and zoo read it from a folder.
    model.activate("new")
    ids = torch.randint(0, 11, (2, 5))
    model.save_adapter(tmp_path / "new", name="new")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.load_adapter(tmp_path / "new", adapter_name="read")
    for name in ("new", "read"):
        theirs.set_adapter(name)
        assert error(out(theirs.eval(), ids), out(model, ids)) < 1e-4


@pytest.mark.parametrize("name", ["stylegan", "gat"])
def test_weights_with_gains_and_raw_ones_are_saved_and_read(name: str, tmp_path: Path) -> None:
    """The scale that an architecture's plugin gives a weight is divided out, so that the file is like all others."""
    lora = {"a": zoo.LoRA(rank=2, targets="all"), "b": zoo.LoRA(rank=1, targets="all")}
    model = zoo.load(name, lora=lora, device="cpu")
    perturb(model, 0.1)
    model.combine_adapters("new", WEIGHTS)
    wanted = weighted_sum(model, WEIGHTS)
    for path, delta in deltas(model, "new").items():
        assert error(delta, wanted[path]) < 1e-6
    model.save_adapter(tmp_path / "new", name="new")
    again = zoo.load(name, lora=str(tmp_path / "new"), device="cpu")
    for path, delta in deltas(again, "default").items():
        assert error(delta, wanted[path]) < 1e-6


def test_arithmetic_by_hand() -> None:
    one = torch.tensor([3.0, -1.0, 0.5, 2.0])
    two, three = torch.tensor([-1.0, -4.0, 1.0, 0.0]), torch.tensor([-1.0, 2, 3, 1])
    assert arithmetic.keep_largest(one, 0.5).tolist() == [3, 0, 0, 2]
    assert arithmetic.keep_largest(one, 0.1).tolist() == [0, 0, 0, 0]
    mean = arithmetic.merge_by_sign([one, two, three], [1.0, 10.0, 100.0], "total")
    assert mean.tolist() == [3.0, (-1 - 40) / 2, (0.5 + 10 + 300) / 3, (2 + 100) / 2]
    often = arithmetic.merge_by_sign([one, two, three], [1.0, 10.0, 100.0], "frequency")
    assert often.tolist() == [(-10 - 100) / 2, (-1 - 40) / 2, (0.5 + 10 + 300) / 3, (2 + 100) / 2]
    torch.manual_seed(0)
    many = torch.randn(200_000)
    kept = arithmetic.keep_random(many, 0.3)
    assert float((kept != 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    assert torch.allclose(kept[kept != 0], many[kept != 0] / 0.3)
    assert float((kept * many).mean()) == pytest.approx(1.0, abs=0.03), "the expectation is the tensor"
    assert torch.equal(arithmetic.keep_random(one, 1.0), one)


def test_dare_by_seed() -> None:
    model, _ = stirred(Net(), EQUAL)
    made = []
    for number, seed in enumerate((1, 1, 2)):
        torch.manual_seed(number)
        model.combine_adapters(f"new{number}", WEIGHTS, "dare_linear", density=0.5, seed=seed)
        made.append(deltas(model, f"new{number}")["fc.weight"])
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    assert error(made[0], made[2]) > 0.1


@pytest.mark.parametrize(
    ("adapters", "options", "match"),
    [
        ({"a": 1, "b": 1}, {"method": "linear"}, "method 'linear' adds factors and needs equal ranks, got 3, 2"),
        (
            {"a": 1, "b": 1},
            {"method": "ties", "density": 0.5},
            "needs equal ranks, got 3, 2; 'cat' and the methods that",
        ),
        ({"a": 1}, {"method": "tied"}, "method 'tied': expected one of cat, linear, svd, .*Did you mean 'ties'"),
        (
            {"a": 1},
            {"method": "ties"},
            "density: method 'ties' needs the share of values to keep, above 0 up to 1",
        ),
        ({"a": 1}, {"method": "dare_ties_svd", "density": 0.0}, "needs the share of values to keep"),
        ({"a": 1}, {"method": "ties", "density": 1.5}, "needs the share of values to keep"),
        ({"a": 1}, {"method": "svd", "density": 0.5}, "density=0.5: method 'svd' drops nothing"),
        ({"a": 1}, {"rank": 3}, "rank=3: method 'cat' takes no rank; svd, ties_svd"),
        ({"a": 1}, {"method": "svd", "rank": 0}, "rank: expected a whole number of at least 1, got 0"),
        ({"a": 1}, {"method": "ties", "density": 0.5, "majority_sign": "most"}, "majority_sign: expected 'total' or"),
        ({}, {}, "expected a dict of names and weights, as {'a': 0.7, 'b': 0.3}, got {}"),
        (["a", "b"], {}, "expected a dict of names and weights"),
        ({"a": 1, "z": 1}, {}, "no adapter 'z'"),
        ({"a": float("inf")}, {}, "the weight of 'a': expected a number, got inf"),
        ({"dora": 1, "a": 1}, {}, "adapter 'dora' is of kind 'dora', which is not low-rank: only LoRA"),
        ({"a": 1, "loha": 1}, {}, "adapter 'loha' is of kind 'loha', which is not low-rank: only LoRA"),
        ({"saved": 1}, {}, "adapter 'saved' is 'full' .FullUpdate. there, which is not a plain low-rank update"),
    ],
)
def test_what_cannot_be_combined(adapters: Any, options: dict[str, Any], match: str) -> None:
    kinds = {
        "dora": zoo.LoRA(2, dora=True, targets=["fc"]),
        "loha": zoo.LoHa(2, targets=["fc"]),
        "saved": zoo.LoRA(2, targets=["fc"], modules_to_save=["norm"]),
    }
    model, x = stirred(Net(), {**LORAS, **kinds})
    model.activate("a", "b", weights=(1, 2))
    before, output = dict(model.adapters), out(model, x)
    with pytest.raises((AdapterError, UnknownNameError), match=match) as caught:
        model.combine_adapters("new", adapters, **options)
    assert "\n" not in str(caught.value)
    assert dict(model.adapters) == before
    assert torch.equal(out(model, x), output)


def test_names_and_meta() -> None:
    model, _ = stirred(Net(), LORAS)
    with pytest.raises(AdapterError, match="there is an adapter 'a' already"):
        model.combine_adapters("a", {"b": 1})
    with pytest.raises(AdapterError, match="adapter name 'a b'"):
        model.combine_adapters("a b", {"b": 1})
    with pytest.raises(AdapterError, match="'meta' have no values to combine"):
        zoo.wrap(Net().to("meta"), lora=2).combine_adapters("new", {"default": 1})


def test_a_residual_one_is_low_rank_too() -> None:
    model, _ = stirred(Net(), {"a": zoo.LoRA(2, targets=["fc"], init="pissa"), "b": zoo.LoRA(2, targets=["fc"])})
    update = managed_weights(model.module)["fc.weight"].updates["a"]
    wanted = (
        0.5 * update.product().detach() + 2 * managed_weights(model.module)["fc.weight"].updates["b"].product().detach()
    )
    model.combine_adapters("new", {"a": 0.5, "b": 2})
    assert error(deltas(model, "new")["fc.weight"], wanted) < 1e-6
