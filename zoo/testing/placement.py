"""Checks of an architecture on the strict accelerator: tensors are where they should be, and nobody waits for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from zoo.data.batches import on_device
from zoo.testing.compare import close, loss_of
from zoo.testing.failures import NotCheckable, require
from zoo.testing.promise import promise
from zoo.testing.strict import Waits, strict_accelerator
from zoo.testing.subject import PluginUnderTest

ON_DEVICE = "make tensors with device=model.device, and move what was drawn on the CPU there: tensor.to(model.device)"
STAY = "leave tensors on the device: no .item(), .cpu(), .tolist(), bool(tensor) or indexing by a mask"
AT_THE_END = "keep what a step makes on model.device, and copy it to the host once, after the last step"


@promise(
    "construct",
    "every parameter and buffer on the model's device, and none made elsewhere by a call",
    "register tensors that belong to the module with register_buffer, so that they move with it",
)
def weights_are_on_the_device(subject: PluginUnderTest) -> None:
    model = subject.adapted
    loss_of(model, subject.batch)
    for name, tensor in (*model.module.named_parameters(), *model.module.named_buffers()):
        require(tensor.device == model.device, f"{name} on {tensor.device}, the model is on {model.device}")


@promise("loss", "a loss on the model's device, with the CPU's figure", ON_DEVICE)
def loss_is_on_the_device(subject: PluginUnderTest) -> None:
    model = subject.adapted
    found = model.loss(subject.batch)
    require(found.device == model.device, f"a loss on {found.device}, the model is on {model.device}")
    at_home = subject.load(bits=4, lora=model.adapters["default"], device="cpu")
    here, there = loss_of(model, subject.batch), loss_of(at_home, subject.batch)
    require(close(there, here), f"a loss of {here:.7g}, on the CPU {there:.7g}")


@promise("loss", "a step of training without waiting for the device", STAY)
def loss_does_not_wait(subject: PluginUnderTest) -> None:
    model = subject.adapted_copy()
    batch = on_device(subject.batch, model.device)
    with strict_accelerator() as waits:
        model.loss(batch).backward()
    mine = _made_by(subject, waits)
    require(not mine, f"{_listed(mine)} {'waits' if len(mine) == 1 else 'wait'} for the device")


@promise("sample", "no more waiting for the device the more steps there are", AT_THE_END)
def sampling_does_not_wait(subject: PluginUnderTest) -> None:
    steps = {
        name: value
        for name, value in subject.options.sample.items()
        if isinstance(value, int) and not isinstance(value, bool) and value > 0
    }
    if not steps:
        raise NotCheckable('no number among the options of sample: give sample={"steps": 2}')
    counted = []
    for more in (0, 2):
        with strict_accelerator() as waits:
            subject.sample(2, 1, **{name: value + more for name, value in steps.items()})
        counted.append(_made_by(subject, waits))
    grown = counted[1] - counted[0]
    most = 2 * subject.options.waits
    require(
        sum(grown.values()) <= most,
        f"2 more steps waited {sum(grown.values())} times more, at {_listed(grown)}; {most} are allowed",
    )


def _made_by(subject: PluginUnderTest, waits: Waits) -> Counter[str]:
    """Return how often each line of the plugin waited; what a library does below it counts for its line."""
    folder = subject.folder
    return Counter(
        event.line(folder)
        for event in waits.synchronisations
        if any(Path(file).is_relative_to(folder) for file, _ in event.lines)
    )


def _listed(lines: Mapping[str, int]) -> str:
    return ", ".join(line if count == 1 else f"{line} ({count} times)" for line, count in list(lines.items())[:3])


CHECKS = (weights_are_on_the_device, loss_is_on_the_device, loss_does_not_wait, sampling_does_not_wait)
