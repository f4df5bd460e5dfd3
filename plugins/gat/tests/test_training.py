"""Losses, batches, metrics, predictions and tuning."""

from __future__ import annotations

import copy

import pytest
import torch

import zoo

SANS, SERIF = 0.998, 0.938  # README.md


@pytest.fixture(scope="module")
def letters():
    return zoo.load("gat", device="cpu")


def test_a_batch_holds_all_that_its_loss_needs(letters):
    batch = next(iter(letters.batches("letters:serif", batch_size=64, seed=1)))
    assert set(batch) == {"x", "edge_index", "seeds", "labels"}
    assert batch["seeds"].shape == batch["labels"].shape == (64,)
    assert 64 < len(batch["x"]) < 3900
    assert torch.equal(letters.loss(batch), letters.loss(batch))
    again = next(iter(letters.batches("letters:serif", batch_size=64, seed=1)))
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    other = next(iter(letters.batches("letters:serif", batch_size=64, seed=2)))
    assert not torch.equal(batch["labels"], other["labels"])


def test_a_batch_of_everything_is_the_whole_graph(make, random_graph):
    model = zoo.load(str(make()[1]), device="cpu")
    graph = random_graph()
    graph.train_mask = torch.arange(40) < 30
    stream = iter(model.batches(graph, batch_size=30))
    for batch in (next(stream), next(stream)):
        assert torch.equal(batch["x"], graph.x)
        assert torch.equal(batch["edge_index"], graph.edge_index)
        assert batch["seeds"].tolist() == list(range(30))
    graph.neighbors = [1]
    sampled = next(iter(model.batches(graph, batch_size=30)))
    assert sampled["edge_index"].shape[1] < 160
    graph.neighbors = [3, 2, 1]
    with pytest.raises(zoo.DataError, match="1 or 2 numbers"):
        model.batches(graph, batch_size=30)


def test_other_splits_are_one_pass(letters):
    labels = torch.cat([batch["labels"] for batch in letters.batches(batch_size=300, split="test")])
    assert labels.bincount().tolist() == [40] * 26


def test_the_embedded_model_is_as_good_as_its_readme_says(letters):
    before = torch.get_rng_state()
    metrics = letters.evaluate()
    assert list(metrics) == ["accuracy", "loss", "top5_accuracy", "calibration_error"]
    assert metrics["accuracy"] == pytest.approx(SANS, abs=0.004)
    assert letters.evaluate("letters:serif")["accuracy"] == pytest.approx(SERIF, abs=0.004)
    assert torch.equal(before, torch.get_rng_state())


def test_four_bits_cost_little_and_learn_another_graph(letters):
    model = zoo.load("gat", bits=4, lora=zoo.LoRA(rank=8, targets="all"), device="cpu", seed=0)
    assert model.evaluate()["accuracy"] > letters.evaluate()["accuracy"] - 0.02
    before = model.evaluate("letters:serif")
    assert model.evaluate("letters:serif") == before
    model.tune("letters:serif", steps=12, batch_size=400, lr=5e-3)
    after = model.evaluate("letters:serif")
    assert after["loss"] < 0.9 * before["loss"]
    assert after["accuracy"] > before["accuracy"]
    model.deactivate()
    assert model.evaluate("letters:serif") == pytest.approx(before, rel=1e-5)


def test_posteriors_carry_names_and_pictures(letters):
    posterior = letters.sample(4, seed=0)
    assert posterior.kind == "posterior"
    assert posterior.labels == list("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert posterior.images.shape == (4, 1, 32, 32)
    torch.testing.assert_close(posterior.data.sum(1), torch.ones(4))
    assert torch.equal(posterior.data, letters.sample(4, seed=0).data)
    assert not torch.equal(posterior.data, letters.sample(4, seed=1).data)
    few = letters.sample(4, seed=0, neighbors=2).data
    assert not torch.equal(posterior.data, few)
    assert torch.equal(few, letters.sample(4, seed=0, neighbors=[2, 2]).data)
    assert letters.sample(3, nodes="7, 8").captions[0].startswith("node 7 (")


def test_a_large_graph_is_computed_in_parts_with_equal_figures(make, random_graph, monkeypatch):
    from zoo_gat import training

    model = zoo.load(str(make()[1]), device="cpu")
    graph = random_graph()
    whole = model.evaluate(graph)
    monkeypatch.setattr(training, "_AT_ONCE", 39)
    assert model.evaluate(graph) == pytest.approx(whole, rel=1e-5)


def test_nodes_of_a_networkx_graph_go_by_name(make):
    import networkx

    model = zoo.load(str(make()[1]), device="cpu")
    graph = networkx.karate_club_graph()
    for node in graph:
        graph.nodes[node]["x"] = torch.randn(6)
    graph = networkx.relabel_nodes(graph, {33: "John A"})
    posterior = model.sample(2, data=graph, nodes=["John A", 0])
    assert posterior.captions == ["node John A", "node 0"]
    assert posterior.labels == ["0", "1", "2"]
    assert len(model.sample(50, data=graph, seed=0)) == 50  # nodes come again where there are fewer


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"node": 3}, "Did you mean 'nodes'"),
        ({"nodes": 2000}, "from 0 to 1039"),
        ({"nodes": []}, "at least one"),
        ({"nodes": "A"}, "from 0 to 1039"),
        ({"neighbors": [1, 2, 3]}, "for each of 2 layers"),
        ({"neighbors": 0}, "from 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(letters, options, found):
    with pytest.raises(zoo.ZooError, match=found):
        letters.sample(1, seed=0, **options)


@pytest.mark.parametrize("v2", [False, True])
@pytest.mark.parametrize("lora", [None, 4])
@pytest.mark.parametrize("bits", [None, 32, 16, 8, 4])
def test_every_combination_does_everything(make, random_graph, tmp_path, bits, lora, v2):
    _, folder = make(v2=v2)
    config = zoo.LoRA(rank=lora, targets="all") if lora else None
    model = zoo.load(str(folder), bits=bits, lora=config, device="cpu", seed=0)
    graph = random_graph()
    assert model.sample(2, data=graph, seed=0).data.shape == (2, 3)
    assert torch.isfinite(model.loss(next(iter(model.batches(graph, batch_size=40)))))
    if lora is None and bits in (4, 8, 16):
        return  # quantized weights train through adapters alone
    before = model.evaluate(graph, split="train")["loss"]
    model.tune(graph, steps=5, batch_size=40, lr=5e-3)
    assert model.evaluate(graph, split="train")["loss"] < before
    with torch.no_grad():
        wanted = model.module(graph.x, graph.edge_index)
        assert torch.equal(copy.deepcopy(model.module)(graph.x, graph.edge_index), wanted)
    if lora is None:
        return
    saved = model.save_adapter(tmp_path / "adapter")
    again = zoo.load(str(folder), bits=bits, lora=str(saved), device="cpu")
    with torch.no_grad():
        assert torch.equal(again.module(graph.x, graph.edge_index), wanted)
        model.merge()
        torch.testing.assert_close(model.module(graph.x, graph.edge_index), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_forward_compiles(make, random_graph):
    model = zoo.load(str(make()[1]), bits=4, lora=zoo.LoRA(rank=2, targets="all"), device="cpu")
    graph = random_graph()
    with torch.no_grad():
        compiled = torch.compile(model.module, backend="eager")
        wanted = model.module(graph.x, graph.edge_index)
        torch.testing.assert_close(compiled(graph.x, graph.edge_index), wanted, rtol=1e-5, atol=1e-5)
    torch.compiler.reset()
