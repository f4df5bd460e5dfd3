"""Checks of an architecture's `checkpoint` and `save`: the weights that are read and written are the module's."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

import zoo
from zoo.errors import PluginError, ZooError
from zoo.loading.empty import meta_parameters
from zoo.model import Model
from zoo.plugin import hooks
from zoo.testing.compare import close, loss_of, perturb
from zoo.testing.failures import CheckFailed, require
from zoo.testing.promise import promise
from zoo.testing.subject import PluginUnderTest, config_file


@promise(
    "checkpoint",
    "each weight and persistent buffer of the module once, under its name there, in its shape, and nothing else",
    "yield (name, tensor) under the names of module.state_dict()",
    basic=True,
)
def checkpoint_is_the_modules(subject: PluginUnderTest) -> None:
    entry = subject.entry()
    with meta_parameters():
        module = hooks.construct(entry)
    expected = module.state_dict(keep_vars=True)
    seen: set[str] = set()
    for name, tensor in hooks.checkpoint(entry, module):
        require(name not in seen, f"{name} comes twice")
        seen.add(name)
        require(name in expected, f"{name} is not of the module")
        shapes = tuple(tensor.shape), tuple(expected[name].shape)
        require(shapes[0] == shapes[1], f"{name} has shape {shapes[0]}, the module's is {shapes[1]}")
        require(not tensor.is_meta, f"{name} lies on meta")
    reached = {id(expected[name]) for name in seen}  # tied weights may have any of their names
    missing = [name for name, tensor in expected.items() if id(tensor) not in reached]
    require(not missing, f"{len(missing)} do not come, the first is {missing[:1]}")


@promise(
    "checkpoint",
    "a model that zoo streams to be the one that its library loads: the same tensors, the same loss",
    "yield the tensors as they are; compute what depends on them in construct or the module",
    basic=True,
)
def streaming_equals_loading(subject: PluginUnderTest) -> None:
    entry = subject.entry()
    with torch.random.fork_rng(devices=[]):
        module = hooks.construct(entry)  # for real, as the library makes it
    pairs = {name: tensor.clone() for name, tensor in hooks.checkpoint(entry, module)}
    wrong = module.load_state_dict(pairs, strict=False)
    tied = _tied(module)
    missing = [name for name in wrong.missing_keys if not tied.get(name, set()) & pairs.keys()]
    require(not missing and not wrong.unexpected_keys, f"{missing + wrong.unexpected_keys} fits only one of the two")
    module = module.float().eval().to(subject.plain.device)
    streamed = subject.plain.state_dict()
    for name, tensor in module.state_dict().items():
        require(name in streamed, f"{name} is in the library's module alone")
        require(torch.equal(tensor, streamed[name]), f"{name} differs")
    library = Model(module, subject.plain.entry, subject.plain.device, subject.plain.dtype)
    one, two = loss_of(subject.plain, subject.batch), loss_of(library, subject.batch)
    fix = "make whatever construct computes the same under zoo's meta parameters; mind buffers that are not persistent"
    require(close(one, two), f"a loss of {one:.7g} streamed, {two:.7g} loaded", fix, hook="construct")


@promise(
    "checkpoint",
    "zoo.CheckpointError for a damaged file",
    "read files with zoo.storage.checkpoint.tensors, or raise zoo.CheckpointError",
)
def damaged_weights_are_refused(subject: PluginUnderTest) -> None:
    folder = subject.new_folder()
    folder.mkdir()
    own = subject.entry().folder
    for path in own.iterdir() if own is not None else ():
        if path.is_file() and path.name != "SHA256SUMS":
            weights = path.suffix in (".safetensors", ".bin", ".pth")
            (folder / path.name).write_bytes(b"damaged" if weights else path.read_bytes())
    try:
        zoo.load(subject.source[0], weights=str(folder), device="cpu")
    except PluginError as error:
        raise CheckFailed(str(error)) from error
    except ZooError:
        return
    raise CheckFailed("they were loaded")


@promise(
    "save",
    "a folder from which zoo loads the same model, what adapters learned included",
    "write state_dict (not the module's own) with the library's save_pretrained(folder, state_dict=...), and return "
    "True; or return None, and zoo writes config.json and safetensors",
)
def saves_what_it_loads(subject: PluginUnderTest) -> None:
    model = subject.load(lora=zoo.LoRA(rank=2, targets="all"))
    perturb(model)
    folder = model.save(subject.new_folder())
    require(config_file(folder).is_file(), "neither config.json nor model_index.json in the folder")
    again = _loaded(subject, folder)
    one, two = loss_of(model, subject.batch), loss_of(again, subject.batch)
    require(close(one, two), f"a loss of {one:.7g} before, {two:.7g} after")
    before, after = model.state_dict(), again.state_dict()
    require(before.keys() == after.keys(), f"other names: {sorted(before.keys() ^ after.keys())[:2]}")
    for name, tensor in before.items():
        require(torch.allclose(tensor, after[name], rtol=1e-5, atol=1e-6), f"{name} differs")


def _loaded(subject: PluginUnderTest, folder: Path) -> Model:
    """Load the model in a folder: by its path if the plugin implements `recognises`, else as the entry's weights."""
    device = subject.options.device
    if "recognises" in subject.hooks:
        return zoo.load(f"{folder}/", device=device, dtype="float32")
    return zoo.load(subject.source[0], weights=str(folder), device=device, dtype="float32")


def _tied(module: nn.Module) -> dict[str, set[str]]:
    """Return name → every name of the same tensor."""
    held: dict[int, set[str]] = {}
    tensors = module.state_dict(keep_vars=True)
    for name, tensor in tensors.items():
        held.setdefault(id(tensor), set()).add(name)
    return {name: held[id(tensor)] for name, tensor in tensors.items()}


# Every check that loads a model relies on the first; those after it rely on batches and loss too, the last on adapters.
FIRST = (checkpoint_is_the_modules,)
THEN = (streaming_equals_loading, damaged_weights_are_refused)
LAST = (saves_what_it_loads,)
