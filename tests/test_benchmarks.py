"""The benchmarks run: at a tiny size, without looking at any time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


def run(script: str, *arguments: str) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(FOLDER / script), "--quick", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def figures(script: str, *arguments: str) -> Any:
    return json.loads(run(script, *arguments, "--json"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="RssAnon is Linux's")
def test_load() -> None:
    found = figures("load.py", "--bits", "4")
    (load,) = found["loads"]
    assert load["bits"] == 4
    assert load["model_bytes"] < 0.2 * found["checkpoint_bytes"]
    assert load["cpu_seconds"] > 0
    assert load["read_seconds"] > 0
    assert found["shards"] > 1


@pytest.mark.slow
def test_step() -> None:
    found = figures("step.py", "--device", "cpu")["figures"]
    for name in ("frozen floor", "zoo LoRA", "zoo 4-bit LoRA", "PEFT LoRA"):
        for model in ("bert", "unet"):
            assert found[model][name]["step"]["seconds"] > 0, name
            assert found[model][name]["kept_bytes"] > 0, name
    assert found["unet"]["PEFT 4-bit LoRA"] == "bitsandbytes has no 4-bit convolution"


def test_small_layers() -> None:
    table = run("small_layers.py")
    for name in ("plain, frozen", "zoo LoRA", "zoo deactivated", "zoo merged", "PEFT LoRA"):
        assert name in table


@pytest.mark.slow
def test_experts() -> None:
    found = figures("experts.py")["figures"]["64"]
    for name in ("plain, frozen", "zoo LoRA", "zoo 8-bit", "zoo 4-bit", "zoo 4-bit LoRA"):
        assert found[name]["forward, no grad"]["seconds"] > 0, name


@pytest.mark.slow
def test_quality() -> None:
    (found,) = figures("quality.py", "vit", "--figure", "loss")
    assert found["data"] == "letters:serif"
    for way in ("full", "LoRA", "4-bit LoRA"):
        assert found[way]["loss"] != found["before"], way
        assert len(found[way]["runs"]) == 1
    assert found["full"]["loss"] < found["before"]


@pytest.mark.slow
def test_adapters() -> None:
    found = figures("adapters.py")["figures"]
    for group, name in (("handling", "swap in place"), ("kinds", "DoRA"), ("mixed", "zoo, mixed")):
        assert found[group][name]["ratio"] > 0


@pytest.mark.slow
def test_averages() -> None:
    (found,) = figures("averages.py")
    assert found["name"] == "gat"
    for way in ("auto", "measured"):
        assert found["uniform"]["bits"] < found[way]["bits"] <= 4.5
        assert found[way]["loss"] > 0
