"""Reading and writing PyG's layouts, old and new."""

from __future__ import annotations

import json

import pytest
import torch
from torch_geometric.nn.model_hub import PyGModelHubMixin
from torch_geometric.nn.models import GAT

import zoo

VARIANTS = [{}, {"v2": True}, {"v2": True, "share_weights": True}, {"residual": True}, {"bias": False}, {"jk": "cat"}]


def _same(model: zoo.Model, gat: GAT) -> None:
    x, edges = torch.randn(40, gat.in_channels), torch.randint(40, (2, 160))
    with torch.no_grad():
        wanted, got = (module(x, edges) for module in (gat, model.module))
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", VARIANTS, ids=str)
def test_a_folder_of_pygs_loads_as_it_is(make, config):
    gat, folder = make(**config)
    model = zoo.load(str(folder), device="cpu")
    assert type(model.module) is GAT
    assert model.entry.plugin == "gat"
    _same(model, gat)


class HubGAT(GAT, PyGModelHubMixin):
    """As PyG's documentation writes it."""

    def __init__(self, model_name, dataset_name, model_kwargs):
        model_kwargs.pop("use_auth_token", None)  # the mixin hands it on to the class
        GAT.__init__(self, **model_kwargs)
        PyGModelHubMixin.__init__(self, model_name, dataset_name, model_kwargs)


@pytest.mark.parametrize("v2", [False, True])
def test_pygs_own_mixin_writes_what_loads_here_and_reads_what_is_saved_here(tiny, tmp_path, monkeypatch, v2):
    monkeypatch.setattr(HubGAT, "construct_model_card", lambda *_: None)  # its template is on the Hub
    gat = HubGAT("gat", "letters", {**tiny, "v2": v2}).eval()
    gat.save_pretrained(str(tmp_path / "theirs"))
    assert sorted(path.name for path in (tmp_path / "theirs").iterdir() if path.suffix != ".md") == [
        "config.json",
        "model.pth",
    ]
    assert "v2" not in json.loads((tmp_path / "theirs" / "config.json").read_text())
    model = zoo.load(str(tmp_path / "theirs"), device="cpu")
    _same(model, gat)

    model.save(tmp_path / "ours")
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert config["v2"] is v2
    again = HubGAT.from_pretrained(str(tmp_path / "ours"), model_name="gat", dataset_name="letters", **config)
    _same(model, again)
    _same(zoo.load(str(tmp_path / "ours"), device="cpu"), gat)


def _old(gat: GAT, names: dict[str, tuple[str, ...]]) -> dict[str, torch.Tensor]:
    state = {}
    for name, tensor in gat.state_dict().items():
        for new, before in names.items():
            if f".{new}" in name:
                state.update({name.replace(f".{new}", f".{old}"): tensor.clone() for old in before})
                break
        else:
            state[name] = tensor
    return state


@pytest.mark.parametrize(
    "names",
    [
        {"lin.weight": ("lin_src.weight",)},
        {"lin.weight": ("lin_src.weight", "lin_dst.weight")},
        {"lin.weight": ("lin_l.weight", "lin_r.weight"), "att_src": ("att_l",), "att_dst": ("att_r",)},
    ],
    ids=["2.4", "2.0", "1.7"],
)
def test_names_of_old_files_are_translated(make, names):
    gat, folder = make()
    state = _old(gat, names)
    assert "convs.0.lin.weight" not in state
    torch.save(state, folder / "model.pth")
    _same(zoo.load(str(folder), device="cpu"), gat)
    if "convs.1.lin_dst.weight" in state:
        state["convs.1.lin_dst.weight"] += 1
        torch.save(state, folder / "model.pth")
        with pytest.raises(zoo.CheckpointError, match=r"lin_dst\.weight differs"):
            zoo.load(str(folder), device="cpu")


def test_what_a_class_around_it_puts_before_the_names_is_left_out(make):
    gat, folder = make(jk="cat")
    torch.save({f"net.gat.{name}": tensor for name, tensor in gat.state_dict().items()}, folder / "model.pth")
    _same(zoo.load(str(folder), device="cpu"), gat)


class Payload:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


def test_nothing_in_a_file_is_executed(make):
    gat, folder = make()
    torch.save({**gat.state_dict(), "extra": Payload()}, folder / "model.pth")
    with pytest.raises(zoo.CheckpointError, match="executes nothing"):
        zoo.load(str(folder), device="cpu")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"in_channels": -1}, "in_channels as a whole number, at least 1, got -1"),
        ({"hidden_channels": 7}, "does not make a GAT"),
        ({"no_such": 1}, "does not make a GAT"),
        ({"num_layers": 3}, "has shape"),
    ],
)
def test_a_wrong_configuration_is_refused(make, change, found):
    _, folder = make()
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(zoo.CheckpointError, match=found):
        zoo.load(str(folder), device="cpu")


def test_other_models_configurations_are_not_taken_for_a_gats(tiny):
    from zoo.plugin import hooks

    assert hooks.recognise({**tiny, "v2": True}) == ("gat",)
    assert "gat" not in hooks.recognise({key: value for key, value in tiny.items() if key != "heads"})


@pytest.mark.parametrize(("name", "parameters", "ratio"), [("gat", 96_314, 0.29), ("gat-cora", 95_607, 0.28)])
def test_registered_configurations_in_four_bit(name, parameters, ratio):
    model = zoo.load(name, device="meta", bits=4, lora=zoo.LoRA(rank=8, targets="all"))
    footprint = model.footprint()
    assert footprint.parameters == parameters
    assert footprint.quantized_share > 0.985
    assert footprint.bytes < ratio * footprint.bytes_16bit
    matrices = sum(shape.numel() for _, shape, *_ in model.weights() if len(shape) > 1)
    assert footprint.adapted_share * parameters / matrices > 0.99


@pytest.mark.parametrize("v2", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_attention_vectors_stay_in_full_precision_and_take_adapters(make, bits, v2):
    model = zoo.load(str(make(v2=v2)[1]), bits=bits, lora=zoo.LoRA(rank=1, targets="all"), device="cpu")
    kept = {name.rpartition(".")[2] for name, shape, _, found, _ in model.weights() if found >= 16 and len(shape) > 1}
    assert kept == ({"att"} if v2 else {"att_src", "att_dst"})
    assert all(adapters for _, shape, _, _, adapters in model.weights() if len(shape) > 1)


def test_by_default_every_weight_has_an_adapter():
    model = zoo.load("gat", device="meta", lora=4)
    adapted = {name for name, *_, adapters in model.weights() if adapters}
    assert adapted == {name for name, shape, *_ in model.weights() if len(shape) > 1}
    assert {"convs.0.lin.weight", "convs.1.res.weight", "convs.0.att_src"} <= adapted
