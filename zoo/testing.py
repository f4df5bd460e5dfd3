"""Whether a plugin keeps its promises: what zoo's own plugins are tested with, for everybody's.

from zoo.testing import check_plugin

def test_the_plugin():
    check_plugin("mine")
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

from zoo import discovery, host, registry
from zoo.errors import PluginError

if TYPE_CHECKING:
    from zoo.model import Model
    from zoo.registry import Entry

# Libraries that take a second or more to import: `zoo list` must not wait for them.
HEAVY = ("torch", "transformers", "diffusers", "timm", "bitsandbytes", "accelerate", "peft", "torch_geometric")
ARCHITECTURE = ("construct", "sample", "loss", "batches", "evaluate")


def check_plugin(name: str, *, batch_size: int = 2) -> tuple[str, ...]:
    """Check an installed plugin; returns what was checked, one line each.

    Every plugin: that it loads and imports nothing heavy. An architecture, moreover: that it has all its hooks; that
    each of its registry entries with a configuration is constructed on meta with real buffers; and, with the weights
    that the plugin carries, in 4 bit with LoRA: that samples repeat by seed, that figures repeat, that neither touches
    the global random state, that batches repeat by seed, and that the loss gives every adapter a finite gradient.

    Raises PluginError, naming the hook and what to change, for the first promise that is broken.
    """
    host.load(name)
    checked = ["loads"]
    _light(name)
    checked.append("imports nothing heavy")
    hooks = host.implemented(name)
    if "construct" not in hooks:
        return tuple(checked)
    missing = [hook for hook in ARCHITECTURE if hook not in hooks]
    _promise(name, not missing, ", ".join(missing), "is missing: an architecture implements it")
    checked.append("implements " + ", ".join(ARCHITECTURE))
    for entry in registry.entries():
        if entry.plugin != name:
            continue
        if entry.config or entry.weights == registry.EMBEDDED:
            _structure(name, registry.resolve(entry.name, download=False))
            checked.append(f"{entry.name} is constructed on meta, its buffers real")
        if entry.weights == registry.EMBEDDED:
            _behaviour(name, entry, batch_size)
            checked.append(f"{entry.name} repeats by seed, and trains in 4 bit with LoRA")
    return tuple(checked)


def _light(name: str) -> None:
    module = discovery.claim(name).value.partition(":")[0].strip()
    code = f"import sys, {module}; print(*(m for m in {HEAVY!r} if m in sys.modules))"
    path = [entry for entry in sys.path if entry]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {path!r}\n{code}"], capture_output=True, text=True
    )
    _promise(name, done.returncode == 0, module, f"cannot be imported: {done.stderr.strip().splitlines()[-1:]}")
    heavy = done.stdout.split()
    _promise(name, not heavy, module, f"imports {', '.join(heavy)} at its top level: import it inside the hooks")


def _structure(name: str, entry: Entry) -> None:
    from zoo.loading import meta_parameters

    with meta_parameters():
        module = host.construct(entry)
    real = [path for path, parameter in module.named_parameters() if not parameter.is_meta]
    meta = [path for path, buffer in module.named_buffers() if buffer.is_meta]
    _promise(name, not real, "construct", f"made {entry.name}'s parameter {real[:1]} real: make it inside the call")
    _promise(name, not meta, "construct", f"left {entry.name}'s buffer {meta[:1]} on meta, where nothing will fill it")


def _behaviour(name: str, entry: Entry, batch_size: int) -> None:
    import torch

    import zoo

    model = zoo.load(entry.name, bits=4, lora=zoo.LoRA(rank=2, targets="all"), device="cpu", seed=0)
    before = torch.get_rng_state()
    first, again, other = (model.sample(2, seed=seed) for seed in (1, 1, 2))
    _promise(name, _same(first.data, again.data), "sample", "draws other samples from the same seed")
    _promise(name, not _same(first.data, other.data), "sample", "draws the same samples from other seeds")
    figures = model.evaluate()
    _promise(name, figures == model.evaluate(), "evaluate", "gives other figures when it is called again")
    untouched = torch.equal(before, torch.get_rng_state())
    _promise(name, untouched, "sample or evaluate", "changes torch's global random state: use a generator of its own")
    batch = next(iter(model.batches(batch_size=batch_size, seed=3)))
    repeated = next(iter(model.batches(batch_size=batch_size, seed=3)))
    _promise(name, _same(batch, repeated), "batches", "gives other batches from the same seed")
    _gradients(name, model, batch)


def _gradients(name: str, model: Model, batch: Any) -> None:
    import torch

    model.train()
    loss = model.loss(batch)
    _promise(name, bool(torch.isfinite(loss)), "loss", f"is {loss.item()}")
    loss.backward()
    for path, parameter in model.trainable_parameters():
        grad = parameter.grad
        _promise(name, grad is not None, "loss", f"gives {path} no gradient: is it detached, or the weight unused?")
        _promise(name, bool(torch.isfinite(grad).all()), "loss", f"gives {path} a gradient that is not finite")  # type: ignore[arg-type]


def _same(one: Any, two: Any) -> bool:
    import torch

    if isinstance(one, torch.Tensor):
        return isinstance(two, torch.Tensor) and torch.equal(one, two)
    if isinstance(one, dict):
        return isinstance(two, dict) and one.keys() == two.keys() and all(_same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(two) and len(one) == len(two) and all(map(_same, one, two))
    return bool(one == two)


def _promise(plugin: str, kept: bool, hook: str, otherwise: str) -> None:
    if not kept:
        raise PluginError(f"plugin {plugin!r}: {hook} {otherwise}")
