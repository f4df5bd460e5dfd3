"""The commands that sample, tune and evaluate, on a model that records its calls."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
import torch

import zoo
from zoo.cli import main
from zoo.errors import DataError
from zoo.loading import run_files
from zoo.metrics import Figures, Scores
from zoo.tuning.interrupts import Terminated
from zoo.tuning.result import TuneResult


class Fake:
    device = torch.device("cpu")

    def __init__(self, kind: str = "text") -> None:
        self.kind, self.calls, self.error, self.loaded, self.device = kind, [], None, None, torch.device("cpu")

    def sample(self, n, *, seed=None, **options):
        self.calls.append(("sample", n, seed, options))
        if self.kind == "text":
            return zoo.Samples([f"text {index}" for index in range(n)], "text")
        return zoo.Samples(torch.rand(n, 1, 8, 8), "image")

    def tune(self, data, **more):
        self.calls.append(("tune", data, more))
        if self.error is not None:
            more["out"].mkdir(parents=True)
            (more["out"] / "checkpoint").mkdir()
            raise self.error
        return TuneResult(losses=(2.0, 1.0), steps=2, seconds=1.0, batch_size=4, lr=1e-3, seed=0, trainable=9)

    def evaluate(self, data, **more):
        self.calls.append(("evaluate", data, *more.items()))
        return Figures({"perplexity": 12.5, "accuracy": 0.25})

    def save_adapter(self, folder, **more):
        self.calls.append(("save_adapter", folder, *more.values()))

    def save(self, folder):
        self.calls.append(("save", folder))


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Make `zoo.load` return a `Fake`; `.given` are the arguments of the call."""
    made = Fake()

    def load(name, **options):
        made.given = (name, {key: value for key, value in options.items() if value not in (None, ())})
        return made

    monkeypatch.setattr(zoo, "load", load)
    monkeypatch.setattr(run_files, "load", load)
    monkeypatch.chdir(tmp_path)
    return made


def test_sample_prints_text_and_passes_every_option(fake, capsys):
    words = ["sample", "gpt", "-n", "2", "--seed", "3", "--bits", "4", "--lora", "runs/a", "--device", "cpu"]
    assert main([*words, "-o", "top-k=5", "-o", "prompt=The list", "-o", "greedy=true", "-o", "x=[1, 2]"]) == 0
    out, err = capsys.readouterr()
    assert "text 0" in out
    assert "text 1" in out
    assert err == ""
    assert fake.given == ("gpt", {"bits": 4, "lora": "runs/a", "device": "cpu"})
    options = {"top_k": 5, "prompt": "The list", "greedy": True, "x": [1, 2]}
    assert fake.calls == [("sample", 2, 3, options)]


def test_sample_writes_images_to_a_png_and_prints_its_name(fake, capsys, tmp_path):
    fake.kind = "image"
    assert main(["sample", "ddpm"]) == 0
    assert capsys.readouterr().out == "ddpm.png\n"
    assert (tmp_path / "ddpm.png").read_bytes().startswith(b"\x89PNG")
    assert main(["sample", "ddpm", "--json", "--out", "a.png"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "name": "ddpm",
        "n": 1,
        "seed": None,
        "kind": "image",
        "out": "a.png",
        "captions": None,
    }


def test_sample_json_holds_the_texts(fake, capsys):
    assert main(["sample", "gpt", "-n", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == ["text 0", "text 1"]


def test_tune_trains_an_adapter_and_saves_it_in_the_runs_folder(fake, capsys):
    assert main(["tune", "ddpm", "--data", "letters:serif", "--bits", "4", "--steps", "20", "--lr", "1e-3"]) == 0
    out, err = capsys.readouterr()
    folder = Path("runs/ddpm")
    assert fake.given == ("ddpm", {"bits": 4, "lora": 8, "seed": 0})
    expected = {"steps": 20, "lr": 1e-3, "out": folder, "resume": False, "seed": 0}
    assert fake.calls == [("tune", "letters:serif", expected), ("save_adapter", folder / "adapter")]
    assert out == "runs/ddpm/adapter\n"
    assert "zoo sample ddpm --bits 4 --lora runs/ddpm/adapter" in err


def test_tune_writes_the_adapter_for_another_tool(fake):
    assert main(["tune", "ddpm", "--steps", "2", "--format", "kohya"]) == 0
    assert fake.calls[-1] == ("save_adapter", Path("runs/ddpm/adapter"), "kohya")


def test_tune_full_saves_the_model(fake, capsys):
    assert main(["tune", "ddpm", "--full", "--out", "my run", "--json"]) == 0
    assert fake.given == ("ddpm", {"seed": 0})
    assert fake.calls[-1] == ("save", Path("my run/model"))
    facts = json.loads(capsys.readouterr().out)
    assert facts["saved"] == "my run/model"
    assert facts["losses"] == [2.0, 1.0]


def test_evaluate_prints_figures_with_the_main_one_first(fake, capsys):
    assert main(["evaluate", "gpt", "--data", "text:licences"]) == 0
    assert capsys.readouterr().out == "perplexity  12.5\naccuracy    0.25\n"
    assert fake.calls == [("evaluate", "text:licences")]
    assert main(["evaluate", "gpt", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["figures"] == {"perplexity": 12.5, "accuracy": 0.25}


def test_ctrl_c_says_how_to_resume(fake, capsys):
    fake.error = KeyboardInterrupt()
    assert main(["tune", "ddpm", "--out", "my run", "--steps", "5"]) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert err.strip() == (
        "interrupted: to go on from the last checkpoint, type zoo tune ddpm --out 'my run' --steps 5 --resume"
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_says_how_to_resume_too(fake, capsys, number, code):
    fake.error = Terminated(number)
    assert main(["tune", "ddpm", "--steps", "5"]) == code
    assert capsys.readouterr().err.strip().endswith("type zoo tune ddpm --steps 5 --resume")


def test_tune_says_how_often_to_save_and_how_many_stay(fake, capsys):
    words = ["--save-every", "5", "--keep", "3", "--keep", "lm_head", "--keep", "h.2"]
    assert main(["tune", "gpt", "--bits", "4", *words]) == 0
    assert fake.given[1]["keep"] == ["lm_head", "h.2"]
    assert {"save_every": 5, "keep": 3}.items() <= fake.calls[0][2].items()
    for wrong in (["--keep", "0"], ["--keep", "2", "--keep", "3"], ["--save-every", "0"]):
        assert main(["tune", "gpt", *wrong]) == 2
    assert "expected one number of checkpoints, at least 1" in capsys.readouterr().err


def test_ctrl_c_elsewhere_just_ends(fake, monkeypatch, capsys):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(fake, "evaluate", stop)
    assert main(["evaluate", "gpt"]) == 130
    assert capsys.readouterr().err.strip() == "interrupted"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DataError("expected a folder,\nfound a file"), "error: expected a folder, found a file\n"),
        (FileNotFoundError(2, "No such file", "x.txt"), "error: [Errno 2] No such file: 'x.txt'\n"),
        (RuntimeError("odd"), "error: RuntimeError: odd (not a mistake of yours: ZOO_STRICT=1 shows where)\n"),
    ],
)
def test_what_a_verb_raises_is_one_line(fake, monkeypatch, capsys, error, message):
    def fail(*args):
        raise error

    monkeypatch.setattr(fake, "evaluate", fail)
    assert main(["evaluate", "gpt"]) == 1
    assert capsys.readouterr() == ("", message)
    monkeypatch.setenv("ZOO_STRICT", "1")
    with pytest.raises(type(error)):
        main(["evaluate", "gpt"])


def test_evaluate_has_intervals_and_takes_more_metrics(fake, capsys, monkeypatch):
    def evaluate(data, **more):
        fake.calls.append((data, more))
        scores = Scores("texts")
        scores.mean("loss", [1.0, 2.0, 3.0, 4.0])
        return scores.figures()

    monkeypatch.setattr(fake, "evaluate", evaluate)
    assert main(["evaluate", "gpt", "--metric", "bleu", "--judge", "pixels", "--samples", "3"]) == 0
    assert re.fullmatch(r"loss  2\.5\d* \[\d\.\d+, \d\.\d+\], n=4\n", capsys.readouterr().out)
    assert fake.calls == [(None, {"metrics": ("bleu",), "judge": "pixels", "samples": 3})]
    assert main(["evaluate", "gpt", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    low, high = told["intervals"]["loss"]
    assert 1 <= low < told["figures"]["loss"] < high <= 4
    assert (told["samples"], told["unit"], told["level"], told["resamples"]) == (4, "texts", 0.95, {"loss": 1000})


@pytest.mark.parametrize(
    ("other", "loaded"),
    [
        ("bits=32", ("gpt", {"bits": 32, "lora": "runs/a"})),
        ("bits=auto:5,lora=none", ("gpt", {"bits": "auto:5"})),
        ("bert", ("bert", {"bits": 4})),
        ("./mine,bits=8,lora=runs/b", ("./mine", {"bits": 8, "lora": "runs/b"})),
    ],
)
def test_evaluate_against_another_model_is_in_pairs(fake, capsys, monkeypatch, other, loaded):
    values = iter([[1.0, 2.0, 3.0, 4.0], [1.5, 2.5, 3.5, 3.0]] * 2)

    def evaluate(data, **more):
        scores = Scores("texts")
        scores.mean("loss", next(values))
        return scores.figures()

    monkeypatch.setattr(fake, "evaluate", evaluate)
    words = ["evaluate", "gpt", "--bits", "4", "--lora", "runs/a", "--against", other]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert fake.given == loaded
    assert "3 wins, 1 losses, 0 ties: no clear difference" in out
    assert f"gpt minus {other}, on the same 4 texts" in err
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["differences"]["loss"]["value"] == pytest.approx(-0.125)
    assert (told["samples"], told["against"]["name"]) == (4, other)


@pytest.mark.parametrize("other", ["bit=4", "a,b", ",", "bits="])
def test_evaluate_against_nothing_that_there_is(fake, capsys, other):
    assert main(["evaluate", "gpt", "--against", other]) == 2
    assert "--against" in capsys.readouterr().err
    assert fake.calls == []
