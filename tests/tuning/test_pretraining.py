"""Training from random weights: the registry's settings, the plugins' own parts, and what is written."""

from __future__ import annotations

import math
import subprocess

import pytest
import torch

import zoo
from zoo.cli import main
from zoo.tuning import loop
from zoo.tuning.result import TuneResult

LINES = [f"The name of file {index} is not the value of text {index}, it returns None." for index in range(200)]
SMALL = {"bert": LINES, "gpt": LINES}  # all documentation takes half a minute to read


@pytest.mark.parametrize("name", ["bert", "ddpm", "gat", "gpt", "stylegan", "vae", "vit"])
def test_it_learns_and_what_it_writes_is_loaded(name, tmp_path):
    model = zoo.load(name, weights="random", seed=4, device="cpu")
    size = {"gat": 52, "bert": 2, "gpt": 2}.get(name, 4)
    result = model.tune(SMALL.get(name), steps=3, batch_size=size, quiet=True)
    assert result.lr == model.entry.pretrain["lr"]
    assert all(map(math.isfinite, result.losses))
    folder = model.save(tmp_path / "new", digests=True)
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    again = zoo.load(f"{folder}/", device="cpu")
    assert again.entry.plugin == name
    one, other = model.state_dict(), again.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key].float(), other[key].float()) for key in one)
    assert len(again.sample(1, seed=0)) == 1


def test_the_registrys_settings_are_used_for_random_weights_alone(monkeypatch):
    seen = []

    def tune(model, data=None, **options):
        seen.append({"data": data, **options})
        return TuneResult((1.0,), 1, 1.0, 1, 1.0, 0, 1)

    monkeypatch.setattr(loop, "tune", tune)
    random = zoo.load("stylegan", weights="random", seed=0, device="cpu")
    random.tune()
    first = seen.pop()
    assert (first["data"], first["minutes"], first["steps"]) == ("letters:sans:fresh", 42, None)
    assert (first["lr"], first["schedule"], first["ema_decay"], first["grad_clip"]) == (2e-3, "wsd", 0.998, None)
    assert first["betas"] == (0.0, 0.99)  # the plugin's own hook
    random.tune("letters:serif", steps=5, lr=1e-4, grad_clip=2.0)
    second = seen.pop()
    assert (second["data"], second["minutes"], second["steps"]) == ("letters:serif", None, 5)
    assert (second["lr"], second["grad_clip"], second["schedule"]) == (1e-4, 2.0, "wsd")
    zoo.load("stylegan", device="cpu").tune(steps=5)
    third = seen.pop()
    assert third["data"] is None
    assert not {"lr", "schedule", "grad_clip"} & set(third)
    assert third["ema_decay"] == 0.98


def test_a_graph_of_letters_is_drawn_anew_every_four_batches():
    model = zoo.load("gat", weights="random", seed=0, device="cpu")
    batches = iter(model.batches("letters:sans:fresh", batch_size=52, seed=1))
    drawn = [next(batches) for _ in range(9)]
    assert all(len(batch["seeds"]) == 52 for batch in drawn)
    groups = [batch["x"].sum().item() for batch in drawn]
    assert groups[0] == groups[3] != groups[4] == groups[7] != groups[8]


def test_a_reader_of_letters_sees_disturbed_ones():
    model = zoo.load("vit", device="cpu")
    plain = next(iter(model.batches("letters:sans", batch_size=26)))["images"]
    disturbed = next(iter(model.batches("letters:sans:fresh", batch_size=26)))
    again = next(iter(model.batches("letters:sans:fresh", batch_size=26)))
    assert disturbed["images"].shape == plain.shape
    assert torch.equal(disturbed["images"], again["images"])
    assert ((disturbed["images"] == plain.min()).float().mean() < (plain == plain.min()).float().mean()).item()


def test_more_is_masked_while_a_language_model_begins():
    random, trained = zoo.load("bert", weights="random", seed=0, device="cpu"), zoo.load("bert", device="cpu")
    shares = []
    for model in (random, trained):
        batches = iter(model.batches(LINES, batch_size=8))
        rows = torch.cat([(next(batches)["labels"] != -100).float().mean(1) for _ in range(10)])
        shares.append((rows.mean().item(), rows.max().item()))
    assert shares[0][0] > 1.4 * shares[1][0]
    assert shares[0][1] > 0.5 > shares[1][1]


def test_heads_of_a_new_bert_look_at_their_neighbours():
    module = zoo.load("bert", weights="random", seed=0, device="cpu").module
    module.set_attn_implementation("eager")
    ids = torch.randint(5, 2560, (4, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        attention = module(input_ids=ids, output_attentions=True).attentions[0]  # [b, heads, t, t]
    for head, offset in enumerate((-1, 1, -2, 2, -3, 3)):
        middle = attention[:, head, 6:26]  # [b, 20, t]
        looked_at = middle.argmax(-1) - torch.arange(6, 26)
        assert (looked_at == offset).float().mean() > 0.5, head  # by chance 1 in 32


def test_the_average_style_follows_the_mapping_network():
    model = zoo.load("stylegan", weights="random", seed=0, device="cpu")
    average = model.module.generator.mapping.w_avg
    assert not average.any()
    model.loss(next(iter(model.batches(batch_size=4))))
    assert average.any()
    trained = zoo.load("stylegan", device="cpu")
    before = trained.module.generator.mapping.w_avg.clone()
    trained.loss(next(iter(trained.batches(batch_size=4))))
    assert torch.equal(before, trained.module.generator.mapping.w_avg)


def test_the_command_trains_writes_and_measures(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["tune", "gat", "--full", "--batch-size", "260", "--device", "cpu"]
    assert main([*words, "--minutes", "0.02", "--out", "mine"]) == 0
    out, err = capsys.readouterr()
    assert out == "mine\n"
    assert "starting from random weights (--weights embedded" in err
    assert "held out: accuracy 0." in err
    assert "try it: zoo sample ./mine" in err
    assert {"SHA256SUMS", "config.json", "model.pth", "tuning.json"} < {
        path.name for path in (tmp_path / "mine").iterdir()
    }
    assert main(["evaluate", "./mine"]) == 0
    assert main([*words, "--minutes", "0.02", "--out", "mine", "--resume", "--json"]) == 0  # it is done already
