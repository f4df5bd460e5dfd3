"""`benchmarks/gpu.py`: its budget, what it keeps, its page; and that its parts run, at a tiny size on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return import_module("on_gpu.record")


def part(*rows: dict[str, Any] | Exception) -> Any:
    def made(setup: Any) -> Iterator[dict[str, Any]]:
        for row in rows:
            if isinstance(row, Exception):
                raise row
            yield row

    return SimpleNamespace(title="Title", note="Note.", rows=made)


def test_what_ran_is_kept_and_a_failing_part_stops_no_other(record: Any, tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    run = record.Record("cpu", True, 100.0, path)
    run.run("first", part({"size": 1}, RuntimeError("out of memory")), 0.5)
    kept = json.loads(path.read_text())["parts"]["first"]
    assert kept["rows"] == [{"size": 1}]
    assert kept["ended"] == "failed: RuntimeError: out of memory"
    run.run("second", part({"size": 2, "ms": 0.123456}), 1.0)
    assert json.loads(path.read_text())["parts"]["second"]["ended"] == "done"
    assert run.failures() == 1
    page = import_module("on_gpu.page").page(path.read_text())
    assert "| size | ms |\n|---|---|\n| 2 | 0.123 |" in page
    assert "did not come to its end: failed: RuntimeError: out of memory." in page
    assert "measures nothing" in page


def test_the_budget_ends_a_part_and_the_run(record: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(record, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def slow(setup: Any) -> Iterator[dict[str, Any]]:
        for number in range(100):
            now[0] += 10
            yield {"number": number}

    run = record.Record("cpu", True, 60.0, None)
    takes_long = SimpleNamespace(title="", note="", rows=slow)
    run.run("first", takes_long, 0.5)  # of 60 s: stops after the row in which 30 have passed
    run.run("second", takes_long, 1.0)  # has the other 20
    run.run("third", takes_long, 1.0)
    found = run.found["parts"]
    assert [(len(one["rows"]), one["ended"]) for one in found.values()] == [
        (4, "its time ended"),
        (3, "its time ended"),
        (0, "no time was left for it"),
    ]
    assert run.failures() == 0


def test_the_page_says_that_none_was_made_or_on_which_card(record: Any) -> None:
    text = (FOLDER / "gpu.md").read_text()
    page = import_module("on_gpu.page")
    assert text == page.NONE or ("- torch: " in text and page.HOW in text)
    parts = import_module("on_gpu.parts").PARTS
    assert all((FOLDER / "on_gpu" / f"{one.module}.py").exists() for one in parts.values())


def quick(path: Path, *arguments: str, **environment: str) -> dict[str, Any]:
    command = [sys.executable, str(FOLDER / "gpu.py"), "--device", "cpu", "--quick", "--budget", "20m"]
    done = subprocess.run(
        [*command, "--json", str(path), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=290,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return {name: one["rows"] for name, one in json.loads(path.read_text())["parts"].items()}


@pytest.mark.slow
@pytest.mark.turns(3)
def test_the_parts_of_models_run(tmp_path: Path) -> None:
    found = quick(tmp_path / "gpu.json", "--only", "right", "steps", "decoding", "graphs", "qlora")
    assert found["right"][0]["loss error"] < 0.1
    assert found["right"][0]["gradient off"] < 0.01
    assert {row["variant"] for row in found["steps"]} >= {"frozen floor", "zoo 4-bit LoRA", "PEFT 4-bit LoRA"}
    assert all(row["step ms"] > 0 for row in found["steps"])
    assert {"bf16", "zoo 4-bit", "bitsandbytes 4-bit"} <= {row["variant"] for row in found["decoding"]}
    assert found["qlora"][1]["tokens/s"] > 0


@pytest.mark.slow
@pytest.mark.turns(3)
def test_the_parts_of_kernels_run(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    found = quick(tmp_path / "gpu.json", "--only", "kernels-right", "kernels", TRITON_INTERPRET="1")
    assert {row["kernel"] for row in found["kernels-right"]} == {
        "nf4 product",
        "fp4 product",
        "int8 product",
        "nf4 unpack",
    }
    # The interpreter cuts bfloat16 off where a card rounds it.
    assert all(row["error"] < 3 * row["torch"] + 1e-3 for row in found["kernels-right"])
    assert all(row["fused"] > 0 for row in found["kernels"])
