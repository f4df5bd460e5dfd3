"""An architecture's promises on an accelerator broken one at a time: plugin, hook, line and fix are named."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from zoo.errors import PluginError
from zoo.testing import checks, examine
from zoo.testing.subject import PluginUnderTest


class Misplaced(NamedTuple):
    """`old` replaced by `new` in a file of the toy; hook and check that break; what is said; a word of the fix."""

    path: str
    old: str
    new: str
    hook: str
    check: str
    found: str
    fix: str


HOOKS, MODEL = "zoo_toy/__init__.py", "zoo_toy/model.py"
LOSS = 'return (model.module(batch["x"]) - batch["x"]).square().mean()'
DRAWN = "    x = x.to(model.device)\n"
FORWARD = "return self.decode(torch.tanh(self.norm(self.encode(x)))) * self.scale"
MUTATIONS = {
    "a buffer made in forward without device": Misplaced(
        MODEL,
        FORWARD,
        f"{FORWARD} + torch.ones(8)",
        "loss",
        "streaming-equals-loading",
        "sim:0 and cpu",
        "device=",
    ),
    "a tensor that does not move with the module": Misplaced(
        MODEL,
        'self.register_buffer("scale", torch.full((1,), 1.5), persistent=False)',
        "self.scale = torch.full((1,), 1.5)",
        "loss",
        "streaming-equals-loading",
        "sim:0 and cpu",
        "device=",
    ),
    "noise on the cpu": Misplaced(HOOKS, DRAWN, "", "sample", "samples-repeat", "sim:0 and cpu", "device="),
    "a target on the cpu": Misplaced(
        HOOKS,
        LOSS,
        'return (model.module(batch["x"]) - batch["x"].cpu()).square().mean()',
        "loss",
        "streaming-equals-loading",
        "sim:0 and cpu",
        "device=",
    ),
    "a loss moved to the cpu": Misplaced(
        HOOKS, LOSS, LOSS + ".cpu()", "loss", "loss-is-on-the-device", "a loss on cpu", "model.device"
    ),
    "a loss with item": Misplaced(
        HOOKS,
        LOSS,
        LOSS.replace("return", "value =") + "\n    assert value.item() >= 0\n    return value",
        "loss",
        "loss-does-not-wait",
        "waits for the device",
        "leave tensors on the device",
    ),
    "a loss with a mask": Misplaced(
        HOOKS,
        LOSS,
        LOSS.replace(".square()", '[batch["x"] < 9.0].square()'),
        "loss",
        "loss-does-not-wait",
        "waits for the device",
        "leave tensors on the device",
    ),
    "numpy in sample": Misplaced(
        HOOKS,
        "return zoo.Samples(model.module(x).softmax(1), ",
        "values = torch.from_numpy(model.module(x).softmax(1).detach().numpy())\n    return zoo.Samples(values, ",
        "sample",
        "samples-repeat",
        "numpy",
        ".cpu().numpy()",
    ),
    "a generator of the cpu": Misplaced(
        HOOKS,
        "generator=generator)\n    x = x.to(model.device)",
        "generator=generator, device=model.device)",
        "sample",
        "samples-repeat",
        "device type for generator",
        "generator",
    ),
    "waiting in every step": Misplaced(
        HOOKS,
        DRAWN,
        DRAWN + "    for _ in range(options['steps']):\n        x = x / x.abs().max().item()\n",
        "sample",
        "sampling-does-not-wait",
        "2 more steps waited 2 times more",
        "after the last step",
    ),
    "data left on the cpu in evaluate": Misplaced(
        HOOKS,
        'items(model, data, "test").to(model.device)',
        'items(model, data, "test")',
        "evaluate",
        "metrics-repeat",
        "sim:0 and cpu",
        "device=",
    ),
}
STEPS = ("request.take(spread=3.0)", "request.take(spread=3.0, steps=2)")


def check_that(name: str, check: str, **options: Any) -> None:
    """Run one check of the suite on the accelerator."""
    with PluginUnderTest(name, {"device": "sim", "sample": {"steps": 2}, **options}) as subject:
        (chosen,) = (one for one in checks(subject) if one.name == check)
        chosen.verify(subject)


@pytest.mark.parametrize("kind", MUTATIONS)
def test_it_is_named_with_hook_line_and_fix(kind: str, install: Callable[..., None], light: None) -> None:
    mutation = MUTATIONS[kind]
    changes = {HOOKS: [STEPS]}
    changes.setdefault(mutation.path, []).append((mutation.old, mutation.new))
    install("toy", changes)
    with pytest.raises(PluginError) as caught:
        check_that("toy", mutation.check)
    said = str(caught.value)
    assert "plugin 'toy'" in said
    assert caught.value.hook == mutation.hook
    found, fix = said.partition("found: ")[2].split("Fix: ")
    assert mutation.found in found
    if mutation.check != "loss-is-on-the-device":
        assert re.search(r"zoo_toy/\w+.py:\d+", found)
    assert mutation.fix in fix


def test_a_healthy_one_keeps_every_promise_there(install: Callable[..., None], light: None) -> None:
    install("toy", {HOOKS: [STEPS]})
    results = examine("toy", device="sim", sample={"steps": 2})
    assert not [one.reason for one in results if one.ok is False]
    mine = {one.check for one in results if one.ok and ("device" in one.check or "wait" in one.check)}
    assert mine == {
        "weights-are-on-the-device",
        "loss-is-on-the-device",
        "loss-does-not-wait",
        "sampling-does-not-wait",
    }
    assert len(results) > 30


def test_waiting_that_an_algorithm_needs_can_be_stated(install: Callable[..., None], light: None) -> None:
    mutation = MUTATIONS["waiting in every step"]
    install("toy", {HOOKS: [STEPS, (mutation.old, mutation.new)]})
    check_that("toy", mutation.check, waits=1)


def test_on_the_cpu_nothing_of_it_is_checked(install: Callable[..., None], light: None) -> None:
    mutation = MUTATIONS["waiting in every step"]
    install("toy", {HOOKS: [STEPS, (mutation.old, mutation.new)]})
    with PluginUnderTest("toy") as subject:
        assert mutation.check not in [one.name for one in checks(subject)]
