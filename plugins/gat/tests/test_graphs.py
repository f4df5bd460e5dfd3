"""Graphs in every form, and neighbourhoods of nodes."""

from __future__ import annotations

import networkx
import numpy as np
import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.utils import k_hop_subgraph

import zoo
from zoo_gat.graphs import letters, nearest, neighbourhood
from zoo_gat.reading import read


@pytest.fixture
def data(random_graph) -> Data:
    return random_graph()


def _forms(data: Data, tmp_path):
    numbers = {"x": data.x.numpy(), "edge_index": data.edge_index.numpy(), "y": data.y.numpy()}
    np.savez(tmp_path / "graph.npz", **numbers)
    graph = networkx.MultiDiGraph()
    for node in range(len(data.x)):
        graph.add_node(node, x=data.x[node], y=int(data.y[node]))
    graph.add_edges_from(data.edge_index.T.tolist())
    return {
        "data": data,
        "tuple": (data.edge_index, data.x, data.y),
        "mapping": numbers,
        "npz": str(tmp_path / "graph.npz"),
        "networkx": graph,
    }


@pytest.mark.parametrize("form", ["data", "tuple", "mapping", "npz", "networkx"])
def test_every_form_gives_the_same_answers(data, tmp_path, make, form):
    gat, folder = make()
    model = zoo.load(str(folder), device="cpu")
    given = _forms(data, tmp_path)[form]
    with torch.no_grad():
        logits = gat(data.x, data.edge_index)
    metrics = model.evaluate(given, split="all")
    assert metrics["accuracy"] == pytest.approx((logits.argmax(1) == data.y).float().mean().item())
    assert metrics["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, data.y).item(), rel=1e-4)
    posterior = model.sample(3, data=given, nodes=[5, 7, 11])
    torch.testing.assert_close(posterior.data, logits.softmax(1)[[5, 7, 11]], rtol=1e-4, atol=1e-5)


def test_undirected_graphs_run_both_ways():
    graph = networkx.Graph()
    graph.add_nodes_from(["a", "b", "c"], x=[1.0, 2.0])
    graph.add_edges_from([("a", "b"), ("c", "c")])
    found = read(graph, "test")
    assert sorted(found.edge_index.T.tolist()) == [[0, 1], [1, 0], [2, 2]]
    assert found.names == ("a", "b", "c")
    assert found.y is None


def test_masks_decide_which_nodes_count(data):
    mask = torch.arange(40) < 10
    trained, held = read(data, "train").nodes("train").tolist(), read(data, "test").nodes("test").tolist()
    assert sorted(trained + held) == list(range(40))
    assert len(held) == 4
    data.train_mask = mask
    assert read(data, "train").nodes("train").tolist() == list(range(10))
    assert read(data, "test").nodes("test").tolist() == list(range(10, 40))
    data.test_mask = torch.arange(40) >= 35
    data.y[37] = -1
    assert read(data, "test").nodes("test").tolist() == [35, 36, 38, 39]


def test_letters_hear_from_the_letters_nearest_to_them():
    graph = letters("sans", "test")
    assert graph.x.shape == (1040, 256)
    assert graph.edge_index.shape == (2, 8 * 1040)
    distances = torch.cdist(graph.x[:50], graph.x)
    distances[torch.arange(50), torch.arange(50)] = torch.inf
    wanted = distances.topk(8, largest=False).indices.sort().values
    got = graph.edge_index[0].reshape(1040, 8)[:50].sort().values
    assert torch.equal(got, wanted)
    same = (graph.y[graph.edge_index[0]] == graph.y[graph.edge_index[1]]).float().mean()
    assert 0.6 < same < 1
    assert not torch.equal(letters("sans", "train").x[:1040], graph.x)
    with pytest.raises(zoo.DataError, match="from 1 to"):
        nearest(torch.rand(3, 2), 3)


def test_a_neighbourhood_is_what_pyg_gives(data):
    graph = read(data, "train")
    seeds = torch.tensor([3, 17, 8])
    for hops in (1, 2, 3):
        part, places = neighbourhood(graph, seeds, hops)
        nodes, *_ = k_hop_subgraph(seeds, hops, data.edge_index, num_nodes=40)
        assert torch.equal(part["x"], data.x[nodes.sort().values])
        assert torch.equal(part["x"][places], data.x[seeds])


@pytest.mark.parametrize("v2", [False, True])
def test_seeds_get_in_their_neighbourhood_what_they_get_in_the_whole_graph(make, random_graph, v2):
    gat, folder = make(v2=v2, edge_dim=2)
    model = zoo.load(str(folder), device="cpu")
    graph = random_graph(edges=70, edge_dim=2)
    batch = next(iter(model.batches(zoo.Data(graph, split="all"), batch_size=5, split="test")))
    assert len(batch["x"]) < 40
    with torch.no_grad():
        whole = gat(graph.x, graph.edge_index, edge_attr=graph.edge_attr)
    wanted = torch.nn.functional.cross_entropy(whole[:5], graph.y[:5])
    torch.testing.assert_close(model.loss(batch).detach(), wanted, rtol=1e-4, atol=1e-5)


def test_sampled_neighbours_are_some_of_the_real_ones(data):
    graph = read(data, "train")
    seeds = torch.arange(0, 40, 5)
    generator = torch.Generator().manual_seed(0)
    part, places = neighbourhood(graph, seeds, 1, [2], generator)
    counts = torch.bincount(part["edge_index"][1], minlength=len(part["x"]))
    degrees = torch.bincount(data.edge_index[1], minlength=40)
    assert torch.equal(counts[places], degrees[seeds].clamp(max=2))
    real = {tuple(edge) for edge in data.edge_index.T.tolist()}
    where = [int((data.x == row).all(1).nonzero()[0, 0]) for row in part["x"]]
    assert {(where[a], where[b]) for a, b in part["edge_index"].T.tolist()} <= real


def test_no_neighbour_is_preferred():
    star = read((torch.tensor([[1, 2, 3, 4], [0, 0, 0, 0]]), torch.eye(5)), "train")
    generator = torch.Generator().manual_seed(0)
    heard = torch.zeros(5)
    for _ in range(400):
        heard += neighbourhood(star, torch.tensor([0]), 1, [2], generator)[0]["x"].sum(0)
    assert heard[0] == 400
    assert heard.sum() == 3 * 400
    assert (heard[1:] - 200).abs().max() < 50


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("karate", "no such file or name"),
        (7, "got int"),
        ((torch.tensor([[0], [9]]), torch.rand(3, 6)), "nodes from 0 to 2"),
        ((torch.rand(2, 4), torch.rand(3, 6)), "of whole numbers"),
        ((torch.tensor([[0], [1]]), torch.rand(3)), r"as \[nodes, features\]"),
        ((torch.tensor([[0], [1]]), torch.rand(3, 6), torch.tensor([0, 1])), "for each of 3 nodes"),
        ((torch.tensor([[0], [1]]), torch.rand(3, 6), torch.tensor([0, 1, 3])), "classes 0 to 2"),
        ((torch.tensor([[0], [1]]), torch.rand(3, 5)), "takes 6 features"),
        ((torch.tensor([[0], [1]]), torch.rand(3, 6)), "have no labels"),
        ({"x": torch.rand(3, 6)}, "edge_index, its edges; one of them is missing"),
        ({"x": torch.rand(3, 6), "edge_index": torch.tensor([[0], [1]]), "neighbors": [0]}, "such as"),
        ({"x": torch.rand(3, 6), "edge_index": torch.tensor([[0], [1]]), "train_mask": [1, 0, 1]}, "truth value"),
        (networkx.path_graph(3), "0 has none"),
    ],
)
def test_graphs_that_do_not_fit_are_refused(make, given, found):
    model = zoo.load(str(make()[1]), device="cpu")
    with pytest.raises(zoo.DataError, match=found):
        model.evaluate(given)
