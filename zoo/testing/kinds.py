"""Checks of an adapter kind: its configuration, and what its updates do to layers of every sort."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import pickle
from typing import Any

import torch
from torch import nn

import zoo
from zoo.errors import AdapterError, PluginError, ZooError
from zoo.methods.config import Adapter
from zoo.model import Model
from zoo.plugin.manager import caller
from zoo.testing import example_modules
from zoo.testing.compare import perturb
from zoo.testing.failures import CheckFailed, NotCheckable, require
from zoo.testing.promise import promise
from zoo.testing.subject import PluginUnderTest
from zoo.weights.update import Update
from zoo.weights.walk import managed_weights

STEPS = 20


@promise(
    "adapter_config",
    "the configuration that a saved adapter's file says, equal to the one that was saved",
    "implement adapter_config(raw) with your configuration's from_peft; to_peft must give all of it, as JSON",
    basic=True,
)
def configuration_comes_back(subject: PluginUnderTest) -> None:
    require("inject_adapter" in subject.hooks, "inject_adapter is missing", hook="inject_adapter")
    require("adapter_config" in subject.hooks, "adapter_config is missing")
    config = configuration(subject)
    require(isinstance(config, Adapter), f"{type(config).__qualname__}, not a zoo.Adapter")
    require(config.kind == subject.name, f"kind {config.kind!r}, where the plugin is named {subject.name!r}")
    raw = json.loads(json.dumps(config.to_peft()))
    kind = str(raw.get("peft_type"))
    require(kind.lower() == subject.name, f"peft_type {kind!r}: a saved adapter would be taken for another kind's")
    again = _read(subject, raw)
    require(again == config, f"{again} for {config}")


@promise(
    "inject_adapter",
    "a zoo.Update for a linear layer's weight; for any other an Update too, or zoo.AdapterError, or None",
    "return an Update whose parameters train, or None for weights that the kind cannot take",
    basic=True,
)
def makes_updates(subject: PluginUnderTest) -> None:
    model = _wrapped(subject, example_modules.Linears)
    for name, store in managed_weights(model.module).items():
        for update in store.updates.values():
            require(isinstance(update, Update), f"{type(update).__qualname__} for {name}")
            # What an update does to its layer's bias has no parameters of its own.
            trains = len(store.shape) < 2 or any(True for _ in update.parameters())
            require(trains, f"an update without parameters for {name}")
    try:
        _wrapped(subject, example_modules.Mixed)
    except PluginError as error:
        raise error
    except ZooError:
        return


@promise(
    "inject_adapter",
    "an updated weight of the weight's own shape and type, with a graph; and factors(), if any, that say the same",
    "return weight + update in forward, cast to weight.dtype; factors() is (left, right, scale) of weight + scale · "
    "left @ right",
)
def updates_keep_shape_and_type(subject: PluginUnderTest) -> None:
    model = _perturbed(subject, _last_example(subject))
    for name, store in managed_weights(model.module).items():
        for update in store.active_updates():
            for dtype in (torch.float32, torch.bfloat16, torch.float64):
                weight = example_modules.gaussian(*store.shape).to(dtype)
                got = update(weight)
                require(got.shape == weight.shape, f"shape {tuple(got.shape)} for {name}'s {tuple(weight.shape)}")
                require(got.dtype == dtype, f"{got.dtype} for {name} in {dtype}")
                require(got.requires_grad, f"no graph for {name}")
            pair = update.factors()
            if pair is not None:
                weight = example_modules.gaussian(*store.shape).double()
                product = pair.scale * (pair.left.double() @ pair.right.double())
                says = weight + product.view(weight.shape)
                require(torch.allclose(update(weight), says, atol=1e-5), f"factors() of {name} say another weight")


@promise(
    "inject_adapter",
    "a new adapter that changes nothing, unless the configuration's class says identity = False",
    "let the update start at zero (or at one, if it multiplies)",
)
def a_new_one_changes_nothing(subject: PluginUnderTest) -> None:
    if not getattr(configuration(subject), "identity", True):
        raise NotCheckable("its configuration says identity = False")
    for kind in _examples(subject):
        plain, adapted = zoo.wrap(example_modules.made(kind)), _wrapped(subject, kind)
        far = float((example_modules.output(plain) - example_modules.output(adapted)).abs().max())
        require(far < 1e-6, f"{kind.__name__}'s output changed by {far:.2g}")


@promise(
    "inject_adapter",
    "finite gradients that reach every update, from its first or second step on, and a loss that they lower",
    "use the update's parameters in forward without detaching them, and do not start with all of them at zero",
)
def it_learns(subject: PluginUnderTest) -> None:
    for kind in _examples(subject):
        for bits in (None, 4):
            model = _wrapped(subject, kind, bits=bits)
            reached: set[str] = set()
            optimizer = torch.optim.Adam([factor for _, factor in model.trainable_parameters()], lr=1e-2)
            start = float(example_modules.error(model).detach())
            for _ in range(STEPS):
                optimizer.zero_grad()
                example_modules.error(model).backward()
                for name, factor in model.trainable_parameters():
                    grad = factor.grad
                    require(grad is None or bool(torch.isfinite(grad).all()), f"{name}'s gradient is not finite")
                    if grad is not None and bool(grad.any()):
                        reached.add(name)
                optimizer.step()
            dead = [name for name, _ in model.trainable_parameters() if name not in reached]
            require(not dead, f"none for {len(dead)} parameters, the first is {dead[:1]}")
            end = float(example_modules.error(model).detach())
            require(end < start, f"{start:.5g} before and {end:.5g} after {STEPS} steps")


@promise(
    "inject_adapter",
    "an adapter that can be switched off and on, and removed, exactly",
    "change nothing outside of the update: not the weight, not the module",
)
def it_switches_off(subject: PluginUnderTest) -> None:
    for kind in _examples(subject):
        model = _perturbed(subject, kind)
        base, learned = example_modules.output(zoo.wrap(example_modules.made(kind))), example_modules.output(model)
        require(not torch.equal(base, learned), "the same output with what it learned")
        model.deactivate()
        require(torch.equal(example_modules.output(model), base), "another base when it is switched off")
        model.activate("default")
        require(torch.equal(example_modules.output(model), learned), "another output when it is switched on again")
        model.remove_adapter("default")
        require(torch.equal(example_modules.output(model), base), "another base when it is removed")


@promise(
    "inject_adapter",
    "a merged adapter that acts as unmerged, and comes out without a trace",
    "let forward(weight) be all that the update does",
)
def it_merges(subject: PluginUnderTest) -> None:
    for kind in _examples(subject):
        for bits in (None, 4):
            model = _perturbed(subject, kind, bits=bits)
            learned = example_modules.output(model)
            model.merge()
            far = float((example_modules.output(model) - learned).abs().max())
            require(far < 1e-4, f"{kind.__name__}'s output differs by {far:.2g} when merged")
            model.unmerge()
            require(torch.equal(example_modules.output(model), learned), "another output after unmerge")


@promise(
    "adapter_config",
    "a saved adapter that gives the same output when it is loaded",
    "keep everything that is learned in parameters or buffers of the update",
)
def it_is_saved(subject: PluginUnderTest) -> None:
    for kind in _examples(subject):
        model = _perturbed(subject, kind)
        try:
            folder = model.save_adapter(subject.new_folder())
        except (AdapterError, NotImplementedError) as error:  # zoo, or the kind, has no file format for it
            raise NotCheckable(str(error)) from error
        again = zoo.wrap(example_modules.made(kind), lora=str(folder))
        far = float((example_modules.output(again) - example_modules.output(model)).abs().max())
        require(far < 1e-6, f"{kind.__name__}'s output differs by {far:.2g}")


@promise(
    "inject_adapter",
    "an update that can be copied and pickled",
    "make the update a class of your module, and hold no lambda in it",
)
def it_is_copied(subject: PluginUnderTest) -> None:
    model = _perturbed(subject, _last_example(subject))
    expected = example_modules.output(model)
    held = io.BytesIO()
    pickle.dump(model.module, held)
    for how, module in (("deepcopy", copy.deepcopy(model.module)), ("pickle", pickle.loads(held.getvalue()))):
        twin = Model(module, model.entry, model.device, model.dtype)
        require(torch.equal(example_modules.output(twin), expected), f"another output after {how}")


def configuration(subject: PluginUnderTest) -> Adapter:
    """Return the configuration to check with, for all weights. Raises `NotCheckable` if there is none."""
    given = subject.options.adapter
    if given is None:
        given = subject.remembered("configuration", lambda: _default(subject))
    return dataclasses.replace(given, targets="all")  # type: ignore[type-var]


def _default(subject: PluginUnderTest) -> Any:
    raw = {"peft_type": subject.name.upper(), "targets": "all"}
    try:
        config = _read(subject, raw)
    except ZooError as error:
        raise NotCheckable(f"no configuration to check with: give adapter=YourConfig(...) ({error})") from error
    except Exception as error:
        fix = "give every field of the configuration a default, or raise zoo.AdapterError for what is missing"
        raise CheckFailed(f"{type(error).__name__} ({error}) for {raw}", fix, "adapter_config") from error
    if config is None:
        raise NotCheckable(f"no configuration to check with: give adapter=YourConfig(...) (None for {raw})")
    return config


def _read(subject: PluginUnderTest, raw: dict[str, Any]) -> Any:
    return caller("adapter_config", subject.name)(raw=raw)


def _wrapped(subject: PluginUnderTest, kind: type[nn.Module], bits: int | None = None) -> Model:
    return zoo.wrap(example_modules.made(kind), bits=bits, lora=configuration(subject), seed=0)


def _perturbed(subject: PluginUnderTest, kind: type[nn.Module], bits: int | None = None) -> Model:
    model = _wrapped(subject, kind, bits)
    perturb(model)
    return model


def _examples(subject: PluginUnderTest) -> tuple[type[nn.Module], ...]:
    """Return the example modules that the kind takes."""
    return subject.remembered("examples", lambda: (example_modules.Linears, *_more(subject)))


def _more(subject: PluginUnderTest) -> tuple[type[nn.Module], ...]:
    try:
        _wrapped(subject, example_modules.Mixed)
    except ZooError:
        return ()
    return (example_modules.Mixed,)


def _last_example(subject: PluginUnderTest) -> type[nn.Module]:
    return _examples(subject)[-1]


CHECKS = (
    configuration_comes_back,
    makes_updates,
    updates_keep_shape_and_type,
    a_new_one_changes_nothing,
    it_learns,
    it_switches_off,
    it_merges,
    it_is_copied,
    it_is_saved,
)
