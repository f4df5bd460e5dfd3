"""FSDP2 in two processes: the losses of one, and about half of what is stored, from loading on."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from tests.tuning.test_processes import _two
from zoo import TuningError
from zoo.tuning.sharding import asked

RUN = """
import json, os, sys, torch
torch.set_num_threads(1)
os.environ.update(ACCELERATE_USE_FSDP="true", FSDP_VERSION="2")
import zoo
def stored(module):
    parts = (p.to_local() if hasattr(p, "to_local") else p for p in module.parameters())
    return sum(part.numel() * part.element_size() for part in parts)
model = zoo.load("gat", bits=4, lora=8, device="cpu", seed=int(os.environ["RANK"]))
sizes = [stored(model.module)]
result = model.tune(steps=3, batch_size=32, out=sys.argv[1] + "/run", save_every=2, quiet=True, report=False,
                    on_step=lambda step, loss: sizes.append(stored(model.module)))
whole = all(not hasattr(p, "full_tensor") for _, p in model.trainable_parameters())
metrics = model.evaluate()
with open(os.path.join(sys.argv[1], f"rank{os.environ['RANK']}.json"), "w") as file:
    json.dump({"losses": result.losses, "sizes": sizes, "whole": whole, "accuracy": metrics["accuracy"]}, file)
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="no gloo here")
def test_two_processes_store_half_and_train_as_one(tmp_path):
    _two(["-c", RUN, str(tmp_path)])
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    one = zoo.load("gat", bits=4, lora=8, device="cpu", seed=0)
    stored = sum(p.numel() * p.element_size() for p in one.module.parameters())
    options = {"steps": 3, "batch_size": 32, "quiet": True, "report": False}
    expected = one.tune(**options, gradient_accumulation_steps=2)
    assert first["losses"] == second["losses"]
    torch.testing.assert_close(tuple(first["losses"]), expected.losses, rtol=0, atol=1e-5)
    assert max(first["sizes"] + second["sizes"]) <= 0.6 * stored
    assert first["whole"]
    assert first["accuracy"] == second["accuracy"] == pytest.approx(one.evaluate()["accuracy"], abs=0.005)
    # The checkpoint is an ordinary one, with which one process goes on.
    (tmp_path / "run" / "checkpoint-3").rename(tmp_path / "later")
    alone = zoo.load("gat", bits=4, lora=8, device="cpu", seed=0)
    again = alone.tune(**options, out=tmp_path / "run", resume=True)
    assert again.resumed_from == 2
    torch.testing.assert_close(again.losses, expected.losses, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="no gloo here")
def test_the_commands_share_the_work_and_one_prints(tmp_path):
    first, second = _two(["-m", "zoo", "evaluate", "vae", "--json"])
    expected = zoo.load("vae", device="cpu").evaluate()
    assert second == ""
    assert json.loads(first)["figures"] == pytest.approx(dict(expected))
    path = tmp_path / "drawn.png"
    options = ["-n", "3", "--seed", "1", "-o", "steps=4", "--out", str(path)]
    assert [said.split() for said in _two(["-m", "zoo", "sample", "ddpm", *options])] == [[str(path)], []]
    alone = zoo.load("ddpm", device="cpu").sample(3, seed=1, steps=4).save(tmp_path / "alone.png")
    pictures = [torch.from_numpy(np.array(Image.open(one))).int() for one in (path, alone)]
    assert int((pictures[0] - pictures[1]).abs().max()) <= 1


@pytest.mark.parametrize(("version", "offload", "message"), [("1", "false", "version 2, got 1"), ("2", "true", "CPU")])
def test_what_accelerate_is_set_to_and_is_not_here_is_an_error(monkeypatch, version, offload, message):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", version)
    monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", offload)
    with pytest.raises(TuningError, match=message):
        asked()
