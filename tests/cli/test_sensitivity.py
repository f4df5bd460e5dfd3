"""The command `zoo sensitivity`, and averages on the command line."""

from __future__ import annotations

import json

import pytest
import torch

import zoo
from zoo.cli import main
from zoo.cli.sensitivity import draw, table
from zoo.loading.sensitivity import Sensitivity, WeightCost, loss_costs, sensitivity
from zoo.weights.scheme import as_quantization

FORMS = {"4 bit", "4 bit, blocks of 256", "8 bit", "16 bit", "plain"}
QUICK = ("--batches", "2", "--batch-size", "2", "--device", "cpu")


def test_it_prints_a_table_and_writes_a_plot(capsys, tmp_path):
    plot = tmp_path / "vae.png"
    assert main(["sensitivity", "vae", *QUICK, "--plot", str(plot)]) == 0
    out, err = capsys.readouterr()
    header, *rows = out.splitlines()
    assert header.split("  ")[0] == "weight"
    shares = [float(row.partition("%")[0].split()[-1]) for row in rows]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=0.05 * len(shares))
    assert rows[0].count("█") == 20
    assert {row.rsplit("  ", 1)[1].strip() for row in rows} <= FORMS
    assert "measuring vae …" in err
    assert "bits on average cost" in err
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_json_says_the_same_every_time_and_what_loading_reaches(capsys):
    command = ["sensitivity", "gat", *QUICK, "--bits", "auto:5", "--keep", "att_src", "--json"]
    assert main(command) == 0
    first = capsys.readouterr().out
    found = json.loads(first)
    assert found["average"] <= 5
    assert found["bits"] == "auto:5"
    assert not any("att_src" in weight["name"] for weight in found["weights"])
    for weight in found["weights"]:
        assert list(weight["costs"]) == ["4", "4 wide", "8", "16"]
        if "att_" in weight["name"]:  # below 16 bit kept plain by its architecture
            assert weight["costs"]["4"] == weight["costs"]["8"] == 0 < weight["costs"]["16"]
        else:
            assert weight["costs"]["4"] > weight["costs"]["8"] > weight["costs"]["16"] > 0
        assert weight["values"] == torch.Size(weight["shape"]).numel()
    assert found["cost"] < found["uniform"]
    assert main(command) == 0
    assert capsys.readouterr().out == first
    chosen = [(weight["name"].removesuffix(".weight"), weight["chosen"] or {"bits": 32}) for weight in found["weights"]]
    model = zoo.load("gat", bits=zoo.Quantization(4, keep=["att_src"], overrides=chosen), device="cpu")
    size = model.footprint()
    assert 8 * size.bytes / size.parameters == pytest.approx(found["average"])


@pytest.mark.parametrize(
    "name", ["vit", *(pytest.param(one, marks=pytest.mark.slow) for one in ("bert", "gpt", "stylegan"))]
)
def test_every_kind_of_loss_can_be_measured_and_leaves_the_model_alone(name):
    model = zoo.load(name, device="cpu")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    scheme = as_quantization("auto:4.6")
    told = []
    costs = loss_costs(model, None, scheme, batches=1, batch_size=2, report=lambda *one: told.append(one))
    found = sensitivity(model, scheme, costs)
    assert told[0] == (name, "batch", 0, 1)
    assert len(told) == 1 + len(costs)
    assert found.average <= 4.6
    assert found.cost < found.uniform
    size = zoo.load(name, bits=found.quantization, device="cpu").footprint()
    assert 8 * size.bytes / size.parameters == pytest.approx(found.average)
    assert sum(row.share for row in found.weights) == pytest.approx(1)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.module.parameters())


def test_a_quantized_model_is_refused():
    with pytest.raises(zoo.QuantizationError, match="expected the model in full precision"):
        loss_costs(zoo.load("gat", bits=4, device="cpu"), None, as_quantization("auto:5"))


def test_a_plot_of_many_weights_has_the_costliest():
    costs = {"4": 1.0, "4 wide": 1.2, "8": 0.1, "16": 0.0}
    forms = (*(zoo.Quantization(bits) for bits in (4, 8, 16)), zoo.Quantization(4, block_size=256), None) * 12
    rows = [WeightCost(f"w{n}", (2, 2), 4, costs, 1 / 60, form, 8.0) for n, form in enumerate(forms)]
    found = Sensitivity(tuple(rows), 5.0, 1.0, 2.0)
    assert b"<svg" in draw("m", "auto:5", found, ".svg")
    assert [row[-1] for row in table(found)][:5] == ["4 bit", "8 bit", "16 bit", "4 bit, blocks of 256", "plain"]
    assert draw("m", "auto:5", Sensitivity((), 5.0, 0.0, 1.0), ".png").startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sensitivity", "vae", "--bits", "4"], "expected an average such as 'auto:4.5', got 4"),
        (["sensitivity", "vae", "--bits", "auto:3"], "nor an average from 4 to 32"),
        (["sensitivity", "vae", "--plot", "vae.xls"], "expected a name in .png, .svg, .pdf"),
        (["sensitivity", "vae", "--batches", "0"], "x>=1"),
        (["info", "vae", "--bits", "auto"], "'auto' is not one of '4', '8', '16', '32', nor an average"),
        (["tune", "vae", "--bits", "auto:x"], "'auto:x' is not one of"),
    ],
)
def test_wrong_usage_exits_with_2(words, message, capsys):
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_an_average_that_cannot_be_reached_is_one_line(capsys):
    assert main(["sensitivity", "vae", *QUICK, "--bits", "auto:4.05"]) == 1
    assert "the least for this model is 4." in capsys.readouterr().err


def test_info_and_evaluate_take_an_average_and_keep(capsys):
    assert main(["info", "vae", "--bits", "auto:4.5", "--json"]) == 0
    average = json.loads(capsys.readouterr().out)["footprint"]
    assert average["bytes"] <= 4.5 / 8 * average["parameters"]
    assert main(["info", "vae", "--bits", "4", "--keep", "conv1", "--json"]) == 0
    kept = json.loads(capsys.readouterr().out)["footprint"]
    assert kept["bytes"] > 2 * average["bytes"]
    assert kept["quantized_share"] < average["quantized_share"]
    assert main(["evaluate", "gat", "--bits", "auto:5", "--keep", "att_src", "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["figures"]["accuracy"] > 0.9
    assert main(["evaluate", "gat", "--keep", "att_src", "--device", "cpu"]) == 1
    assert "nothing is quantized without bits" in capsys.readouterr().err
