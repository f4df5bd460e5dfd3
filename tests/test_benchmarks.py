"""The benchmarks run: at a tiny size, without looking at any time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# Each runs one day in three: what they check is that the scripts run.
pytestmark = [pytest.mark.slow, pytest.mark.turns(3)]
FOLDER = Path(__file__).parents[1] / "benchmarks"


def run(script: str, *arguments: str) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(FOLDER / script), "--quick", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def figures(script: str, *arguments: str) -> Any:
    return json.loads(run(script, *arguments, "--json"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="RssAnon is Linux's")
def test_load() -> None:
    found = figures("load.py", "--bits", "4")
    (load,) = found["loads"]
    assert load["bits"] == 4
    assert load["model_bytes"] < 0.2 * found["checkpoint_bytes"]
    assert load["cpu_seconds"] > 0
    assert load["read_seconds"] > 0
    assert found["shards"] > 1


def test_step() -> None:
    found = figures("step.py", "--device", "cpu", "--models", "bert", "unet", "gat", "rows-16")["figures"]
    for model, dtypes in found.items():
        assert dtypes["title"], model
        for dtype in ("float32", "bfloat16"):
            rows = dtypes[dtype]
            peers = [name for name in rows if name.startswith("PEFT LoRA")]
            for name in ("frozen floor", "zoo LoRA", "zoo 4-bit LoRA", "zoo 8-bit LoRA", *peers):
                assert rows[name]["step"]["seconds"] > 0, name
                assert rows[name]["forward"]["low"] <= rows[name]["forward"]["high"], name
                assert rows[name]["kept_bytes"] > 0, name
            assert "LyCORIS LoRA" in rows, "a peer that is missing is named"
    assert found["unet"]["float32"]["PEFT 4-bit LoRA"] == "bitsandbytes has no 4-bit Conv2d"
    assert found["bert"]["bfloat16"]["PEFT 4-bit LoRA"]["step"]["ratio"] > 0


def test_bench_keeps_results_and_writes_the_page(tmp_path: Path) -> None:
    results, page = tmp_path / "results", tmp_path / "page.md"
    where = ("--results", str(results), "--page", str(page))
    told = run("bench.py", "--only", "step-rows-1-float32", "small-layers", *where)
    assert "step-rows-1-float32: done" in told
    assert "small-layers: done" in told
    text = page.read_text()
    assert "| zoo 4-bit LoRA | " in text
    assert "PEFT deactivated" in text
    assert "tiny sizes: no figures" in text
    assert "`step-bert-bfloat16`" in text.split("## Not measured")[1]
    kept = {path.name: path.read_bytes() for path in results.iterdir()}
    told = run("bench.py", "--only", "step-rows-1-float32", "--budget", "0", *where)
    assert "no time left" in told
    assert {path.name: path.read_bytes() for path in results.iterdir()} == kept
    assert page.read_text() == text


def test_small_layers() -> None:
    table = run("small_layers.py")
    for name in ("plain, frozen", "zoo LoRA", "zoo deactivated", "zoo merged", "PEFT LoRA"):
        assert name in table


def test_rows() -> None:
    rows = figures("rows.py", "--batch", "8", "--adapters", "3")["figures"]
    assert {"base", "one run", "model(adapters=)", "run per adapter"} < rows.keys()
    assert all(row["milliseconds"] > 0 for row in rows.values())


def test_decoding() -> None:
    for rows in figures("decoding.py")["figures"].values():
        assert rows["float32"]["error"] == 0
        assert rows["8 bit"]["error"] < 0.05
        assert all(row["milliseconds"] > 0 for row in rows.values())
        assert "bitsandbytes, layers" in rows


def test_serving() -> None:
    found = figures("serving.py")
    assert found["equal"] == found["requests"]
    assert found["lost"] == 0
    assert found["ways"]["zoo, together"]["p99"] > 0
    assert len(found["rss after each round"]) == 2
    assert found["one adapter after the other"]["evictions"] == 2


def test_serving_http() -> None:
    found = figures("serving_http.py")
    assert found["equal"] == [found["requests"]] * 2
    assert found["lost"] == 0
    assert set(found["one adapter after the other"]["rss"]) == {"4"}


def test_first_token() -> None:
    found = figures("first_token.py")
    assert all(one["longest gap"] > 0 for one in found["beside"].values())
    assert found["all begun"].keys() == {"one request", "equal requests", "different requests"}


def test_experts() -> None:
    found = figures("experts.py")["figures"]["64"]
    for name in ("plain, frozen", "zoo LoRA", "zoo 8-bit", "zoo 4-bit", "zoo 4-bit LoRA"):
        assert found[name]["forward, no grad"]["seconds"] > 0, name


def test_quality() -> None:
    (found,) = figures("quality.py", "vit", "--figure", "loss")
    assert found["data"] == "letters:serif"
    for way in ("full", "LoRA", "4-bit LoRA"):
        assert found[way]["loss"] != found["before"], way
        assert len(found[way]["runs"]) == 1
    assert found["full"]["loss"] < found["before"]


def test_adapters() -> None:
    found = figures("adapters.py")["figures"]
    for group, name in (("handling", "swap in place"), ("kinds", "DoRA"), ("mixed", "zoo, mixed")):
        assert found[group][name]["ratio"] > 0


def test_averages() -> None:
    (found,) = figures("averages.py")
    assert found["name"] == "gat"
    for way in ("auto", "measured"):
        assert found["uniform"]["bits"] < found[way]["bits"] <= 4.5
        assert found[way]["loss"] > 0


def test_recipe() -> None:
    table = run("recipe.py", "gat", "--ways", "plain,lora+16")
    for way in ("full", "matched", "plain", "lora+16", "shared", "twice"):
        assert f"gat {way}: " in table


PEERS_TESTS = """
import pytest
from peft import LoraConfig, LoHaConfig, VeraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn


@pytest.mark.parametrize("config", [LoraConfig(target_modules=["0"]), LoHaConfig(target_modules=["0"])])
def test_layers(config):
    model = get_peft_model(nn.Sequential(nn.Linear(4, 3)), config, adapter_name="mine")
    (layer,) = (one for one in model.modules() if isinstance(one, BaseTunerLayer))
    assert layer.active_adapters == ["mine"]
    with pytest.raises(ValueError, match="Adapter with name 'mine' already exists"):
        model.add_adapter("mine", config)
    with pytest.raises(KeyError, match="other words"):
        raise KeyError("some words, which the peer's test does not expect: this is a difference")


def test_refused():
    get_peft_model(nn.Sequential(nn.Linear(4, 3)), LoraConfig(target_modules=["0"], lora_bias=True))


def test_not_zoos():
    get_peft_model(nn.Sequential(nn.Linear(4, 3)), VeraConfig(target_modules=["0"]))
"""


def test_a_peers_suite_is_run_and_classified(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    (tmp_path / "test_custom_models.py").write_text(PEERS_TESTS)
    command = [sys.executable, str(FOLDER / "peft_suite" / "run.py"), str(tmp_path), "--parts", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    found = {one["test"].split("::")[1]: one for one in json.loads(done.stdout)}
    outcomes = {name: (one["method"], one["outcome"]) for name, one in found.items()}
    assert outcomes == {
        "test_layers[config0]": ("LoRA", "differs"),
        "test_layers[config1]": ("LoHa", "differs"),
        "test_refused": ("LoRA", "refuses"),
        "test_not_zoos": ("other", "other"),
    }
    assert "other words" in found["test_layers[config0]"]["why"], (
        "one of zoo's errors is as good as PEFT's, no other is"
    )
    assert found["test_refused"]["reason"].startswith("variants of LoRA")
    assert done.returncode == 1, "a difference without a reason fails"
    assert "no reason known" in done.stderr
