"""The Triton kernels in the interpreter and on a card, in processes of their own; compiled; which path is in force."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import zoo
from zoo.weights.triton import paths, sizes
from zoo.weights.triton.paths import enabled, kernel_path, torch_only

HERE = Path(__file__).parent
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


def run(name: str, *options: str, **environment: str) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", *options, HERE / name]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=280, env=os.environ | environment, cwd=HERE.parents[2]
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout.splitlines()[-1]


def passed(summary: str) -> int:
    found = re.search(r"(\d+) passed", summary)
    assert found, summary
    assert "skipped" not in summary
    return int(found[1])


@needs_triton
@pytest.mark.slow
def test_kernels_in_the_interpreter() -> None:
    assert passed(run("interpreted.py", TRITON_INTERPRET="1")) >= 55


@needs_triton
def test_some_kernels_in_the_interpreter() -> None:
    assert passed(run("interpreted.py", "-m", "not slow", TRITON_INTERPRET="1")) >= 20


@needs_triton
@pytest.mark.slow
def test_layers_in_the_interpreter() -> None:
    assert passed(run("interpreted_models.py", TRITON_INTERPRET="1")) >= 9


@needs_triton
@pytest.mark.gpu
@pytest.mark.parametrize("name", ["interpreted.py", "interpreted_models.py"])
def test_kernels_on_a_card(name: str) -> None:
    assert passed(run(name, TRITON_INTERPRET="0")) >= 9


@needs_triton
@pytest.mark.slow
def test_kernels_compile_for_a_card() -> None:
    """Down to machine code of an H100, by the compiler that triton carries; no card is needed."""
    assert passed(run("compiled.py", TRITON_INTERPRET="0")) >= 8


@pytest.fixture
def undecided(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(paths, "_reasons", {})
    return


@pytest.mark.usefixtures("undecided")
def test_a_cpu_has_torchs_path_and_says_so() -> None:
    assert not enabled(torch.device("cpu"))
    assert kernel_path("cpu").name == "torch"
    assert "for CUDA" in str(kernel_path("cpu"))


@pytest.mark.usefixtures("undecided")
def test_a_card_without_triton_is_no_secret(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(paths.importlib.util, "find_spec", lambda name: None)
    with caplog.at_level(logging.WARNING, logger="zoo"):
        for _ in range(2):
            assert not enabled(torch.device("cuda"))
    assert kernel_path() == ("torch", "triton is not installed")
    assert [record.message for record in caplog.records] == [
        "packed weights use torch's kernels on CUDA, not the fused ones: triton is not installed"
    ]


@pytest.mark.usefixtures("undecided")
def test_an_old_card_and_a_broken_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(paths.importlib.util, "find_spec", lambda name: object())
    assert "(7, 5), expected (8, 0)" in kernel_path("cuda").reason
    paths._reasons.clear()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setitem(sys.modules, "zoo.weights.triton.ops", None)
    assert kernel_path("cuda").reason.startswith("triton cannot be used: ModuleNotFoundError")


def test_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "_reasons", {"cuda": ""})
    device = torch.device("cuda")
    assert enabled(device)
    with torch_only():
        assert not enabled(device)
        assert "ZOO_TRITON=0" in kernel_path("cuda").reason
    assert enabled(device)


def test_work_on_a_cpu_imports_no_triton_kernels() -> None:
    code = (
        "import sys, torch, zoo; model = zoo.wrap(torch.nn.Linear(64, 64), bits=4, lora=2);"
        "model(torch.randn(2, 64)).sum().backward();"
        "print(zoo.kernel_path('cpu').name, 'zoo.weights.triton.ops' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["torch", "False"], done.stdout + done.stderr
    assert zoo.kernel_path is kernel_path


def test_the_way_follows_the_sizes() -> None:
    assert [sizes.way(m, 4096, 4096) for m in (1, 2, 3, 128, 129)] == ["rows", "rows", "tiles", "tiles", "unpack"]
    assert sizes.way(1, 64, 64) == "unpack"
    for m in (1, 16, 17, 100, 5000):
        for outputs in (1, 64, 65, 4096, 50257):
            part = sizes.splits(m, 16, outputs, 64)
            assert part % 64 == 0
            assert part * -(-outputs // part) >= outputs
    for half in (16, 32, 49, 2048):
        for block in (64, 128, 4096):
            outputs, groups, group = sizes.row_tile(half, block)
            assert (block // 2) % group == 0
            assert groups & (groups - 1) == outputs & (outputs - 1) == 0
