"""Checks of what adapters do to an architecture's models, in 4 bit and in full precision."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import torch

import zoo
from zoo.errors import PluginError, ZooError
from zoo.model import Model
from zoo.testing.compare import close, loss_of, perturb, tensors_of
from zoo.testing.failures import NotCheckable, require
from zoo.testing.promise import promise
from zoo.testing.subject import PluginUnderTest

ORDINARY = "use the module's weights as ordinary attributes in every call; keep no copy of them, nor of results"


@promise("construct", "a model that loads in every precision: 16, 8 and 4 bit", ORDINARY, basic=True)
def loads_in_every_precision(subject: PluginUnderTest) -> None:
    for bits in (16, 8):
        value = loss_of(subject.load(bits=bits), subject.batch)
        require(value == value, f"a loss that is not a number in {bits} bit")
    require(
        loss_of(subject.adapted, subject.batch) == loss_of(subject.adapted, subject.batch), "another loss each time"
    )


@promise("inject_adapter", "a new adapter to change nothing", "let one of an update's factors start at zero")
def a_new_adapter_changes_nothing(subject: PluginUnderTest) -> None:
    model = subject.adapted_copy()
    with_adapter = loss_of(model, subject.batch)
    model.deactivate()
    without = loss_of(model, subject.batch)
    require(close(with_adapter, without, 1e-6), f"a loss of {without:.7g} without, {with_adapter:.7g} with it")


@promise("loss", "what an adapter learned to change the loss, in 4 bit", ORDINARY)
def an_adapter_changes_the_loss(subject: PluginUnderTest) -> None:
    model = subject.adapted_copy()
    before = loss_of(model, subject.batch)
    perturb(model)
    require(loss_of(model, subject.batch) != before, "the same loss")


@promise("inject_adapter", "an adapter that was saved to give the same model again", ORDINARY)
def a_saved_adapter_comes_back(subject: PluginUnderTest) -> None:
    model = subject.adapted_copy()
    perturb(model)
    folder = model.save_adapter(subject.new_folder())
    again = subject.load(bits=4, lora=str(folder))
    one, two = loss_of(model, subject.batch), loss_of(again, subject.batch)
    require(close(one, two, 1e-5), f"a loss of {one:.7g} before, {two:.7g} after")


@promise("inject_adapter", "merged adapters to act as unmerged ones, and to come out without a trace", ORDINARY)
def merging_is_exact(subject: PluginUnderTest) -> None:
    model = subject.adapted_copy()
    perturb(model)
    unmerged = loss_of(model, subject.batch)
    model.deactivate()
    base, bits = loss_of(model, subject.batch), model.state_dict()
    model.activate(*model.adapters)
    model.merge()
    merged = loss_of(model, subject.batch)
    require(close(unmerged, merged, 1e-3), f"a loss of {unmerged:.7g} unmerged, {merged:.7g} merged")
    model.unmerge()
    back = loss_of(model, subject.batch)
    require(close(unmerged, back, 1e-6), f"a loss of {unmerged:.7g} before, {back:.7g} after unmerge")
    model.deactivate()
    require(loss_of(model, subject.batch) == base, "another loss of the base after unmerge")
    for name, tensor in model.state_dict().items():
        require(torch.equal(tensor, bits[name]), f"{name} differs after unmerge")


@promise(
    "run_rows",
    "the output of each sample to be that of its own adapter, with model(..., adapters=[...])",
    "implement run_rows if samples are not the rows of the module's inputs, or need each other",
)
def samples_use_their_own_adapters(subject: PluginUnderTest) -> None:
    model = subject.adapted_copy()
    perturb(model)
    model.add_adapter("other", zoo.LoRA(rank=2, targets="all"), seed=1)
    model.activate("other")
    perturb(model, 0.1)
    args, kwargs = _call(model, subject)
    inputs = [tensor for tensor in tensors_of((args, kwargs)) if tensor.dim()]
    if not inputs or len(inputs[0]) < 2:
        raise NotCheckable("the module's inputs have no rows")
    count, names = len(inputs[0]), ("default", "other")
    outputs = []
    with torch.no_grad():
        for name in names:
            model.activate(name)
            outputs.append(list(tensors_of(model(*args, **kwargs))))
        try:
            mixed = list(tensors_of(model(*args, adapters=[names[row % 2] for row in range(count)], **kwargs)))
        except PluginError:
            raise
        except ZooError as error:
            raise NotCheckable(str(error)) from error
    for number, alone in enumerate(outputs):
        for one, two in zip(alone, mixed, strict=True):
            if one.is_floating_point() and one.dim() and len(one) == count:
                mine = slice(number, None, 2)
                same = torch.allclose(one[mine], two[mine], rtol=1e-3, atol=1e-4 * float(one.abs().max()))
                require(same, f"other values for the samples of {names[number]!r}, tensor of shape {tuple(one.shape)}")


ROWS = 5  # samples in the batch: a number that hardly any other dimension has


def _call(model: Model, subject: PluginUnderTest) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments with which `loss` calls the module. Raises `NotCheckable` if it calls only parts of it."""
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    handle = model.module.register_forward_pre_hook(lambda _, *call: seen.append(call), with_kwargs=True)
    try:
        loss_of(model, next(subject.batches(model, batch_size=max(ROWS, subject.options.batch_size))))
    finally:
        handle.remove()
    if not seen:
        raise NotCheckable("loss calls parts of the module, and not the module")
    return seen[0]


@promise(
    "construct",
    "a module that can be copied and pickled, in 4 bit and with an adapter",
    "hold no open file, lambda or local class in the module",
)
def can_be_copied(subject: PluginUnderTest) -> None:
    expected = loss_of(subject.adapted, subject.batch)
    held = io.BytesIO()
    pickle.dump(subject.adapted.module, held)
    read = pickle.loads(held.getvalue())
    for how, module in (("deepcopy", copy.deepcopy(subject.adapted.module)), ("pickle", read)):
        twin = Model(module, subject.adapted.entry, subject.adapted.device, subject.adapted.dtype)
        found = loss_of(twin, subject.batch)
        require(found == expected, f"a loss of {expected:.7g}, after {how} {found:.7g}")


CHECKS = (
    loads_in_every_precision,
    a_new_adapter_changes_nothing,
    an_adapter_changes_the_loss,
    a_saved_adapter_comes_back,
    merging_is_exact,
    samples_use_their_own_adapters,
    can_be_copied,
)
