"""Runs of files: done again, interrupted, extended, refused, and what is left of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

import zoo
from zoo.bounded.toml_text import read_toml
from zoo.cli import main
from zoo.errors import TuningError, ZooError
from zoo.loading import run_files
from zoo.tuning import loop

TENSORS = "adapter_model.safetensors"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def content(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder, "adapter").iterdir()}


def left(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


RUN = """
seed = 3
out = "runs/first"
[model]
name = "gat"
bits = 4
device = "cpu"
lora = {rank = 4, alpha = 12, targets = "all", init = "orthogonal"}
[tune]
steps = 6
batch_size = 32
save_every = 2
eval_every = 3
betas = [0.8, 0.99]
grad_clip = "none"
quiet = true
"""


def test_a_run_is_interrupted_resumed_and_done_again_byte_for_byte(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    Path("run.toml").write_text(RUN)
    assert zoo.tune_file("run.toml").steps == 6
    whole = content("runs/first")
    advance, taken = loop.Run.advance, []

    def interrupted(self):
        taken.append(self.step)
        if len(taken) == 4:
            raise KeyboardInterrupt
        return advance(self)

    with monkeypatch.context() as patched:
        patched.setattr(loop.Run, "advance", interrupted)
        with pytest.raises(KeyboardInterrupt):
            zoo.tune_file("run.toml", out="runs/second")
    assert main(["tune", "runs/second/run.toml", "--resume"]) == 0
    assert main(["tune", "runs/second/run.toml", "--out", "runs/third"]) == 0
    assert content("runs/second") == whole
    assert content("runs/third") == whole
    for name in ("first", "second", "third"):
        assert {"report.html", "report.json", "run.toml"} <= {path.name for path in Path("runs", name).iterdir()}
    files = [
        re.sub("runs/(first|second|third)", "runs/x", Path(f"runs/{name}/run.toml").read_text())
        for name in ("first", "third")
    ]
    assert files[0] == files[1]
    with pytest.raises(TuningError, match="go on with it"):
        zoo.tune_file("runs/third/run.toml")


def test_the_file_in_the_folder_says_everything() -> None:
    Path("run.toml").write_text(RUN)
    zoo.tune_file("run.toml", settings={"tune": {"steps": 1, "report": False}})
    told = read_toml(Path("runs/first/run.toml"), error=ZooError)
    assert set(told["tune"]) >= {"steps", "batch_size", "lr", "seed", "warmup", "schedule", "weight_decay", "ema_decay"}
    assert told["tune"]["precision"] == "no"
    assert told["model"]["quantization"] == {
        "bits": 4,
        "scheme": "nf4",
        "block_size": 64,
        "double": True,
        "mixed": True,
    }
    lora = told["model"]["lora"]
    assert (lora["kind"], lora["alpha"], lora["init"], lora["dropout"]) == ("lora", 12, "orthogonal", 0.0)
    assert not Path("runs/first/report.html").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["--lora", "4", "--bits", "8", "--epochs", "0.1", "--data", "letters:serif"],
        ["--full", "--steps", "2", "--lr", "1e-4"],
        ["--full", "--minutes", "0.01"],
        ["--classes", "auto", "--data", "letters:mono", "--steps", "2", "--no-report", "--betas", ".5", ".9"],
    ],
    ids=" ".join,
)
def test_a_dry_run_prints_the_run_that_the_words_would_be(words: list[str], capsys) -> None:
    assert main(["tune", "gat", *words, "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert not Path("runs").exists()
    Path("run.toml").write_text(text)
    assert main(["tune", "run.toml", "--dry-run"]) == 0
    assert capsys.readouterr().out == text
    assert "zoo tune runs/gat/run.toml" in text


def test_a_dry_run_is_the_run(capsys) -> None:
    words = ["tune", "gat", "--bits", "4", "--steps", "2", "--batch-size", "32", "--device", "cpu"]
    assert main([*words, "--dry-run"]) == 0
    Path("run.toml").write_text(capsys.readouterr().out)
    assert main(words) == 0
    assert main(["tune", "run.toml", "--out", "again"]) == 0
    assert content("again") == content("runs/gat")


def test_a_finished_run_is_extended_and_that_is_done_again(capsys) -> None:
    Path("run.toml").write_text(RUN)
    zoo.tune_file("run.toml", settings={"tune": {"report": False}})
    assert main(["tune", "runs/first/run.toml", "--resume", "--steps", "9", "--no-quiet"]) == 0
    assert "going on from 6 to 9 steps" in capsys.readouterr().err
    assert main(["tune", "runs/first/run.toml", "--out", "again"]) == 0
    assert read_toml(Path("runs/first/run.toml"), error=ZooError)["tune"]["extended"] == [6]
    assert content("again") == content("runs/first")


def test_a_run_from_python_leaves_a_file_that_says_what_it_cannot(capsys) -> None:
    model = zoo.load("gat", lora=2, device="cpu", seed=1)
    model.tune(zoo.Data("letters:serif", seed=2), steps=1, batch_size=8, out="a", quiet=True, report=False)
    assert main(["tune", "a/run.toml", "--out", "b", "--quiet"]) == 0
    model.save_adapter("a/adapter")
    assert content("a")[TENSORS] == content("b")[TENSORS]
    assert "in Python" not in Path("a/run.toml").read_text()
    model.tune(steps=1, batch_size=8, out="c", quiet=True, report=False, on_step=print)
    said = Path("c/run.toml").read_text()
    assert "# The model was changed in Python after it was loaded" in said
    assert "# on_step was given in Python" in said


def test_data_that_a_file_cannot_name_are_asked_for() -> None:
    def lines() -> list[str]:
        return [f"Note {at} of the day, with words enough to read." for at in range(64)]

    model = zoo.load("gpt", lora=2, device="cpu", seed=1)
    options = {"steps": 1, "batch_size": 2, "out": "a", "quiet": True, "report": False}
    model.tune(lines(), **options)
    with pytest.raises(TuningError, match="was given list of 64 in Python, which a file cannot name"):
        zoo.tune_file("a/run.toml", out="b")
    zoo.tune_file("a/run.toml", out="b", data=lines())
    model.save_adapter("a/adapter")
    assert content("a")[TENSORS] == content("b")[TENSORS]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["gat", "--data", "missing.csv"], "missing.csv"),
        (["gat", "--lora", "missing/adapter"], "missing/adapter"),
        (["missing.toml"], "there is no run file missing.toml"),
        (["gat", "--lr", "5000"], "tune.lr"),
        (["gat", "--metric", "accuracy"], "metric are of evaluations"),
        (
            ["gat", "--eval-every", "1", "--metric", "acuracy", "--steps", "1"],
            "expected metric as one of accuracy, loss, ",
        ),
        (["gat", "--epochs", "1", "--data", "letters:serif:fresh"], ""),
        (["gat", "--tracker", "tensorbord"], "Did you mean 'tensorboard'"),
        (["gat", "--push", "me", "--full"], "[push] is of adapters"),
        (["gat", "--device", "cuda:77"], ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_nothing_is_left_of_a_run_that_does_not_begin(words: list[str], said: str, here: Path, capsys) -> None:
    assert main(["tune", *words, "--out", "runs/deep/x"]) != 0
    err = capsys.readouterr().err
    assert said in err
    assert [path for path in left(here) if "cache" not in path] == []


@pytest.mark.parametrize("where", ["load", "forward"])
def test_nothing_is_left_where_memory_does_not_suffice(where: str, here: Path, monkeypatch, capsys) -> None:
    def full(*args, **more):
        raise torch.OutOfMemoryError("out of memory")

    if where == "load":
        monkeypatch.setattr(run_files, "load", full)
    else:
        monkeypatch.setattr(zoo.Model, "loss", full)
    assert main(["tune", "gat", "--steps", "1", "--out", "runs/deep/x", "--no-report"]) == 1
    assert "out of memory" in capsys.readouterr().err
    assert left(here) == []
    Path("runs/deep/x").mkdir(parents=True)
    Path("runs/deep/x/mine.txt").write_text("mine")
    assert main(["tune", "gat", "--steps", "1", "--out", "runs/deep/x"]) == 1
    assert left(here) == ["runs", "runs/deep", "runs/deep/x", "runs/deep/x/mine.txt"]


def test_a_push_follows_the_run(monkeypatch) -> None:
    pushed = []
    monkeypatch.setattr(zoo.Model, "push", lambda self, *args, **more: pushed.append((args, more)))
    push = {"repository": "me/x", "private": True}
    zoo.tune_file(_written(RUN), settings={"push": push, "tune": {"steps": 1, "report": False}})
    assert pushed == [(("me/x",), {"private": True})]
    assert read_toml(Path("runs/first/run.toml"), error=ZooError)["push"] == push


def test_samples_and_figures_are_in_the_report(monkeypatch) -> None:
    evaluate, asked = zoo.Model.evaluate, []

    def noted(self, data=None, **more):
        asked.append(data)
        return evaluate(self, data, **more)

    monkeypatch.setattr(zoo.Model, "evaluate", noted)
    half = Path("runs/first/before/.zoo-0123456789ab")  # what a run that was killed while it wrote has left
    half.mkdir(parents=True)
    zoo.tune_file(_written(RUN), settings={"data": "letters:serif"})
    assert not half.exists()
    assert len(asked) == 3
    assert asked[0] == asked[1] == asked[2], "before the first step and on the way, on the same data"
    page, told = Path("runs/first/report.html").read_text(), json.loads(Path("runs/first/report.json").read_text())
    assert {"before", "evaluations", "losses", "rates", "bytes", "seconds", "versions", "trained"} <= set(told)
    assert len(told["losses"]) == len(told["rates"]) == 6
    assert page.count("data:image/png") == 16
    assert "held out: accuracy" in page
    accuracy, (low, high) = (told["evaluations"][-1][key]["accuracy"] for key in ("figures", "intervals"))
    assert low <= accuracy <= high
    assert f'<small title="95 % interval">{low:.4f}' in page
    assert "[model.quantization]" in page


def _written(text: str) -> str:
    Path("run.toml").write_text(text)
    return "run.toml"
