"""Every verb of every architecture on the strict accelerator: the CPU's figures, all on the device, and few waits."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "synchronisations.py"
# What an architecture's library makes the host wait for in one forward pass: transformers looks whether a mask hides
# anything, PyG for loops in the graph, and BERT's loss for the places that are to be predicted.
FORWARD = {"gpt": 1, "bert": 2, "gat": 2}
# In one step of sampling: what is drawn for a token and whether all texts have ended; BERT's round draws on the CPU.
SAMPLING = {"gpt": 2, "bert": 2, "ddpm": 0}
LOAD = {("bert", 4): 5}  # four weights that 4 bit cannot hold are stored in 8
BOUNDS = {"add an adapter": 1, "save the adapter": 2, "merge": 1, "unmerge": 0, "switch": 0, "load it back": 1}
# Two places of a tied weight are compared when a LoRA is read back. StyleGAN has persistent buffers, which belong to
# adapters and are compared and hashed one by one.
MORE = {("gpt", "load it back"): 2, ("bert", "load it back"): 2}
MORE |= {("stylegan", verb): 10 if verb in ("save the adapter", "load it back") else 3 for verb in BOUNDS}
# Sampling and training go on from their own results, so that differences of the order of sums grow.
TOLERANCES = {"loss": 1e-4, "sample": 2e-3, "evaluate": 1e-4, "devices": 0.0}
TRAINED = 1e-3


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("synchronisations", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module  # for its dataclasses
    spec.loader.exec_module(module)
    return module


def check(row: Any, off: dict[str, float]) -> None:
    name, counts = row.architecture, row.counts
    forward = FORWARD.get(name, 0)
    # BERT's loss alone looks for places; a forward pass of its sampling does not.
    assert counts["load"] <= LOAD.get((name, row.bits), 1), row.lines["load"]
    assert counts["loss"] <= forward, row.lines["loss"]
    assert counts.get("a step", 0) <= forward + 1, row.lines["tune"]
    assert counts.get("a step of sampling", 0) <= SAMPLING.get(name, 0), row.lines["sample"]
    for verb, most in BOUNDS.items():
        assert counts.get(verb, 0) <= most + MORE.get((name, verb), 0), (verb, row.lines[verb])
    for verb, far in off.items():
        assert far <= TOLERANCES.get(verb, TRAINED), (verb, far)


@pytest.mark.parametrize("name", ["vit", "gat"])
def test_one_combination(name: str) -> None:
    module = script()
    (row,) = module.measure(name, 4, ("LoRA",), evaluate=False)
    check(row, module.off(row))


@pytest.mark.slow
@pytest.mark.turns(3)
@pytest.mark.parametrize("name", ["bert", "ddpm", "gat", "gpt", "stylegan", "vae", "vit"])
def test_every_verb(name: str) -> None:
    module = script()
    rows = list(module.measure(name, 4))
    for row in rows:
        check(row, module.off(row))
    assert [row.adapter for row in rows] == ["none", "LoRA", "DoRA"]
    assert len(rows[1].counts) >= 10
