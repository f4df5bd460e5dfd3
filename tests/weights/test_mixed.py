"""The rule for small weights, and widths by name."""

import copy

import pytest
import torch

import zoo
from zoo.weights.mixed import SHARE, in_eight_bit


def test_the_smallest_weights_go_to_eight_bit_up_to_a_share_of_all_values():
    sizes = {"stem": 40, "a": 50, "b": 50, "middle": 100, "large": 1000}
    assert in_eight_bit(sizes) == {"stem", "a", "b"}
    assert sum(sizes[name] for name in in_eight_bit(sizes)) <= SHARE * sum(sizes.values())


def test_weights_of_one_size_stay_together():
    assert in_eight_bit({f"layer.{n}": 100 for n in range(10)}) == set()
    assert in_eight_bit({"small": 1} | {f"layer.{n}": 100 for n in range(10)}) == {"small"}
    assert in_eight_bit({}) == set()


def _net() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3), torch.nn.Conv2d(16, 16, 3, groups=16), torch.nn.Flatten(), torch.nn.Linear(400, 64)
    )


def _widths(model: zoo.Model) -> dict[str, int]:
    return {w.name: int(w.bits) for w in model.weights() if len(w.shape) > 1}


def test_small_weights_are_in_eight_bit_by_default_and_not_if_mixed_is_off():
    assert _widths(zoo.wrap(_net(), bits=4)) == {"0.weight": 9, "1.weight": 11, "3.weight": 4}
    assert set(_widths(zoo.wrap(_net(), bits=zoo.Quantization(4, mixed=False))).values()) == {4}


def test_bits_by_name_and_keep():
    assert _widths(zoo.wrap(_net(), bits={"3": 8, "0": 4})) == {"0.weight": 4, "1.weight": 11, "3.weight": 8}
    assert _widths(zoo.wrap(_net(), bits={"3": 4, "all": 8}))["3.weight"] == 4
    assert _widths(zoo.wrap(_net(), bits=4, keep=["0"]))["0.weight"] == 32
    assert _widths(zoo.wrap(_net(), bits={"1": 16}))["1.weight"] == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": {"head": 8}}, "bits: 'head' matches no weight"),
        ({"bits": 4, "keep": ["head"]}, "keep: 'head' matches no weight"),
        ({"keep": ["0"]}, "nothing is quantized without bits"),
        ({"bits": {"0": 5}}, "bits=5"),
        ({"bits": {"0": None}}, "expected a width"),
        ({"bits": {"all": None}}, "'all' is None"),
        ({"bits": {0: 8}}, "expected pairs"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_nothing_changes(arguments, message):
    net = _net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(zoo.QuantizationError, match=message):
        zoo.wrap(net, **arguments)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_mixed_model_is_saved_packed_and_comes_back(tmp_path):
    model = zoo.load("vae", bits={"conv_out": 16, "all": 4}, keep=["conv_in"], device="cpu")
    widths = _widths(model)
    assert {8, 4, 16, 32} <= set(widths.values())
    model.save(tmp_path / "packed", packed=True)
    again = zoo.load(str(tmp_path / "packed"), device="cpu")
    assert again.scheme == model.scheme
    assert _widths(again) == widths
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    again.save(tmp_path / "twice", packed=True)
    for path in (tmp_path / "packed").iterdir():
        assert path.read_bytes() == (tmp_path / "twice" / path.name).read_bytes()


def test_a_mixed_model_learns_merges_and_reloads(tmp_path):
    net = _net()
    model = zoo.wrap(net, bits=4, lora=2, seed=0)
    x = torch.randn(2, 3, 9, 9)
    for _, parameter in model.trainable_parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.save_adapter(tmp_path / "adapter")
    expected = net(x)
    model.merge()
    assert torch.allclose(net(x), expected, atol=1e-4)
    model.unmerge()
    model.activate("default")
    assert torch.allclose(net(x), expected, atol=1e-5)
    other = zoo.wrap(_net(), bits=4, lora=str(tmp_path / "adapter"))
    assert torch.allclose(other.module(x), expected, atol=1e-5)
    report = other.merge(bits=4)
    assert {one.bits for one in report.weights} == {4, 8}


def test_a_weight_that_4_bit_cannot_hold_is_in_8_bit_whatever_its_size():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 640))
    with torch.no_grad():
        module[1].weight[:, 0] = 12 * module[1].weight.std()
    uniform = zoo.wrap(copy.deepcopy(module), bits=zoo.Quantization(4, mixed=False)).footprint()
    assert uniform.errors["1.weight"] > 0.14 > uniform.errors["0.weight"]
    assert _widths(zoo.wrap(copy.deepcopy(module), bits=4))["1.weight"] == 8
    assert _widths(zoo.wrap(copy.deepcopy(module), bits={"1": 4}))["1.weight"] == 4  # who asks for it gets it


def test_names_may_end_in_weight_and_one_that_does_nothing_is_refused():
    module = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.LayerNorm(64))
    assert _widths(zoo.wrap(copy.deepcopy(module), bits={"0.weight": 16}))["0.weight"] == 16
    assert _widths(zoo.wrap(copy.deepcopy(module), bits=4, keep=["0.weight"]))["0.weight"] == 32
    with pytest.raises(zoo.QuantizationError, match="'1' names only weights that stay in full precision"):
        zoo.wrap(module, bits={"1": 8})
