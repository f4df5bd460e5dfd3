"""Spending an average: against brute force, for real modules, and for architectures with a say of their own."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
import torch
from torch import nn

import zoo
from zoo.catalog.entry import Entry
from zoo.plugin.plan import offered, plan, planned_bytes
from zoo.plugin.quantize import pack_weight
from zoo.weights.codecs import pack
from zoo.weights.error import assumed_error
from zoo.weights.scheme import as_quantization
from zoo.weights.spend import Form, hull, least, spend
from zoo.weights.walk import index_module, tied_groups

ENTRY = Entry(name="module", plugin=None, source="module")
ARCHITECTURES = ["bert", "ddpm", "gat", "gpt", "stylegan", "vae", "vit"]


def _random_choices(random: torch.Generator, weights: int, forms: int) -> dict[str, list[Form]]:
    sizes = torch.randint(1, 40, (weights, forms), generator=random).tolist()
    costs = torch.randint(0, 50, (weights, forms), generator=random).tolist()
    return {f"w{n}": [Form(*pair) for pair in zip(sizes[n], costs[n], strict=True)] for n in range(weights)}


def _totals(choices: dict[str, list[Form]], chosen: dict[str, int]) -> Form:
    forms = [choices[name][place] for name, place in chosen.items()]
    return Form(sum(form.bytes for form in forms), sum(form.cost for form in forms))


@pytest.mark.parametrize("seed", range(40))
def test_a_choice_is_within_one_step_of_the_best_that_brute_force_finds(seed):
    random = torch.Generator().manual_seed(seed)
    choices = _random_choices(random, weights=int(torch.randint(1, 6, (), generator=random)), forms=3)
    every = [
        _totals(choices, dict(zip(choices, places, strict=True)))
        for places in itertools.product(range(3), repeat=len(choices))
    ]
    step = max(
        (
            forms[one].cost - forms[two].cost
            for forms in choices.values()
            for one, two in itertools.pairwise(hull(forms))
        ),
        default=0,
    )
    for budget in range(least(choices), max(total.bytes for total in every) + 2):
        got = _totals(choices, spend(choices, budget))
        best = min(total.cost for total in every if total.bytes <= budget)
        assert got.bytes <= budget
        assert best <= got.cost <= best + step
    assert got.cost == min(total.cost for total in every), "all at its best where there is enough"
    assert _totals(choices, spend(choices, 0)).bytes == least(choices)


@pytest.mark.parametrize("seed", range(40))
def test_a_hull_is_the_lower_convex_hull(seed):
    forms = _random_choices(torch.Generator().manual_seed(seed), 1, 6)["w0"]
    places = hull(forms)
    corners = [forms[place] for place in places]
    assert corners[0].bytes == min(form.bytes for form in forms)
    assert corners[-1].cost == min(form.cost for form in forms)
    slopes = [Fraction(one.cost - two.cost, two.bytes - one.bytes) for one, two in itertools.pairwise(corners)]
    assert all(slope > 0 for slope in slopes)
    assert all(one > two for one, two in itertools.pairwise(slopes))
    for form in forms:  # nothing is below the hull
        for one, two in itertools.pairwise(corners):
            if one.bytes <= form.bytes <= two.bytes:
                between = one.cost - Fraction(one.cost - two.cost, two.bytes - one.bytes) * (form.bytes - one.bytes)
                assert form.cost >= between


def test_equal_weights_are_served_in_their_order():
    choices = {f"layer.{n}": [Form(4, 1.0), Form(8, 0.0)] for n in range(5)}
    assert spend(choices, 4 * 5 + 4 * 2) == {"layer.0": 1, "layer.1": 1, "layer.2": 0, "layer.3": 0, "layer.4": 0}
    assert spend({}, 10) == {}


SHAPES = [(64, 64), (1, 7), (5, 3), (3, 1, 1), (2, 1), (130, 67), (7, 3, 3, 3), (1, 1, 9, 9), (300, 1, 5), (6, 4, 10)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("scheme", ["nf4", "fp4", "nf4 wide", "nf4 single"])
def test_planned_bytes_are_those_of_packing(scheme, dtype):
    more = {"nf4 wide": {"block_size": 256}, "nf4 single": {"double": False}}.get(scheme, {})
    average = zoo.Quantization(4, scheme.split()[0], average=5, **more)
    for shape in SHAPES:
        module = nn.Module()
        module.weight = nn.Parameter(torch.randn(shape).to(dtype))
        (group,) = tied_groups(module)
        for width in (*offered(average, dtype).values(), zoo.Quantization(8, "dynamic8"), zoo.Quantization(32), None):
            planned, plain = planned_bytes(ENTRY, group, width, None)
            chosen = {} if width is None else {group.name: width}
            packed = pack_weight(ENTRY, group, module.weight.detach(), chosen, dtype)
            tensors = [module.weight] if packed is None else packed.tensors()
            assert planned == sum(tensor.numel() * tensor.element_size() for tensor in tensors), (shape, width)
            assert plain == (packed is None)


def _average(model: zoo.Model) -> float:
    size = model.footprint()
    return 8 * size.bytes / size.parameters


def _widths(model: zoo.Model) -> dict[str, float]:
    return {weight.name: round(weight.bits, 2) for weight in model.weights() if len(weight.shape) > 1}


@pytest.mark.parametrize("average", [4.5, pytest.param(6.25, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_is_within_its_average_and_uses_it(name, average):
    model = zoo.load(name, bits=f"auto:{average}", device="cpu")
    smallest = min(weight.shape.numel() for weight in model.weights() if len(weight.shape) > 1 and weight.bits < 5)
    assert average - 4.5 * smallest / model.footprint().parameters < _average(model) <= average
    assert model.scheme == zoo.Quantization(4, average=average)
    on_meta = zoo.load(name, bits=f"auto:{average}", device="meta")
    assert (_average(on_meta), _widths(on_meta)) == (_average(model), _widths(model))
    assert zoo.load(name, bits=f"auto:{average}", device="cpu", dtype="bfloat16").footprint().bytes <= (
        average * model.footprint().parameters / 8
    )


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, groups=16), nn.Flatten(), nn.Linear(400, 64), nn.LayerNorm(64)
    )


def test_without_data_the_smallest_weights_come_first():
    for average in (4.45, 4.5, 4.6, 5, 7, 9, 12):
        chosen = plan(ENTRY, index_module(_net()).groups, as_quantization(f"auto:{average}"))
        assert chosen["1.weight"].bits >= chosen["0.weight"].bits >= chosen["3.weight"].bits
        assert (chosen["1.weight"].bits > 4, chosen["3.weight"].bits > 4) == (True, average > 8.5)
    assert set(_widths(zoo.wrap(_net(), bits="auto:32")).values()) == {16}


def test_keep_and_overrides_count():
    kept = zoo.wrap(_net(), bits="auto:5.5", keep=["0"])
    assert (_widths(kept)["0.weight"], _average(kept) <= 5.5) == (32, True)
    own = zoo.wrap(_net(), bits={"1": 4, "all": "auto:5"})
    assert _widths(own)["1.weight"] < 5 < _widths(own)["0.weight"]
    assert _average(own) <= 5
    assert own.scheme == zoo.Quantization(4, average=5.0, overrides=(("1", 4),))


def test_costs_decide_where_they_are_known():
    groups = index_module(_net()).groups
    scheme = as_quantization("auto:5")
    names = ["0.weight", "1.weight", "3.weight"]
    cheap = {name: {"4": 1.0, "4 wide": 1.2, "8": 0.9, "16": 0.8} for name in names}
    chosen = plan(ENTRY, groups, scheme, costs=cheap | {"0.weight": {"4": 1.0, "4 wide": 2.0, "8": 0.0, "16": 0.0}})
    assert (chosen["0.weight"].bits, chosen["3.weight"].bits) == (8, 4)
    chosen = plan(ENTRY, groups, scheme, costs={name: dict.fromkeys(("4", "4 wide", "8", "16"), 1.0) for name in names})
    wide = zoo.Quantization(4, block_size=256, mixed=False)
    assert set(chosen.values()) == {wide}, "nothing is spent on what costs nothing"


def test_blocks_end_with_the_rows_of_an_embedding():
    costs = {name: dict.fromkeys(("4", "4 wide", "8", "16"), 1.0) for name in ("0.weight", "1.weight", "2.weight")}
    module = nn.Sequential(nn.Embedding(50, 192), nn.Embedding(50, 256), nn.Linear(192, 64))
    chosen = plan(ENTRY, index_module(module).groups, as_quantization("auto:6"), costs=costs)
    assert {name: width.block_size for name, width in chosen.items()} == {
        "0.weight": 64,
        "1.weight": 256,
        "2.weight": 256,
    }


def test_the_least_average_is_named_and_works():
    with pytest.raises(zoo.QuantizationError, match=r"the least for this model is 4\.\d+") as caught:
        zoo.wrap(_net(), bits="auto:4.01")
    lowest = caught.value.args[0].split("model is ")[1].split(",")[0]
    model = zoo.wrap(_net(), bits=f"auto:{lowest}")
    assert _average(model) <= float(lowest)
    assert float(lowest) - _average(model) < 0.011
    with pytest.raises(zoo.QuantizationError, match=r"is 9\.\d\d, .* and 5\.77 of it for what is kept"):
        zoo.wrap(nn.Sequential(nn.Linear(100, 20), nn.Linear(20, 20)), bits="auto:5", keep=["1"])


def test_assumed_errors_are_those_of_normal_values():
    values = torch.randn(256, 1024)
    for label, scheme in offered(zoo.Quantization(4, average=5)).items():
        error = (pack(values, scheme)().double() - values.double()).square().sum() / values.double().square().sum()
        assert assumed_error(scheme) == pytest.approx(error.item(), rel=0.05), label
    assert assumed_error(zoo.Quantization(16), torch.bfloat16) == 0


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        ("auto", "an average above 4 and at most 32 such as 'auto:4.5'"),
        ("auto:", "expected 4, 8, 16, 32, or an average"),
        ("auto:x", "bits='auto:x'"),
        ("auto:2", "bits='auto:2'"),
        ("auto:4", "above 4"),
        ("auto:nan", "bits='auto:nan'"),
        ("auto:inf", "at most 32"),
        ("4", "bits='4': expected 4, 8, 16, 32"),
        ("Auto:5", "such as 'auto:4.5'"),
        ({"0": "auto:5"}, "expected a width or a plain"),
        ({"0": zoo.Quantization(4, average=5)}, "expected a width or a plain"),
    ],
)
def test_what_is_no_average_is_refused(bits, message):
    with pytest.raises(zoo.QuantizationError, match=message):
        zoo.wrap(_net(), bits=bits)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 8, "average": 9}, "expected scheme 'nf4' or 'fp4', got 'int8'"),
        ({"bits": 3, "scheme": "hqq", "average": 4}, "got 'hqq'"),
        ({"average": "5"}, "average: expected bits per value above 4"),
        ({"average": True}, "average: expected"),
        ({"average": 3.5}, "above 4, at most 32, got 3.5"),
        ({"average": math.nan}, "average: expected"),
    ],
)
def test_a_quantization_checks_its_average(arguments, message):
    with pytest.raises(zoo.QuantizationError, match=message):
        zoo.Quantization(**arguments)


def test_an_average_is_no_width_to_merge_in():
    model = zoo.wrap(_net(), bits="auto:5", lora=2, seed=0)
    for parameter in model.module.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter)
    with pytest.raises(zoo.QuantizationError, match="an average is of a whole model"):
        model.merge("default", bits="auto:5")
    assert model.merge("default", bits=4).weights


@pytest.mark.parametrize("name", ["vae", "gpt"])
def test_a_model_of_an_average_is_saved_packed_and_comes_back(name, tmp_path):
    model = zoo.load(name, bits="auto:4.6", device="cpu")
    model.save(tmp_path / "packed", packed=True)
    again = zoo.load(str(tmp_path / "packed"), device="cpu")
    assert (again.scheme, _widths(again)) == (model.scheme, _widths(model))
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)
    assert _widths(zoo.load(str(tmp_path / "packed"), device="meta")) == _widths(model)
    again = zoo.load(str(tmp_path / "packed"), device="cpu", bits="auto:4.6", dtype="float64")
    assert _widths(again)[max(_widths(again))] == _widths(model)[max(_widths(model))]


def test_an_adapter_remembers_the_average_of_its_base(tmp_path):
    model = zoo.load("vae", bits="auto:4.6", lora=2, device="cpu", seed=0)
    model.save_adapter(tmp_path)
    again = zoo.load("vae", bits="auto:4.6", lora=str(tmp_path), device="cpu")
    assert (again.records["default"]["bits"], again.records["default"]["average"]) == (4, 4.6)


def test_an_architecture_may_keep_a_weight_plain_in_4_bit_only():
    """ddpm keeps its first and last convolution out of 4 bit: in an average they are in 8 bit, or plain."""
    widths = _widths(zoo.load("ddpm", bits="auto:4.5", device="cpu"))
    assert widths["conv_in.weight"] >= 8
    assert widths["conv_out.weight"] >= 8


def test_what_another_library_stores_counts_and_stays():
    bnb = pytest.importorskip("bitsandbytes")
    foreign = bnb.nn.Linear4bit(64, 64, quant_type="nf4", bias=False).to("cpu")
    module = nn.Sequential(foreign, nn.Linear(64, 64, bias=False), nn.Linear(64, 8, bias=False))
    model = zoo.wrap(module, bits="auto:5.2")
    assert _average(model) <= 5.2
    assert _widths(model)["2.weight"] >= 8
    assert _widths(model)["1.weight"] < 5
