"""`zoo.plan`: what a run takes, beside what one took; and whether a card holds it."""

from __future__ import annotations

import json

import pytest
import torch

import zoo
from zoo.catalog import registry
from zoo.cli import main
from zoo.errors import ZooError
from zoo.planning.cards import CONTEXT, as_card
from zoo.tuning.optimizer import built
from zoo.tuning.settings import Settings

GPT3 = 12 * 12288**2 + 13 * 12288  # values in a block: four square projections, 4 × as wide a pair, biases, norms


def used(model: zoo.Model, batch: object) -> dict[str, int]:
    """Return what one step of a model with values takes, in bytes."""
    named = list(model.trainable_parameters())
    model.train()
    loss = model.loss(batch)
    loss.backward()
    settings = Settings("", 1, 1, 1e-4, 0, 0, None, 0.0, (0.9, 0.99), 1)
    optimizer = built(named, settings, torch.device("cpu"), {})
    optimizer.step()
    moments = [tensor for state in optimizer.state.values() for tensor in state.values()]
    kept = {id(one): one for one in (*model.module.parameters(), *model.module.buffers())}.values()
    sizes = {"weights": kept, "gradients": [p.grad for _, p in named if p.grad is not None], "optimizer": moments}
    return {name: sum(one.numel() * one.element_size() for one in tensors) for name, tensors in sizes.items()}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("gat", {"lora": 8, "bits": 4}),
        ("vit", {"full": True}),
        ("gat", {"lora": zoo.LoRA(4, dora=True, targets="all")}),
    ],
)
def test_bytes_are_those_of_a_run(name, settings):
    made = zoo.plan(name, batch_size=8, **settings)
    model = zoo.load(name, device="cpu", bits=settings.get("bits"), lora=settings.get("lora"))
    took = used(model, next(iter(model.batches(batch_size=8))))
    assert made.weights + made.adapters == pytest.approx(took["weights"], rel=0.02)
    assert made.gradients == pytest.approx(took["gradients"], rel=0.02)
    assert made.optimizer == pytest.approx(took["optimizer"], rel=0.02)
    assert made.trainable == model.footprint().trainable
    assert made.parameters == model.footprint().parameters


def test_activations_are_those_that_a_run_keeps():
    made = zoo.plan("vit", full=True, batch_size=8)
    model = zoo.load("vit", device="cpu").train()
    batch = next(iter(model.batches(batch_size=8)))
    kept: dict[int, int] = {}
    own = {one.untyped_storage().data_ptr() for one in (*model.module.parameters(), *model.module.buffers())}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model.loss(batch)
    assert made.activations == pytest.approx(sum(kept.values()), rel=0.1)
    assert made.peak > made.state + made.activations - made.gradients
    assert loss.requires_grad
    # Two for each multiplication with an addition, and a product has two products behind it.
    matrices = sum(p.numel() for p in model.module.parameters() if p.ndim == 2)
    assert made.flops == pytest.approx(3 * 2 * 8 * 65 * matrices, rel=0.15)


def test_no_weight_is_read_and_nothing_is_changed(monkeypatch):
    monkeypatch.setattr("zoo.storage.checkpoint.tensors", lambda *args: pytest.fail("weights were read"))
    before = torch.get_rng_state()
    assert zoo.plan("vit", bits=4, batch_size=2).peak > 0
    assert torch.equal(torch.get_rng_state(), before)


def test_larger_batches_and_longer_rows_keep_more():
    small, wide, long = (
        zoo.plan("gpt", batch_size=b, length=n, lora=zoo.LoRA(4, targets=["c_attn"]))
        for b, n in ((2, 32), (4, 32), (2, 64))
    )
    assert small.shapes["input_ids"] == (2, 32)
    assert small.activations < wide.activations < 2.1 * small.activations
    assert small.flops < long.flops
    assert small.state == wide.state == long.state


def test_what_falls_due_every_sixteenth_batch_is_in_the_peak():
    from zoo.planning.batches import example_batches

    class Due:
        entry = registry.find("gat")

        def batches(self, data, batch_size):
            return ({"x": torch.ones(batch_size + index % 3, 2), "index": index} for index in range(40))

    found = example_batches(Due(), None, 4, None)
    assert {batch["index"] for batch in found[1:]} == {0, 1, 3, 7, 15}
    assert len(found[0]["x"]) == 6


def test_counts_of_the_lora_paper():
    """Table 4 of arXiv 2106.09685: rank 4 on the queries' and values' projections of GPT-3."""
    entry = registry.find("gpt3-175b")
    assert entry.targets == ("q_proj", "v_proj")
    model = zoo.load("gpt3-175b", lora=zoo.LoRA(4, targets=["q_proj", "v_proj"]), dtype="bfloat16", device="meta")
    size = model.footprint()
    assert size.trainable == 96 * 2 * 2 * 4 * 12288 == 18_874_368
    assert size.parameters == 96 * GPT3 + (50257 + 2050 + 2) * 12288
    assert round(size.parameters / size.trainable) == 9251
    with pytest.raises(ZooError, match=r"gpt3-175b.*weights"):
        zoo.load("gpt3-175b", device="cpu")


@pytest.mark.parametrize(
    ("name", "billions"),
    [("llama-3-8b", 8.03), ("llama-3-70b", 70.55), ("llama-3.1-405b", 405.85), ("mistral-7b", 7.24)],
)
def test_sizes_of_entries_that_are_for_planning(name, billions):
    size = zoo.load(name, device="meta", dtype="bfloat16").footprint()
    assert size.parameters / 1e9 == pytest.approx(billions, abs=0.006)


@pytest.mark.slow
def test_a_card_that_is_too_small_and_what_would_fit():
    whole = zoo.plan("vit", full=True, batch_size=8)
    need = whole.state + 0.6 * (whole.peak - whole.state)
    settings = {"batch_size": 8, "dtype": "float32"}
    made = zoo.plan("vit", full=True, gpu=f"{(need / 0.96 + CONTEXT) / 1e6:.0f}MB", **settings)
    assert made.fits is False
    assert made.peak == whole.peak > made.card.usable
    assert made.would_fit[0].settings == {"batch_size": 4}
    for change in made.would_fit:
        again = zoo.plan("vit", full="lora" not in change.settings, **(settings | change.settings))
        assert again.peak == change.peak <= made.card.usable
    assert zoo.plan("vit", full=True, batch_size=2, gpu="h200").fits is True


def test_cards():
    assert as_card("H200").bytes == 143_771 << 20
    assert as_card("80 GB").bytes == 80 * 10**9
    assert as_card("24GiB").bytes == 24 << 30
    assert as_card("80").usable < 80 * 10**9 - CONTEXT
    assert not as_card("t4").bf16
    for wrong in ("h20", "", "-1GB", "0GB", "9" * 400, "nan"):
        with pytest.raises(ZooError, match="expected a size"):
            as_card(wrong)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"full": True, "lora": 8}, "give one of them"),
        ({"full": True, "bits": 4}, "16 or 32 bit"),
        ({"batch_size": 0}, "batch_size"),
        ({"length": 10**6}, "context"),
        ({"lora": zoo.LoRA(8, targets=["nothing"])}, "matches no weight"),
        ({"gpu": "h1000"}, "expected a size"),
    ],
)
def test_what_cannot_be(settings, said):
    with pytest.raises(ZooError, match=said):
        zoo.plan("gpt", **settings)


def test_a_loss_that_no_batch_fits_leaves_the_rest_known(capsys):
    made = zoo.plan("gat-cora")
    assert made.peak is made.flops is made.activations is None
    assert "give data=" in made.unknown
    assert made.state > 0
    graph = {"x": torch.rand(20, 1433), "edge_index": torch.randint(20, (2, 60)), "y": torch.arange(20) % 7}
    assert zoo.plan("gat-cora", data=graph, batch_size=4).peak > 0
    assert main(["plan", "gat-cora", "--lora", "4"]) == 0
    out, err = capsys.readouterr()
    assert "95,607" in out
    assert "not known" in err


def test_the_command(capsys):
    assert (
        main(["plan", "vit", "--lora", "4", "--targets", "qkv,proj", "--batch-size", "2", "--gpu", "h200", "--json"])
        == 0
    )
    said = json.loads(capsys.readouterr().out)
    assert said["adapter"] == "lora rank 4"
    assert said["fits"] is True
    assert said["dtype"] == "bfloat16"
    assert main(["plan", "vit", "--full", "--batch-size", "2", "--gpu", "1MB"]) == 0
    assert "no settings that were tried" in capsys.readouterr().out
    assert main(["plan", "vit", "--full", "--targets", "qkv"]) == 2
    assert main(["plan", "vlt"]) == 1


def test_targets_on_the_command_line(capsys):
    sizes = {}
    for words in (["qkv"], [r".*\.(qkv|fc1)"], ["all"], ["qkv,fc1"]):
        assert main(["info", "vit", "--lora", "2", "--targets", *words, "--json"]) == 0
        sizes[words[0]] = json.loads(capsys.readouterr().out)["footprint"]["trainable"]
    assert sizes["qkv"] < sizes[r".*\.(qkv|fc1)"] == sizes["qkv,fc1"] < sizes["all"]
    assert main(["tune", "vit", "--lora", "./saved", "--targets", "qkv"]) == 2
    assert "a new adapter's" in capsys.readouterr().err
    assert main(["tune", "vit", "--full", "--targets", "qkv"]) == 2
    assert main(["tune", "vit", "--targets", "qkv,"]) == 2


def test_a_loss_may_choose_by_the_masks_and_indices_of_a_batch():
    made = zoo.plan("bert", batch_size=2, length=16, lora=zoo.LoRA(2, targets=["query"]))
    assert made.shapes["labels"] == (2, 16)
    assert made.peak > made.activations > 0
