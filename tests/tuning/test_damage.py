"""Damaged checkpoints: found, named, and the one before is used; what is of another run is refused."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import torch

import zoo
from zoo.errors import CheckpointError, OutputError, TuningError
from zoo.tuning import manifest

from .helpers import names, run
from .test_evaluations import Watched

OPTIONS = {"steps": 8, "save_every": 3, "eval_every": 3, "ema_decay": 0.9}
SCRIPT = [3.0, 1.0, 2.0]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run of 8 steps that was stopped after 6, with two checkpoints and the best weights of step 6."""
    from .conftest import Fake

    out = tmp_path_factory.mktemp("stopped") / "run"

    class Stop(zoo.Callback):
        def on_save(self, run):
            if run.step == 6:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Watched(Fake(), SCRIPT), out=out, callbacks=[Stop()], **OPTIONS)
    assert names(out) == ["best-3", "best-6", "checkpoint-3", "checkpoint-6", "tuning.json"]
    return out


@pytest.fixture
def resumed(fake, stopped, tmp_path):
    """A function that changes a copy of the folder, and resumes; returns the step resumed from."""

    def resume(change, **options):
        out = tmp_path / "copy"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(stopped, out)
        change(out)
        model = Watched(fake(), SCRIPT[1:])
        return run(model, out=out, resume=True, **{**OPTIONS, **options}).resumed_from

    return resume


def test_every_flipped_bit_is_found(resumed, stopped):
    chance = random.Random(0)
    files = [path.relative_to(stopped) for path in sorted(stopped.rglob("*")) if path.is_file()]
    for name in files:
        for _ in range(1 if "3" in name.parts[0] else 2):

            def flip(out: Path, name: Path = name) -> None:
                data = bytearray((out / name).read_bytes())
                bit = chance.randrange(8 * len(data))
                data[bit // 8] ^= 1 << bit % 8
                (out / name).write_bytes(data)

            if name.parts[0] == "checkpoint-6" or name.parts[0] == "best-6":
                with pytest.warns(UserWarning, match=rf"{name.parts[0]}.*going on from .*checkpoint-3"):
                    assert resumed(flip) == 3
            elif name.parts[0] == "tuning.json":
                with pytest.warns(UserWarning, match="tuning.json.*it is written again"):
                    assert resumed(flip) == 6
            else:  # of the checkpoint before, which is not needed
                assert resumed(flip) == 6


def edited(**changes):
    def edit(out):
        path = out / "checkpoint-6" / "state.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


def sealed(**changes):
    """Change the state as somebody would who makes the digest anew."""

    def edit(out):
        path = out / "checkpoint-6" / "state.json"
        state = json.loads(path.read_text())
        del state["digest"]
        manifest.write(path, {**state, **changes}, ("state.safetensors",))

    return edit


DAMAGE = {
    "changed by hand": edited(step=-3),
    "step -3": sealed(step=-3),
    "step 10**9": sealed(step=10**9),
    "step true": sealed(step=True),
    "more losses": sealed(losses=[1.0] * 7),
    "texts for losses": sealed(losses=["1"] * 6),
    "seconds": sealed(seconds=-1),
    "settings": sealed(settings=None),
    "fewer steps": sealed(settings={"steps": 2}),
    "digests": sealed(drawn=["x", "y"]),
    "another division": sealed(settings={"steps": 9, "division": [8, "2"]}),
    "evaluations": sealed(evaluations={"history": [[3, {"error": 1.0}]], "best": 7}),
    "format": lambda out: edited(format=3)(out),
    "no JSON": lambda out: (out / "checkpoint-6" / "state.json").write_text("{"),
    "a list": lambda out: (out / "checkpoint-6" / "state.json").write_text("[]"),
    "deep": lambda out: (out / "checkpoint-6" / "state.json").write_text("[" * 100_000),
    "no state.json": lambda out: (out / "checkpoint-6" / "state.json").unlink(),
    "no tensors": lambda out: (out / "checkpoint-6" / "state.safetensors").unlink(),
    "other tensors": lambda out: shutil.copy(out / "checkpoint-3/state.safetensors", out / "checkpoint-6"),
    "another name": lambda out: (out / "checkpoint-6").rename(out / "checkpoint-1000000000"),
    "empty": lambda out: [path.unlink() for path in (out / "checkpoint-6").iterdir()],
    "no best weights": lambda out: shutil.rmtree(out / "best-6"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(resumed, damage):
    with pytest.warns(
        UserWarning, match=r"cannot use the .*: going on from the one before it, .*checkpoint-3$"
    ) as said:
        assert resumed(DAMAGE[damage]) == 3
    assert "\n" not in str(said[0].message)


def test_without_a_whole_checkpoint_nothing_begins_in_silence(resumed):
    def all_of_them(out):
        for path in out.glob("checkpoint-*"):
            (path / "state.json").unlink()

    with pytest.raises(CheckpointError, match=r"checkpoint-6: .*no checkpoint before it is whole; restore one"):
        resumed(all_of_them)

    def best(out):
        for path in out.glob("best-*"):
            shutil.rmtree(path)

    with pytest.raises(CheckpointError, match=r"best-6: .*keep_best=False goes on without them"):
        resumed(best)
    assert resumed(best, keep_best=False) == 6


def test_what_is_a_persons_or_another_programs_stays(fake, tmp_path):
    (tmp_path / "checkpoint-7").mkdir()
    (tmp_path / "checkpoint-7" / "trainer_state.json").write_text("{}")
    run(fake(), out=tmp_path, save_every=6, keep=1, on_step=lambda step, loss: note(tmp_path / "checkpoint-6"))
    assert names(tmp_path) == ["checkpoint-20", "checkpoint-6", "checkpoint-7", "tuning.json"]
    assert names(tmp_path / "checkpoint-6") == ["notes.txt"]
    assert names(tmp_path / "checkpoint-7") == ["trainer_state.json"]


def note(folder):
    if folder.is_dir():
        (folder / "notes.txt").write_text("mine")


def test_a_second_run_in_the_folder_is_refused_and_leftovers_go(fake, tmp_path):
    out = tmp_path / "run"
    for folder in (tmp_path, out):
        (folder / ".zoo-0123456789ab").mkdir(parents=True)
    refused = []

    def second(step, loss):
        if step == 1:
            with pytest.raises(OutputError, match=r"another run, of process \d+, is writing there"):
                run(fake(), out=out)
            refused.append(step)

    run(fake(), out=out, on_step=second)
    assert refused == [1]
    assert names(out) == ["checkpoint-20", "tuning.json"]
    assert names(tmp_path) == ["run"]


class Known:
    """A model that says what it is, as `zoo.Model` does."""

    def __init__(self, model, **told) -> None:
        self.model, self.told = model, {"base": {"name": "a", "fingerprint": "f"}, "adapters": {}, **told}

    def __getattr__(self, name):
        return getattr(self.model, name)

    def identity(self):
        return {"model": self.told, "versions": self.versions}

    versions = {"torch": "1"}  # noqa: RUF012


def test_another_base_or_other_layers_are_refused_and_other_versions_named(fake, tmp_path, capfd):
    run(Known(fake()), out=tmp_path)

    def resume(model):
        return run(model, out=tmp_path, resume=True, quiet=False).resumed_from

    moved = Known(fake(), base={"name": "b", "fingerprint": "f"})
    assert resume(moved) == 20
    other = Known(fake(), base={"name": "a", "fingerprint": "g"}, adapters={"x": {"alpha": 2}})
    with pytest.raises(
        TuningError, match=r"base\.fingerprint was 'f' and is 'g'; adapters\.x\.alpha was None and is 2"
    ):
        resume(other)
    one_value = fake()
    one_value.module[0].bias.data[0] += 1  # it does not train
    with pytest.raises(TuningError, match="the values of weights that do not train are not what they were"):
        resume(Known(one_value))
    other_layer = fake()
    other_layer.module[2] = torch.nn.ReLU()
    with pytest.raises(TuningError, match="the module's layers or their settings are not"):
        resume(Known(other_layer))
    newer = Known(other_layer)
    newer.versions = {"torch": "2", "timm": "1"}
    capfd.readouterr()
    assert resume(newer) == 20
    assert "torch was 1 and is 2, timm was not there and is 1" in capfd.readouterr().err
