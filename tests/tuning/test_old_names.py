"""Names of version 0.1: arguments, plugins' settings and checkpoints that say `average` and `accumulate`."""

from __future__ import annotations

import inspect
import json

import pytest

import zoo
from zoo.errors import TuningError
from zoo.plugin import hooks
from zoo.tuning.loop import tune


def run(model, **options):
    return tune(model, **{"steps": 6, "batch_size": 8, "lr": 1e-2, "quiet": True, **options})


def test_old_arguments_work_and_warn(fake):
    expected = run(new := fake(), ema_decay=0.9, gradient_accumulation_steps=2)
    with (
        pytest.warns(DeprecationWarning, match="argument average of tune is now ema_decay; .*version 0.3"),
        pytest.warns(DeprecationWarning, match="argument accumulate of tune is now gradient_accumulation_steps"),
    ):
        result = run(old := fake(), average=0.9, accumulate=2)
    assert result.losses == expected.losses
    assert all(bool((new.values()[name] == tensor).all()) for name, tensor in old.values().items())
    with (
        pytest.warns(DeprecationWarning, match="average"),
        pytest.raises(TypeError, match="average and ema_decay, which are one"),
    ):
        run(fake(), average=0.9, ema_decay=0.9)


def test_the_warning_points_at_the_caller(fake):
    with pytest.warns(DeprecationWarning, match="average") as caught:
        tune(fake(), steps=1, quiet=True, average=0.5)
    assert caught[0].filename == __file__


def test_the_arguments_are_seen_by_name():
    seen = inspect.signature(zoo.Model.tune).parameters
    assert {"steps", "minutes", "batch_size", "lr", "out", "resume", "seed", "ema_decay", "on_step"} <= set(seen)
    assert not {"average", "accumulate", "options", "kwargs"} & set(seen)
    documented = inspect.getdoc(zoo.Model.tune)
    assert all(f"\n    {name}: " in documented for name in seen if name != "self")


def test_a_checkpoint_of_version_0_1_is_resumed(fake, tmp_path, capfd):
    options = {"ema_decay": 0.9, "gradient_accumulation_steps": 2, "out": tmp_path}
    expected = run(whole := fake(), ema_decay=0.9, gradient_accumulation_steps=2)

    def stop(step, loss):
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(fake(), on_step=stop, **options)
    path = tmp_path / "checkpoint-4" / "state.json"
    state = json.loads(path.read_text())
    state["settings"]["average"] = state["settings"].pop("ema_decay")
    state["settings"]["accumulate"] = state["settings"].pop("gradient_accumulation_steps")
    for younger in ("digest", "sha256", "model", "content", "versions"):
        del state[younger]
    state["format"] = 1
    path.write_text(json.dumps(state))
    with pytest.raises(TuningError, match=r"ema_decay was 0\.9 and is None"):
        run(fake(), gradient_accumulation_steps=2, out=tmp_path, resume=True)
    result = run(resumed := fake(), resume=True, **options, quiet=False)
    assert "is of an earlier version of zoo, and does not say of which base" in capfd.readouterr().err
    assert (result.resumed_from, result.losses) == (4, expected.losses)
    assert all(bool((whole.values()[name] == tensor).all()) for name, tensor in resumed.values().items())


def test_a_plugin_that_says_average_is_understood(monkeypatch):
    monkeypatch.setattr(hooks, "first", lambda hook, plugins, **arguments: ({"average": 0.98, "lr": 1.0}, "old"))
    entry = zoo.Entry("old", "old")
    with pytest.warns(DeprecationWarning, match="plugin 'old': the setting average of its hook 'tuning'"):
        assert hooks.tuning(entry) == {"ema_decay": 0.98, "lr": 1.0}
