"""The relative error that quantizing leaves, measured in parts, against that of the whole weight in float64."""

import copy
import json

import pytest
import torch

import zoo
from zoo.cli import main
from zoo.loading.losses import CHANGED, LOST
from zoo.weights.codecs import pack
from zoo.weights.error import relative_error


def _exact(stored, weight):
    return float((stored(torch.float64) - weight.double()).norm() / weight.double().norm())


@pytest.mark.parametrize(
    "scheme",
    [
        zoo.Quantization(4),
        zoo.Quantization(4, double=False),
        zoo.Quantization(4, "fp4", 4096),
        8,
        16,
        zoo.Quantization(8, "dynamic8"),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(700, 999), (3, 5), (2, 600, 700), (1, 700_000), (64, 3, 7, 7), ()])
def test_it_is_that_of_the_whole_weight(scheme, shape):
    scheme = zoo.Quantization(scheme) if isinstance(scheme, int) else scheme
    weight = torch.randn(shape)
    stored = pack(weight, scheme)
    assert relative_error(stored, weight) == pytest.approx(_exact(stored, weight), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_floats(dtype):
    weight = torch.randn(900, 400).to(dtype)
    stored = pack(weight, zoo.Quantization(4))
    assert relative_error(stored, weight) == pytest.approx(_exact(stored, weight), rel=1e-5)


def test_zeros_and_meta():
    zeros = torch.zeros(4, 8)
    assert relative_error(pack(zeros, zoo.Quantization(4)), zeros) == 0.0
    assert (
        relative_error(pack(torch.empty(4, 8, device="meta"), zoo.Quantization(4)), torch.empty(4, 8, device="meta"))
        is None
    )


def test_footprints_tell_it_the_largest_first():
    module = torch.nn.Sequential(torch.nn.Embedding(32, 64), torch.nn.Linear(64, 128), torch.nn.LayerNorm(128))
    dense = copy.deepcopy(module)
    model = zoo.wrap(module, bits={"0": 8, "all": 4}, lora=2)
    size = model.footprint()
    assert list(size.errors) == ["1.weight", "0.weight"]
    stored = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    squares = 0.0
    for name, error in size.errors.items():
        weight = dense.get_parameter(name).detach().double()
        assert error == pytest.approx(float((stored[name].double() - weight).norm() / weight.norm()), rel=1e-5)
        squares += error**2 * weight.numel()
    assert size.error == pytest.approx((squares / (32 * 64 + 64 * 128)) ** 0.5)
    assert zoo.wrap(torch.nn.Linear(8, 8).to("meta"), bits=4).footprint().error is None
    assert zoo.wrap(torch.nn.Linear(8, 8)).footprint().errors == {}


def test_copies_keep_it():
    model = zoo.wrap(torch.nn.Sequential(torch.nn.Linear(64, 64)), bits=4)
    expected = model.footprint().errors
    assert expected
    copied = copy.deepcopy(model.module)
    assert zoo.weights.footprint.footprint(copied).errors == expected
    assert zoo.weights.footprint.footprint(model.module.to(torch.bfloat16)).errors == expected


def test_a_packed_folder_keeps_it(tmp_path):
    model = zoo.load("gat", bits=4, device="cpu")
    expected = model.footprint().errors
    assert len(expected) >= 3
    model.save(tmp_path / "small", packed=True)
    assert zoo.load(str(tmp_path / "small"), device="cpu").footprint().errors == expected


def test_an_adapters_record_and_the_command_line_say_it(tmp_path, capsys):
    model = zoo.load("gat", bits=4, lora=2, device="cpu")
    model.save_adapter(tmp_path / "adapter")
    record = json.loads((tmp_path / "adapter" / "zoo.json").read_text())
    assert record["quantization_error"] == pytest.approx(model.footprint().error, rel=1e-5)
    assert main(["info", "gat", "--bits", "4", "--errors", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["footprint"]["errors"] == model.footprint().errors
    assert main(["info", "gat", "--bits", "4", "--errors"]) == 0
    worst = next(iter(model.footprint().errors))
    assert f"the most: {worst}" in capsys.readouterr().out


def test_a_weight_of_which_little_is_left_is_named_in_a_warning(caplog):
    module = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
    with torch.no_grad():
        module[1].weight.copy_(torch.distributions.StudentT(2.5).sample((64, 64)))
    coarse, fine = zoo.Quantization(4, "fp4", 4096, mixed=False), copy.deepcopy(module)
    with caplog.at_level("WARNING", "zoo"):
        model = zoo.wrap(module, bits=coarse)
    assert model.footprint().errors["1.weight"] > LOST > model.footprint().errors["0.weight"]
    (message,) = [record.getMessage() for record in caplog.records]
    assert "left little of 1 weights, most of all 1.weight" in message
    assert "bits={'1.weight': 8, 'all': 4}" in message
    caplog.clear()
    with caplog.at_level("WARNING", "zoo"):
        zoo.wrap(fine, bits={"1.weight": 8, "all": 4})
    assert not caplog.records


class _Chaotic(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(64, 64)

    def forward(self, x):
        return torch.sin(300 * self.fc(x))


def test_a_calibrated_model_whose_outputs_have_changed_gets_a_warning(caplog):
    uniform = zoo.Quantization(4, mixed=False)
    with caplog.at_level("WARNING", "zoo"):
        model = zoo.wrap(torch.nn.Linear(64, 64), bits=uniform, calibrate=[torch.randn(64, 64)])
        assert model.calibration.error < CHANGED
        assert not caplog.records
        model = zoo.wrap(_Chaotic(), bits=uniform, calibrate=[torch.randn(64, 64)])
    assert model.calibration.error > CHANGED
    assert "_Chaotic: quantizing has changed the outputs by 1" in caplog.text
    assert "bits=8 or an average such as bits='auto:5'" in caplog.text
