"""Checks of what adapters do to an architecture's models, in 4 bit and as they are."""

from __future__ import annotations

import copy
import io
import pickle

import torch

from zoo.model import Model
from zoo.testing.compare import close, loss_of, stir
from zoo.testing.promise import promise, require
from zoo.testing.subject import Subject

ORDINARY = "use the module's weights as ordinary attributes at every call; keep no copy, and none of what they gave"


@promise("construct", "a model that loads in every precision: 16, 8 and 4 bit", ORDINARY, basic=True)
def loads_in_every_precision(subject: Subject) -> None:
    for bits in (16, 8):
        value = loss_of(subject.load(bits=bits), subject.batch)
        require(value == value, f"a loss that is not a number in {bits} bit")
    require(
        loss_of(subject.adapted, subject.batch) == loss_of(subject.adapted, subject.batch), "another loss each time"
    )


@promise("inject_adapter", "a new adapter to change nothing", "let one of an update's factors start at zero")
def a_new_adapter_changes_nothing(subject: Subject) -> None:
    model = subject.adapted_copy()
    with_adapter = loss_of(model, subject.batch)
    model.deactivate()
    without = loss_of(model, subject.batch)
    require(close(with_adapter, without, 1e-6), f"a loss of {without:.7g} without, {with_adapter:.7g} with it")


@promise("loss", "what an adapter learned to change the loss, in 4 bit", ORDINARY)
def an_adapter_changes_the_loss(subject: Subject) -> None:
    model = subject.adapted_copy()
    before = loss_of(model, subject.batch)
    stir(model)
    require(loss_of(model, subject.batch) != before, "the same loss")


@promise("inject_adapter", "an adapter that was saved to give the same model again", ORDINARY)
def a_saved_adapter_comes_back(subject: Subject) -> None:
    model = subject.adapted_copy()
    stir(model)
    folder = model.save_adapter(subject.new_folder())
    again = subject.load(bits=4, lora=str(folder))
    one, two = loss_of(model, subject.batch), loss_of(again, subject.batch)
    require(close(one, two, 1e-5), f"a loss of {one:.7g} before, {two:.7g} after")


@promise("inject_adapter", "merged adapters to act as unmerged ones, and to come out without a trace", ORDINARY)
def merging_is_exact(subject: Subject) -> None:
    model = subject.adapted_copy()
    stir(model)
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
    "construct",
    "a module that can be copied and pickled, in 4 bit and with an adapter",
    "hold no open file, lambda or local class in the module",
)
def can_be_copied(subject: Subject) -> None:
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
    can_be_copied,
)
