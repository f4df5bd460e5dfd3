"""A learning rate for each factor: the first step moves every weight by `lr`, for every kind of adapter."""

from __future__ import annotations

import json
from itertools import islice

import pytest
import torch
from torch import nn

import zoo
from zoo.errors import TuningError
from zoo.tuning.loop import tune
from zoo.tuning.optimizer import built, set_lr
from zoo.tuning.rates import GROWTH, Rate, follower, rates_of, step_sizes, usual_lr
from zoo.tuning.settings import Settings, check_rates, ratio_of
from zoo.weights.update import Update
from zoo.weights.walk import managed_weights

LR = 1e-4
KINDS = {
    "lora": zoo.LoRA(8, targets="all"),
    "rslora": zoo.LoRA(12, alpha=3, targets="all", rslora=True),
    "gaussian": zoo.LoRA(2, targets="all", init="gaussian"),
    "orthogonal": zoo.LoRA(8, targets="all", init="orthogonal"),
    "dora": zoo.LoRA(8, targets="all", dora=True),
    "pissa": zoo.LoRA(8, targets="all", init="pissa"),
    "olora": zoo.LoRA(4, targets="all", init="olora"),
    "loha": zoo.LoHa(8, targets="all"),
    "loha with cores": zoo.LoHa(4, targets="all", use_effective_conv2d=True),
    "lokr": zoo.LoKr(4, targets="all"),
    "lokr of both": zoo.LoKr(2, targets="all", decompose_both=True, use_effective_conv2d=True),
    "full": zoo.Full(targets="all"),
}
SOME = {"stylegan": ("lora", "dora", "lokr"), "vit": ("lora", "dora", "pissa"), "gpt": ("lora", "lokr")}
SEVEN = ("bert", "ddpm", "gat", "gpt", "stylegan", "vae", "vit")


def settings(**options) -> Settings:
    given = {"data": "", "steps": 9, "batch_size": 1, "lr": LR, "seed": 0, "warmup": 0, "grad_clip": None}
    return Settings(
        **{**given, "weight_decay": 0.0, "betas": (0.9, 0.999), "gradient_accumulation_steps": 1, **options}
    )


def first_steps(model, **options) -> dict[str, float]:
    """Return RMS(ΔW) / lr of every adapted weight for a random gradient of each."""
    weights = {name: store for name, store in managed_weights(model.module).items() if store.active}
    named = [(name, one) for name, one in model.trainable_parameters() if one.requires_grad]
    optimizer = built(named, settings(**options), model.device, rates_of(model.module, named, settings(**options)))
    optimizer.zero_grad()
    before, generator = {}, torch.Generator().manual_seed(1)
    for name, store in weights.items():
        dense = store.dense()
        dense.backward(torch.randn(dense.shape, generator=generator))
        before[name] = dense.detach().clone()
    optimizer.step()
    with torch.no_grad():
        return {
            name: float((store.dense() - before[name]).square().mean().sqrt()) / LR for name, store in weights.items()
        }


@pytest.mark.parametrize("name", SEVEN)
def test_the_first_step_moves_every_weight_by_lr(name):
    model = zoo.load(name, bits=4, device="cpu", seed=0)
    for kind in KINDS if name == "gat" else SOME.get(name, ("lora",)):
        config = KINDS[kind]
        model.add_adapter("one", config, seed=0)
        steps = first_steps(model)
        off = {weight: step for weight, step in steps.items() if not 0.7 <= step <= 1.3}
        assert not off, (kind, off)
        model.remove_adapter("one")


def test_with_one_rate_for_all_it_does_not():
    model = zoo.load("stylegan", lora=8, device="cpu", seed=0)
    steps = first_steps(model, rates="plain")
    assert max(steps.values()) > 100 * min(steps.values())


class Doubled(Update):
    """A stranger's kind, which says nothing of its step: (1 + a) · b · c beside the weight, where b starts at zero."""

    kind = "doubled"

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.full((), 2.0))
        self.b, self.c = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.full(shape, 5.0))

    def forward(self, weight):
        return weight + (1 + self.a) * self.b * self.c


def test_a_strangers_kind_is_measured():
    model = zoo.wrap(nn.Sequential(nn.Linear(20, 30)), lora=zoo.LoRA(2, targets="all"))
    (store,) = (one for one in managed_weights(model.module).values() if one.updates)
    store.remove("default")
    store.add("own", update := Doubled(store.shape))
    store.activate(("own",))
    random = torch.random.get_rng_state()
    assert step_sizes(update, store) == pytest.approx({"a": 0.0, "b": 15.0, "c": 0.0}, rel=1e-3)
    own = rates_of(model.module, update.named_parameters(), settings())
    times = follower(LR) / 2  # two of them follow
    expected = {"a": 2 * times, "b": 1 / 15, "c": 5 * times}
    assert {name: rate.first for name, rate in own.items()} == pytest.approx(expected, rel=0.05)
    assert all(rate.first == rate.later for rate in own.values())
    assert torch.equal(random, torch.random.get_rng_state())


def test_two_adapters_of_one_weight_share_the_step():
    model = zoo.wrap(nn.Sequential(nn.Linear(64, 96)), lora=zoo.LoRA(4, targets="all"), seed=0)
    model.add_adapter("second", zoo.LoRA(8, targets="all"), seed=1)
    assert first_steps(model)["0.weight"] == pytest.approx(1, abs=0.3)
    model.activate("default", "second", weights=(1.0, 0.25))
    assert first_steps(model)["0.weight"] == pytest.approx(1, abs=0.3)


def test_decay_shrinks_every_factor_by_the_same_share():
    model = zoo.wrap(nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 8)), lora=zoo.LoRA(4, targets="all"), seed=0)
    named = list(model.trainable_parameters())
    optimizer = built(named, settings(weight_decay=0.5), model.device, rates_of(model.module, named, settings()))
    assert len({group["rate"] for group in optimizer.param_groups}) >= 3
    assert all(group["lr"] * group["weight_decay"] == pytest.approx(LR * 0.5) for group in optimizer.param_groups)


def test_after_the_first_steps_what_moves_a_weight_goes_faster_the_lower_the_rank():
    model = zoo.wrap(nn.Sequential(nn.Linear(128, 96)), lora=zoo.LoRA(8, targets="all"), seed=0)
    named = list(model.trainable_parameters())
    rates = rates_of(model.module, named, settings())
    A, B = (next(rate for name, rate in rates.items() if name.endswith(end)) for end in (".A", ".B"))
    assert A.later == A.first
    assert B.at(10 * GROWTH) / B.at(0) == pytest.approx((128 / 8) ** 0.25)
    optimizer = built(named, settings(weight_decay=0.5), model.device, rates)
    for step in (0, GROWTH // 2, GROWTH):
        set_lr(optimizer, LR, step)
        assert {group["lr"] for group in optimizer.param_groups} == {LR * A.at(step), LR * B.at(step)}
        assert all(group["lr"] * group["weight_decay"] == pytest.approx(LR * 0.5) for group in optimizer.param_groups)


def test_lora_plus_gives_the_factor_at_zero_its_ratio():
    model = zoo.wrap(nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 8)), lora=zoo.LoRA(4, targets="all"), seed=0)
    named = list(model.trainable_parameters())
    found = rates_of(model.module, named, settings(rates="lora+"))
    assert {name.replace("_store.updates.default", ""): rate for name, rate in found.items()} == {
        "0.weight.A": Rate(16.0, 16.0),
        "1.weight.B": Rate(16.0, 16.0),
    }
    assert (ratio_of("lora+4.5"), ratio_of("lora+"), ratio_of("lora"), ratio_of("lora+0")) == (4.5, 16.0, None, None)
    for rates in ("lora+x", "lora+0", "", None, 16, "Matched"):
        with pytest.raises(TuningError, match="expected rates as 'matched', 'plain' or 'lora"):
            check_rates(rates)


def test_a_resumed_run_has_the_rates_of_its_start(tmp_path):
    def made(seed):
        return zoo.load("gat", bits=4, lora=zoo.LoRA(4, dora=True), device="cpu", seed=seed)

    options = {"steps": 6, "batch_size": 64, "lr": 5e-3, "quiet": True}
    tune(whole := made(0), **options)

    def stop(step, loss):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(made(0), out=tmp_path, on_step=stop, **options)
    state = json.loads((tmp_path / "checkpoint-3" / "state.json").read_text())
    start = made(0)
    expected = rates_of(start.module, list(start.trainable_parameters()), settings(lr=5e-3))
    listed = {name: list(rate) for name, rate in expected.items()}
    assert state["rates"] == json.loads((tmp_path / "tuning.json").read_text())["rates"] == listed
    tune(again := made(7), out=tmp_path, resume=True, **options)  # its own factors are others
    values = dict(again.trainable_parameters())
    assert all(torch.equal(values[name], one) for name, one in whole.trainable_parameters())
    with pytest.raises(TuningError, match="rates was 'matched' and is 'plain'"):
        tune(made(0), out=tmp_path, resume=True, rates="plain", **options)


def test_the_rate_that_a_run_shows_is_its_lr():
    model = zoo.load("gat", lora=4, device="cpu", seed=0)
    rates: list[float] = []

    class Seen(zoo.Callback):
        def on_step(self, run):
            rates.append(run.lr)

    result = model.tune(steps=3, batch_size=32, lr=2e-3, warmup=0, callbacks=[Seen()], quiet=True)
    assert result.lr == rates[0] == 2e-3
    assert len(list(islice(model.trainable_parameters(), 9))) == 9


def test_the_usual_rate_is_lower_where_weights_are_wider():
    assert usual_lr(nn.Sequential(nn.Embedding(9000, 64), nn.Linear(64, 8), nn.Conv2d(64, 8, 3))) == 1e-3
    wide = nn.Sequential(nn.Linear(1024, 8), nn.Linear(8, 1024), nn.Linear(1024, 4))
    assert usual_lr(wide) == usual_lr(zoo.wrap(wide, lora=2).module) == 2.5e-4
    assert usual_lr(nn.Flatten()) == 1e-3
