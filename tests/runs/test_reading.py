"""Run files: what may stand in them, what is said of what may not, and that everything `model.tune` takes is there."""

from __future__ import annotations

import inspect
import tomllib
from pathlib import Path
from typing import Any

import pytest

import zoo
from zoo.cli.tune import tune as command
from zoo.errors import TuningError
from zoo.runs import arguments
from zoo.runs.reading import checked, merged, read_run
from zoo.runs.schema import ModelSettings, TuneSettings
from zoo.runs.toml_text import written

FUNCTIONS = {
    "teacher",
    "teacher_share",
    "quantize",
    "on_step",
    "callbacks",
}  # which neither a file nor a shell can name
ELSEWHERE = {"self", "data", "columns", "out", "resume"}  # of a run file beside [tune]


def checked_whole(content: dict[str, Any]) -> Any:
    """All that is checked before a model is loaded."""
    found = checked(content, "run.toml")
    arguments.loading(found)
    arguments.adapters(found.model)
    arguments.source_of(found.data)
    arguments.tuning(found.tune)
    return found


def test_every_argument_of_tune_and_load_is_in_a_file_and_on_the_command_line() -> None:
    words = {parameter.name for parameter in command.params}
    tuning = set(inspect.signature(zoo.Model.tune).parameters) - FUNCTIONS
    assert tuning - ELSEWHERE == set(TuneSettings.model_fields)
    assert tuning - {"self"} <= words
    loading = set(inspect.signature(zoo.load).parameters)
    assert loading <= set(ModelSettings.model_fields)
    assert loading - {"calibrate"} <= words  # data of its own


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"tune": {"learning_rate": 1e-3}}, "tune.learning_rate is no key of a run file. Did you mean 'tune.lr'?"),
        ({"tune": {"stesp": 5}}, "tune.stesp is no key of a run file. Did you mean 'steps'?"),
        ({"steps": 5}, "steps is no key of a run file. Did you mean 'tune.steps'?"),
        ({"tune": {"bits": 4}}, "tune.bits is no key of a run file. Did you mean 'model.bits'?"),
        ({"modle": {}}, "modle is no key of a run file. Did you mean 'model'?"),
        ({"zzz": 1}, "zzz is no key of a run file. The keys of the file are seed, out"),
        ({"tune": {"steps": "5"}}, "tune.steps: expected a whole number, got '5'"),
        ({"tune": {"steps": 0}}, "tune.steps: expected greater than or equal to 1, got 0"),
        ({"tune": {"steps": True}}, "tune.steps: expected a whole number, got True"),
        ({"tune": {"lr": float("nan")}}, "tune.lr: expected "),
        ({"tune": {"steps": 5, "epochs": 1}}, "tune: expected one of steps, minutes and epochs, got steps and epochs"),
        ({"tune": {"schedule": "cosin"}}, "expected one of cosine, wsd. Did you mean 'cosine'? got 'cosin'"),
        ({"tune": {"precision": "fp8"}}, "tune.precision: expected one of no, bf16, fp16"),
        ({"tune": {"betas": [0.9]}}, "tune.betas: expected "),
        ({"tune": {"grad_clip": "nothing"}}, 'tune.grad_clip: expected a number above 0, or "none"'),
        ({"tune": {"trackers": "wandb"}}, "tune.trackers: expected a list, got 'wandb'"),
        (
            {"tune": {"eval_data": {"sorce": "a"}}},
            "tune.eval_data.sorce is no key of this table. Did you mean 'source'?",
        ),
        ({"data": {"hold_out": 1.0}}, "data.hold_out: expected less than 1, got 1.0"),
        ({"data": {"columns": ["a"]}}, "data.columns: expected a table, got ['a']"),
        ({"data": {"split": "tarin"}}, "data: expected one of the splits"),
        ({"data": {"python": "a Tensor [3, 4]"}}, "was given a Tensor [3, 4] in Python, which a file cannot name"),
        ({"model": {"name": "gat", "lora": 0}}, "model.lora: expected a rank of at least 1, got 0"),
        ({"model": {"name": "gat", "lora": {"rnak": 4}}}, "model.lora.rnak is no field of the kind 'lora'."),
        ({"model": {"name": "gat", "lora": {"kind": "lroa"}}}, "model.lora.kind: expected lora, full"),
        ({"model": {"name": "gat", "lora": {"rank": "4"}}}, "model.lora: rank: expected a whole number"),
        ({"model": {"name": "gat", "lora": 4, "full": True}}, "model: expected one of lora, adapters and full"),
        ({"model": {"name": "gat", "bits": 5}}, "model.bits: bits=5: expected 4, 8, 16 or 32"),
        ({"model": {"name": "gat", "quantization": {"scheme": "nf5"}}}, ""),
        ({"model": {"lora": 4}}, "model.name is missing"),
        ({"model": {"name": "gat", "task": "clasify"}}, "Did you mean 'classify'?"),
        ({"push": {"repo_id": "me/x"}}, "Did you mean 'push.repository'?"),
        ({"format": "zip"}, "format: expected 'peft', 'diffusers' or 'kohya', got 'zip'"),
    ],
)
def test_what_cannot_be_names_the_key_and_the_nearest_right_one(tables: dict[str, Any], said: str) -> None:
    if not said:  # a scheme may be a plugin's: `zoo.load` knows
        checked_whole({"model": "gat", **tables})
        return
    with pytest.raises(TuningError) as caught:
        checked_whole({"model": "gat", **tables})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_of_everything_is_read_as_it_was_meant(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("""
    seed = 3
    model = "gat"
    data = "letters:serif"
    [tune]
    epochs = 1.5
    betas = [0.5, 0.9]
    grad_clip = "none"
    eval_data = {source = "letters:mono", split = "test"}
    """)
    found = checked_whole(read_run(path))
    assert arguments.loading(found) == {"name": "gat", "seed": 3}
    assert arguments.source_of(found.data) == "letters:serif"
    told = arguments.tuning(found.tune)
    assert told.pop("eval_data") == zoo.Data("letters:mono", split="test")
    assert told == {"epochs": 1.5, "betas": (0.5, 0.9), "grad_clip": None}
    path.write_text("""
    [model]
    name = "gpt"
    keep = ["wte"]
    image_size = [32, 48]
    [model.quantization]
    bits = 4
    overrides = [["lm_head", 8]]
    [model.adapters]
    a = 4
    b = "runs/x/adapter"
    c = {kind = "ia3", targets = ["c_attn"], feedforward = []}
    """)
    found = checked_whole(read_run(path))
    loading = arguments.loading(found)
    assert loading["bits"] == zoo.Quantization(bits=4, overrides=(("lm_head", 8),))
    assert loading["image_size"] == (32, 48)
    several = arguments.adapters(found.model)
    assert (several["a"], several["b"], type(several["c"]).__name__) == (4, "runs/x/adapter", "IA3")


def test_what_is_said_beside_a_file_counts_instead(tmp_path: Path) -> None:
    content = {"model": "gat", "tune": {"steps": 5, "lr": 0.1}, "data": {"source": "a"}}
    over = {"out": "b", "model": {"bits": 4, "lora": None}, "tune": {"lr": None, "steps": 6}, "data": {"source": None}}
    assert merged(content, over) == {
        "model": {"name": "gat", "bits": 4},
        "tune": {"steps": 6, "lr": 0.1},
        "data": {"source": "a"},
        "out": "b",
    }


@pytest.mark.parametrize("text", ["a = ", "a = 1\na = 2", "[" * 5000, "a = 1" + "0" * 100_000, "\x00"])
def test_what_is_no_toml_is_one_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(text)
    with pytest.raises(TuningError, match=r"run\.toml"):
        read_run(tmp_path / "run.toml")
    with pytest.raises(TuningError, match="--dry-run"):
        read_run(tmp_path / "other.toml")


ODD = ["", " ", "a b", "a.b", '"', "\\", "\n\t\x00\x1f\x7f\x85\u2028", "ü😀", "#", "[a]", 3 * "'", "1979-05-27", "true"]


def test_toml_is_read_as_it_was_written() -> None:
    values = [*ODD, True, False, 0, -7, 2**63, 1.0, 1e-300, -1e300, 0.1, 1e16, [], [[1, "a"], [{"a b": 1.5, "c": {}}]]]
    content = {
        "values": {str(at): value for at, value in enumerate(values)},
        "keys": {key: {"inner": {key: {}}} for key in ODD},
        "none": {},
        **{key: at for at, key in enumerate(ODD)},
    }
    assert tomllib.loads(written(content)) == content
    assert tomllib.loads(written({"a": None, "b": {"c": None}})) == {}
    for bad in (float("nan"), float("inf"), object(), "\ud800"):
        with pytest.raises(ValueError):
            written({"a": bad})
