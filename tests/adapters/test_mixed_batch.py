"""Samples of one batch that use different adapters: equal to separate runs, on any module."""

from __future__ import annotations

import copy
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import zoo
from zoo.errors import AdapterError, UnknownNameError
from zoo.weights.walk import managed_weights

from .helpers import Net, error, out, perturb, stirred

THREE = {
    "a": zoo.LoRA(rank=2, targets="all"),
    "b": zoo.LoRA(rank=3, targets=["conv", "fc", "embed", "raw"]),
    "c": zoo.LoRA(rank=1, targets=["fc"]),
}
ROWS: list[Any] = ["b", None, "a", ("a", "c"), "b", {"a": 0.5, "b": -1}]


def separately(model: zoo.Model, rows: list[Any], call: Any) -> list[Any]:
    """Return each sample's output when only its adapters are active: `call(number)`."""
    active = dict(model.active_weights)
    found = []
    for number, row in enumerate(rows):
        names = (
            {}
            if row is None
            else row
            if isinstance(row, dict)
            else dict.fromkeys([row] if type(row) is str else row, 1)
        )
        model.activate(*names, weights=list(names.values()))
        found.append(call(number))
    model.activate(*active, weights=list(active.values()))
    return found


@pytest.mark.parametrize("bits", [None, 4, 8])
def test_a_mixed_batch_equals_separate_runs(bits: int | None) -> None:
    model, _ = stirred(Net(), THREE, bits=bits)
    x = Net.draw(6)
    model.activate("c", "a", weights=(0.5, 2))
    before = out(model, x)
    got = out(model, x, adapters=ROWS)
    wanted = torch.cat(separately(model, ROWS, lambda n: out(model, x[n : n + 1])))
    assert error(got, wanted) < 1e-5
    assert all(error(got[n], wanted[m]) > 1e-3 for n in range(6) for m in range(6) if n != m)
    assert dict(model.active_weights) == {"c": 0.5, "a": 2.0}
    assert torch.equal(out(model, x), before)
    model.deactivate()
    assert torch.equal(out(model, x, adapters=[None] * 6), out(model, x))
    model.activate("b")
    whole = out(model, x)
    model.deactivate()
    assert torch.equal(out(model, x, adapters=["b"] * 6), whole), "one choice for all is one run"


def test_compiled_code_uses_the_adapters_of_a_call_whether_or_not_it_can_see_a_choice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Dynamo of torch before 2.14 cannot look at what a thread has chosen."""
    torch.compiler.reset()
    model, _ = stirred(Net(), THREE)
    x = Net.draw(4)
    model.activate("a")
    rows = ["b", None, "a", "b"]
    plain, mixed = out(model, x), out(model, x, adapters=rows)
    for place in ("choice", "lazy_weight"):
        monkeypatch.setattr(f"zoo.weights.{place}.TRACED", False)
    model.module.compile(backend="eager", fullgraph=True)
    for _ in range(2):
        assert torch.equal(out(model, x), plain)
        assert torch.equal(out(model, x, adapters=rows), mixed)


@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("again", [False, True])
def test_gradients_are_each_adapters_own_samples(bits: int | None, again: bool) -> None:
    """Also with recomputation in the backward pass, which happens after the active adapters are restored."""

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def forward(self, ids: Tensor, shift: Tensor) -> Tensor:
            run = lambda shift: self.net(ids) * shift  # noqa: E731
            return checkpoint(run, shift, use_reentrant=False) if again else run(shift)

    model = zoo.wrap(Outer().eval(), bits=bits, lora=THREE)
    perturb(model)
    x, rows = Net.draw(6), ["b", None, "a", "a", "b", ("c", "a")]
    shift = torch.randn(6, 6, 9, requires_grad=True)
    g = torch.randn(6, 6, 9)
    model(x, shift, adapters=rows).backward(g)
    got = {name: p.grad.clone() for name, p in model.trainable_parameters()}
    into, shift.grad = shift.grad, None
    wanted: dict[str, Tensor] = {}
    found = []
    for n, row in enumerate(rows):
        model.module.zero_grad()
        model.activate(*([] if row is None else [row] if isinstance(row, str) else row))
        part = shift[n : n + 1].detach().requires_grad_()
        model(x[n : n + 1], part).backward(g[n : n + 1])
        found.append(part.grad)
        for name, parameter in model.module.named_parameters():
            if parameter.grad is not None:
                wanted[name] = wanted.get(name, 0.0) + parameter.grad
    assert got.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert error(got[name], gradient) < 1e-4, name
    assert error(into, torch.cat(found)) < 1e-5


def test_what_runs_before_and_after_in_one_graph_has_its_own_adapters() -> None:
    """x → the model → a mixed batch → the model, all recomputed in the backward pass."""
    net = nn.Sequential(nn.Linear(5, 5), nn.Tanh())
    outer = nn.Sequential(net)
    outer.forward = lambda x: checkpoint(net, x, use_reentrant=False)  # type: ignore[method-assign]
    model = zoo.wrap(outer, lora={"a": 2, "b": 2, "c": 2})
    perturb(model, 0.7)
    x, rows = torch.randn(4, 5), ["a", "b", None, "a"]
    model.activate("c", "b", "a", weights=(1, 0.5, 2.0))
    y = model(x.requires_grad_())
    (model(model(y, adapters=rows)) ** 2).sum().backward()
    got = x.grad.clone()
    x.grad = None

    def dense(names: dict[str, float]) -> Any:
        active = dict(model.active_weights)
        model.activate(*names, weights=list(names.values()))
        weight = managed_weights(model.module)["0.0.weight"].dense().detach()
        model.activate(*active, weights=list(active.values()))
        return lambda t: torch.tanh(nn.functional.linear(t, weight, net[0].bias))

    own = dense(dict(model.active_weights))
    y = own(x)
    middle = torch.stack([dense({} if row is None else {row: 1.0})(y[n]) for n, row in enumerate(rows)])
    (own(middle) ** 2).sum().backward()
    assert error(got, x.grad) < 1e-3  # in an unlucky draw 1e-4; with the wrong adapters it is near 1


@pytest.mark.parametrize("sizes", [(1, 1), (2, 2), (1, 3)])
@pytest.mark.parametrize("layers", [1, 2])
def test_modules_whose_outputs_have_rows_elsewhere(sizes: tuple[int, int], layers: int) -> None:
    """An LSTM's states are (layers, n, features), for any sizes; the batch norm's running statistics do not change."""

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3, 4, num_layers=layers, batch_first=True)
            self.norm = nn.BatchNorm1d(5)
            self.drop = nn.Dropout(0.0)

        def forward(self, x: Tensor) -> Any:
            return self.lstm(self.drop(self.norm(x)))

    module = Recurrent()
    model = zoo.wrap(module, lora={"a": 2, "b": 2})
    perturb(model, 0.6)
    rows = [name for name, size in zip("ab", sizes, strict=True) for _ in range(size)][::-1]
    x = torch.randn(len(rows), 5, 3)
    model.train()
    with torch.no_grad():
        model(x, adapters=rows)
    assert module.training
    assert module.norm.num_batches_tracked == 2, "one for each part; the extra forward pass left no trace"
    model.eval()
    got, (h, c) = out(model, x, adapters=rows)
    assert h.shape == (layers, len(rows), 4)
    wanted = separately(model, rows, lambda n: out(model, x[n : n + 1]))
    assert error(got, torch.cat([y for y, _ in wanted])) < 1e-5
    assert error(h, torch.cat([h for _, (h, _) in wanted], 1)) < 1e-5
    assert error(c, torch.cat([c for _, (_, c) in wanted], 1)) < 1e-5


@pytest.mark.parametrize("bits", [None, 4])
def test_attention_and_raw_parameters(bits: int | None) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.att = nn.MultiheadAttention(8, 2, batch_first=True)
            self.mix = nn.Parameter(torch.randn(8, 8, 3))
            self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1)

        def forward(self, x: Tensor, mask: Tensor) -> Any:
            y, attention = self.att(x, x, x, key_padding_mask=mask)
            return torch.einsum("nti,ijk->ntjk", self.encoder(y), self.mix), attention

    model = zoo.wrap(
        Attention().eval(), bits=bits, lora={"a": 2, "b": zoo.LoRA(3, targets=["att.in_proj_weight", "mix"])}
    )
    perturb(model, 0.5)
    x, mask = torch.randn(4, 5, 8), torch.zeros(4, 5, dtype=torch.bool)
    mask[1, 3:] = True
    rows = ["b", "a", None, "a"]
    y, attention = out(model, x, mask, adapters=rows)
    wanted = separately(model, rows, lambda n: out(model, x[n : n + 1], mask[n : n + 1]))
    assert error(y, torch.cat([one for one, _ in wanted])) < 1e-5
    assert error(attention, torch.cat([two for _, two in wanted])) < 1e-5
    model.train()
    y, _ = model(x, mask=mask, adapters=rows)
    y.square().sum().backward()
    assert all(
        parameter.grad is not None and parameter.grad.abs().sum() > 0 for _, parameter in model.trainable_parameters()
    )


Pair = namedtuple("Pair", "first second")


@dataclass(frozen=True)
class Facts:
    x: Any
    scale: float
    note: Any = None


class Held:
    """An object with tensors in attributes and lists, as a library's cache is."""

    def __init__(self, layers: list[Tensor]) -> None:
        self.layers, self.seen, self.names = layers, 3, ["k"]


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.mode = "all"

    def forward(self, facts: Facts, times: dict[str, Any], held: Held, table: Tensor, *, flag: bool) -> Any:
        y = self.fc(facts.x * facts.scale + times["t"][0][:, None] + held.layers[0]) + table.sum()
        if self.mode == "loss":
            return {"loss": y.mean()}
        if self.mode == "text":
            return [str(len(y))]
        if self.mode == "ragged":
            return (y,) * len(y)
        if self.mode == "square":
            return y, torch.ones(3, 3)
        result = {"y": y, "flag": flag, "none": None}
        return [Pair(result, Facts(y * 2, 2.0, "same")), Held([y + 1, y.t()]), table.shape]


def nested(n: int = 4) -> tuple[zoo.Model, tuple[Any, ...], list[Any]]:
    model = zoo.wrap(Nested().eval(), lora={"a": 2, "b": 1})
    perturb(model)
    args = (Facts(torch.randn(n, 3), 0.5), {"t": [torch.randn(n)]}, Held([torch.randn(n, 3)]), torch.randn(2, 6))
    return model, args, ["a", "b", None, "a", "b"][:n]


def test_nests_of_every_kind() -> None:
    model, args, rows = nested()
    x, held = args[0].x.clone(), args[2]
    got = out(model, *args, flag=True, adapters=rows)

    def alone(n: int) -> Any:
        facts, times, cache, table = args
        part = slice(n, n + 1)
        cut = (Facts(facts.x[part], 0.5), {"t": [times["t"][0][part]]}, Held([cache.layers[0][part]]))
        return out(model, *cut, table, flag=True)

    wanted = separately(model, rows, alone)
    assert error(got[0].first["y"], torch.cat([one[0].first["y"] for one in wanted])) < 1e-5
    assert (got[0].first["flag"], got[0].first["none"], got[2]) == (True, None, torch.Size([2, 6]))
    assert type(got[0]) is Pair
    assert type(got[0].second) is Facts
    assert (got[0].second.scale, got[0].second.note) == (2.0, "same")
    assert torch.equal(got[0].second.x, 2 * got[0].first["y"])
    assert torch.equal(got[1].layers[0], got[0].first["y"] + 1)
    assert torch.equal(got[1].layers[1], got[0].first["y"].t()), "rows in the last dimension"
    assert (got[1].seen, got[1].names) == (3, ["k"])
    assert torch.equal(args[0].x, x)
    assert held.layers[0].shape == (4, 3), "the arguments are not changed"


@pytest.mark.parametrize(
    ("mode", "match"),
    [
        (
            "loss",
            r"the output\['loss'\] has no row for each sample: shapes \(\) and \(\) and \(\) for 2 and 1 and 1 samp",
        ),
        ("text", r"the output\[0\] differs between the adapters' parts of the batch: '2' and '1'"),
        ("ragged", "the output has another structure for every part of the batch"),
        ("square", r"the output\[1\] has no row for each sample: shapes \(3, 3\)"),
    ],
)
def test_outputs_without_rows(mode: str, match: str) -> None:
    model, args, rows = nested()
    model.module.mode = mode
    model.activate("b", weights=[0.5])
    with pytest.raises(AdapterError, match=match) as caught:
        model(*args, flag=True, adapters=rows)
    assert "\n" not in str(caught.value)
    assert dict(model.active_weights) == {"b": 0.5}
    assert managed_weights(model.module)["fc.weight"].weights == {"b": 0.5}


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        (["a", "b", "a"], "adapters= names 3 samples, and no tensor of the call has 3 rows"),
        (["a", None, "a", "b"], r"'m' is merged, so that the weights are not the base's: model.unmerge\(\) first"),
        (["a", "bee", None, "b"], "no adapter 'bee'; there are a, b, m"),
        (["a", "m", None, "b"], "adapter 'm' is merged into the base"),
        (["a", ("b", "m"), None, "b"], "adapter 'm' is merged into the base"),
        ([], "expected a list with one entry for each sample"),
        ("ab", "expected a list with one entry for each sample"),
        ({"a": 1}, "expected a list with one entry for each sample"),
        (["a", 3, None, "b"], "expected a name, None, names, or a dict of names and weights, got 3"),
        (["a", {"b": "x"}, None, "b"], "the weight of 'b': expected a number, got 'x'"),
    ],
)
def test_choices_that_cannot_be(rows: Any, match: str) -> None:
    model = zoo.wrap(Net(), lora={"a": 2, "b": 2, "m": 2})
    perturb(model)
    model.merge("m")
    with pytest.raises((AdapterError, UnknownNameError), match=match) as caught:
        model(Net.draw(4), adapters=rows)
    assert "\n" not in str(caught.value)
    assert model.active == ("a", "b")


def test_after_an_exception_of_the_modules_own() -> None:
    model = zoo.wrap(Net(), lora={"a": 2, "b": 2})
    model.activate("b")
    with pytest.raises(RuntimeError):
        model(torch.randn(2, 6), adapters=["a", None])
    assert managed_weights(model.module)["fc.weight"].active == ("b",)
    copied = copy.deepcopy(model)
    x = Net.draw(2)
    assert torch.equal(out(copied, x, adapters=["a", "b"]), out(model, x, adapters=["a", "b"]))


def test_others_adapters_and_whats_random_stay_out() -> None:
    """Dropout is drawn for each part; the RNG state afterwards is that of the parts alone."""
    model = zoo.wrap(
        nn.Sequential(nn.Linear(1, 1)), lora={"a": zoo.LoRA(1, dropout=0.5), "b": zoo.LoRA(1, dropout=0.5)}
    )
    model.train()
    x = torch.randn(2, 1)
    torch.manual_seed(0)
    model(x, adapters=["a", "b"])
    state = torch.get_rng_state()
    torch.manual_seed(0)
    for row, name in zip(x, "ab", strict=True):
        model.activate(name)
        model(row[None])
    assert torch.equal(torch.get_rng_state(), state)
