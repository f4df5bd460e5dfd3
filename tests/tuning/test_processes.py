"""Two processes, launched as torchrun does it, against one process that accumulates."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from zoo.tuning.loop import tune

RUN = """
import importlib.util, json, os, sys, torch
torch.set_num_threads(1)
from zoo.errors import TuningError
from zoo.tuning.loop import tune
spec = importlib.util.spec_from_file_location("fakes", sys.argv[1])
fakes = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fakes)
rank = int(os.environ["RANK"])
model = fakes.Fake(seed=rank, noise=0.0)  # other weights in each process, as new factors may be
model.module[0].bias.data.zero_()  # it does not train, as a base does not
result = tune(model, steps=6, batch_size=8, lr=1e-2, out=sys.argv[2], quiet=True)
whole = {"losses": result.losses, "batch_size": result.batch_size}
again = tune(fakes.Fake(seed=5, noise=0.0), steps=6, batch_size=8, lr=1e-2, out=sys.argv[2], resume=True, quiet=True)
assert again.losses == result.losses and again.resumed_from == 6
def stop(step, loss):
    if step == 3:
        raise KeyboardInterrupt
stopped = fakes.Fake(seed=5, noise=0.0)
stopped.module[0].bias.data.zero_()
try:
    tune(stopped, steps=6, batch_size=8, lr=1e-2, out=sys.argv[2] + "/two", save_every=2, on_step=stop, quiet=True)
except KeyboardInterrupt:
    pass
one = fakes.Fake(seed=5, noise=0.0)
one.module[0].bias.data.zero_()
one = tune(one, steps=6, batch_size=16, lr=1e-2, out=sys.argv[2] + "/one", resume=True, quiet=True)
assert one.resumed_from == 2 and one.batch_size == 16
whole["of one"] = one.losses
whole["made"] = len(stopped.seen)
timed = tune(fakes.Fake(seed=5, noise=0.0), minutes=0.02, batch_size=8, lr=1e-2, quiet=True)
whole["timed"] = timed.losses
whole["values"] = {name: tensor.tolist() for name, tensor in model.values().items()}
with open(os.path.join(sys.argv[2], f"rank{rank}.json"), "w") as file:
    json.dump(whole, file)
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
"""


def _two(arguments: list[str]) -> list[str]:
    """Run Python with these arguments in two processes that know of each other; return what each printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environment = {**os.environ, **common, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, *arguments],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=600) for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], "\n".join(errors.decode() for _, errors in said)
    return [out.decode() for out, _ in said]


def _started_alone(fake, folder: Path) -> None:
    """Leave a checkpoint after two of six steps of one process, whose batch of 16 two processes cut."""

    def stop(step: int, loss: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    one = fake(noise=0.0)
    one.module[0].bias.data.zero_()
    with pytest.raises(KeyboardInterrupt):
        tune(one, steps=6, batch_size=16, lr=1e-2, out=folder, save_every=2, on_step=stop, quiet=True)
    shutil.rmtree(folder / "checkpoint-3")  # which Ctrl-C has left


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="no gloo here")
def test_two_processes_are_one_with_twice_the_batches(fake, tmp_path):
    _started_alone(fake, tmp_path / "one")
    arguments = ["-W", "error", "-c", RUN, str(Path(__file__).with_name("conftest.py")), str(tmp_path)]
    _two(arguments)
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    options = {"steps": 6, "batch_size": 8, "lr": 1e-2, "quiet": True}
    one = fake(noise=0.0)
    one.module[0].bias.data.zero_()
    expected = tune(one, **options, gradient_accumulation_steps=2)
    assert first["losses"] == second["losses"]
    assert first["timed"] == second["timed"]  # they stop at one step, whatever their clocks say
    assert first["batch_size"] == expected.batch_size == 16
    torch.testing.assert_close(tuple(first["losses"]), expected.losses, rtol=1e-5, atol=1e-7)
    for name, tensor in one.values().items():
        assert first["values"][name] == second["values"][name], name
        torch.testing.assert_close(torch.tensor(first["values"][name]), tensor, rtol=1e-4, atol=1e-6)
    assert first["made"] == second["made"] == 3  # a process makes its own batches alone
    # Their checkpoint goes on in one process, and that of one in two.
    alone = fake(noise=0.0)
    alone.module[0].bias.data.zero_()
    again = tune(alone, **options, out=tmp_path / "two", resume=True)
    whole = fake(seed=5, noise=0.0)
    whole.module[0].bias.data.zero_()
    before = tune(whole, **options, gradient_accumulation_steps=2)
    assert again.resumed_from == 2
    assert again.batch_size == 16
    torch.testing.assert_close(again.losses, before.losses, rtol=1e-5, atol=1e-7)
    for name, tensor in whole.values().items():
        torch.testing.assert_close(alone.values()[name], tensor, rtol=1e-4, atol=1e-6)
    assert first["of one"] == second["of one"]


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="no gloo here")
def test_the_command_writes_and_prints_in_one_process(tmp_path):
    out = tmp_path / "run"
    options = ["--steps", "2", "--batch-size", "32", "--out", str(out)]
    first, second = _two(["-m", "zoo", "tune", "gat", *options])
    assert first.split() == [str(out / "adapter")]
    assert second == ""
    assert "torchrun --nproc_per_node 2" in (out / "run.toml").read_text()
    assert (out / "adapter" / "adapter_model.safetensors").is_file()
