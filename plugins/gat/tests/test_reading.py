"""What people have: masks of several splits, several graphs, several classes at once, weights of edges, adj_t."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import f1_score
from torch_geometric.data import Data, HeteroData
from torch_geometric.transforms import ToSparseTensor

import zoo
from zoo.data.report import collecting
from zoo_gat.reading import read


@pytest.fixture
def data(random_graph) -> Data:
    return random_graph()


def _nodes(data, split: str) -> list[int]:
    return read(data, split).nodes(split).tolist()


def test_nodes_without_masks_are_held_out_evenly_over_the_classes_and_never_trained_on(data):
    data.y = torch.arange(40) % 4
    train, test = _nodes(data, "train"), _nodes(data, "test")
    assert sorted(train + test) == list(range(40))
    assert data.y[test].sort().values.tolist() == [0, 1, 2, 3]
    assert _nodes(zoo.Data(data, hold_out=0.5), "test") != test
    assert len(_nodes(zoo.Data(data, split="all"), "test")) == 40


def test_of_masks_of_several_splits_the_seed_says_which(data):
    masks = torch.rand(40, 3) < 0.5
    data.train_mask, data.test_mask = masks, ~masks
    with collecting() as reports:
        assert _nodes(data, "train") == masks[:, 0].nonzero()[:, 0].tolist()
    assert "train_mask has 3 splits, of which number 0 is taken" in reports[0].notes[0]
    assert _nodes(zoo.Data(data, seed=2), "test") == (~masks[:, 2]).nonzero()[:, 0].tolist()
    with pytest.raises(zoo.DataError, match="has the splits 0 to 2"):
        read(zoo.Data(data, seed=3), "train")


def test_three_masks_are_three_splits(data):
    part = torch.randint(3, (40,))
    data.train_mask, data.val_mask, data.test_mask = part == 0, part == 1, part == 2
    for number, split in enumerate(("train", "validation", "test")):
        assert _nodes(data, split) == (part == number).nonzero()[:, 0].tolist()
    assert _nodes(zoo.Data(data, split="validation"), "test") == (part == 1).nonzero()[:, 0].tolist()


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
def test_adj_t_is_the_same_graph(data, make):
    _, folder = make()
    model = zoo.load(str(folder), device="cpu")
    data = data.coalesce()
    expected = model.evaluate(data)
    sparse = ToSparseTensor(layout=torch.sparse_csr)(data.clone())
    assert "edge_index" not in sparse
    assert model.evaluate(sparse) == pytest.approx(expected, rel=1e-5)
    sparse.adj_t = sparse.adj_t * 2.0
    with pytest.raises(zoo.DataError, match="takes no edge_weight"):
        model.evaluate(sparse)


@pytest.mark.parametrize("v2", [False, True])
@pytest.mark.parametrize(
    ("field", "said"), [("edge_attr", "takes no features of each edge"), ("edge_weight", "takes no")]
)
def test_what_the_model_does_not_use_of_the_edges_is_an_error(data, make, v2, field, said):
    _, folder = make(v2=v2)
    setattr(data, field, torch.rand(data.edge_index.shape[1]))
    with pytest.raises(zoo.DataError, match=said):
        zoo.load(str(folder), device="cpu").evaluate(data)


def test_several_graphs_are_side_by_side_and_whole_ones_are_held_out(random_graph, make):
    gat, folder = make()
    model = zoo.load(str(folder), device="cpu")
    graphs = [random_graph() for _ in range(12)]
    union = read(graphs, "test")
    test = union.nodes("test")
    assert len(test) == 40  # one of twelve
    assert set((test // 40).tolist()).isdisjoint((union.nodes("train") // 40).tolist())
    held = graphs[int(test[0]) // 40]
    with torch.no_grad():
        wanted = torch.nn.functional.cross_entropy(gat(held.x, held.edge_index), held.y)
    assert model.evaluate(graphs)["loss"] == pytest.approx(wanted.item(), rel=1e-4)
    parts = {"train": graphs[:3], "val": graphs[3], "test": graphs[4:6]}
    assert model.evaluate(parts, split="validation")["loss"] == pytest.approx(
        model.evaluate(graphs[3], split="all")["loss"], rel=1e-5
    )


def test_nodes_of_several_classes_at_once(random_graph, make):
    gat, folder = make()
    model = zoo.load(str(folder), device="cpu", lora=2)
    graph = random_graph()
    graph.y = (torch.rand(40, 3) < 0.4).float()
    graph.y[3] = torch.nan
    graph.y[4, 1] = torch.nan
    with torch.no_grad():
        logits = gat(graph.x, graph.edge_index).double()
    known = ~graph.y.isnan()
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(logits[known], graph.y[known].double())
    metrics = model.evaluate(graph, split="all")
    assert metrics["loss"] == pytest.approx(wanted.item(), rel=1e-4)
    rows = [node for node in range(40) if node not in (3, 4)]
    some = model.evaluate(Data(x=graph.x, edge_index=graph.edge_index, y=_only(graph.y, rows)), split="all")
    said = logits[rows] > 0
    assert some["micro_f1"] == pytest.approx(f1_score(graph.y[rows], said, average="micro", zero_division=0))
    before = model.evaluate(graph, split="all")["loss"]
    model.tune(zoo.Data(graph, split="all"), steps=20, batch_size=50, lr=6e-3, quiet=True)
    assert model.evaluate(graph, split="all")["loss"] < before
    found = model.sample(1, data=graph, nodes=[0])
    with torch.no_grad():
        wanted = model.module(graph.x, graph.edge_index)[:1].sigmoid()
    assert found.kind == "probabilities"
    torch.testing.assert_close(found.data, wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(zoo.DataError, match="says it of 2 for each node"):
        model.evaluate(Data(x=graph.x, edge_index=graph.edge_index, y=graph.y[:, :2]))


def _only(y: torch.Tensor, rows: list[int]) -> torch.Tensor:
    kept = torch.full_like(y, torch.nan)
    kept[rows] = y[rows]
    return kept


def test_labels_that_are_names_are_bound_by_name(make, random_graph):
    import json

    _, folder = make()
    (folder / "class_names.json").write_text(json.dumps(["red", "green", "blue"]))
    model = zoo.load(str(folder), device="cpu")
    graph = random_graph()
    expected = model.evaluate(graph, split="all")
    names = ["red", "green", "blue"]
    named = {"x": graph.x, "edge_index": graph.edge_index, "y": [names[label] for label in graph.y.tolist()]}
    assert model.evaluate(named, split="all") == pytest.approx(expected)
    named["y"][0] = "purple"
    with pytest.raises(zoo.DataError, match=r"none of .*purple"):
        model.evaluate(named)


def test_unused_fields_are_named_and_labels_of_graphs_refused(data):
    data.pos = torch.rand(40, 3)
    with collecting() as reports:
        read(data, "train")
    assert reports[0].unused == ("pos",)
    with pytest.raises(zoo.DataError, match="one for each graph it seems"):
        read(Data(x=data.x, edge_index=data.edge_index, y=torch.tensor([1]), batch=torch.zeros(40).long()), "train")
    with pytest.raises(zoo.DataError, match="to_homogeneous"):
        read(HeteroData(), "train")


def test_training_data_that_are_evaluated_are_said_so(make, random_graph, capsys):
    _, folder = make()
    model = zoo.load(str(folder), device="cpu", lora=2)
    graph = random_graph()
    model.tune(graph, steps=2, batch_size=8, quiet=True)
    assert "seen_in_training" not in model.evaluate(graph)
    assert model.evaluate(graph, split="all")["seen_in_training"] == pytest.approx(0.9)
    assert "90% of what was evaluated on was trained on" in capsys.readouterr().err
