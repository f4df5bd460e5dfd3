"""What every test of the repository shares, those of the plugins included."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zlib
from datetime import date
from functools import cache
from pathlib import Path

import pytest

# Before torch is imported: several threads on a busy machine make a small model many times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("MPLBACKEND", "agg")
if "ZOO_CACHE" not in os.environ:  # the processes of one run share it
    os.environ["ZOO_CACHE"] = tempfile.mkdtemp(prefix="zoo-cache-")
    atexit.register(shutil.rmtree, os.environ["ZOO_CACHE"], ignore_errors=True)

# The day on which a run began chooses the tests of the mark `turns`: its processes inherit it, past midnight too, and
# must collect the same tests. "all" chooses every one.
os.environ["ZOO_TEST_DAY"] = os.environ.get("ZOO_TEST_DAY") or str(date.today().toordinal())


def pytest_report_header() -> str:
    return f"ZOO_TEST_DAY={os.environ['ZOO_TEST_DAY']} gives the same cases their turns; with =all each has its turn"


# Tests that take long by measurement; those that are slow by their nature have the mark in their code.
SLOW = frozenset((Path(__file__).parent / "tests" / "slow.txt").read_text(encoding="utf-8").splitlines())


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid in SLOW:
            item.add_marker(pytest.mark.slow)
    _take_turns(items)
    needing = [item for item in items if item.get_closest_marker("gpu")]
    if needing:
        import torch

        if not torch.cuda.is_available():
            for item in needing:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test of the mark `no_strict_device` in another process, if this one has the strict device: for good."""
    if not pyfuncitem.get_closest_marker("no_strict_device"):
        return None
    import torch

    if torch._C._get_privateuse1_backend_name() == "privateuseone":
        return None
    code, said = _apart(pyfuncitem.nodeid, pyfuncitem.config.rootpath)
    assert code == 0, said
    return True


def _apart(nodeid: str, root: Path) -> tuple[int, str]:
    """Run a test in the other process, which is one for all of them; returns pytest's exit code and what it said."""
    process = _other(root)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{nodeid}\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        _other.cache_clear()
        return 1, f"the process of {nodeid} ended with exit code {process.wait()}"
    code, said = json.loads(line)
    return code, said


@cache
def _other(root: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, str(root / "tests" / "apart.py")],
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(process.kill)
    return process


def _take_turns(items: list[pytest.Item]) -> None:
    """Skip those slow cases of the mark `turns` whose day it is not; none that was asked for by its name."""
    day = os.environ["ZOO_TEST_DAY"]
    if day == "all" or not items or any("::" in asked for asked in items[0].config.args):
        return
    for item in items:
        mark = item.get_closest_marker("turns")
        if mark is None or not item.get_closest_marker("slow"):
            continue
        # By the name, so that the turn does not depend on what else is collected.
        if (zlib.crc32(item.nodeid.encode()) + int(day)) % mark.args[0]:
            item.add_marker(pytest.mark.skip(reason=f"1 case in {mark.args[0]} a day: ZOO_TEST_DAY=all runs each"))
