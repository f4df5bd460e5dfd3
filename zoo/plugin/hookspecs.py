"""The contract between zoo and its plugins: what a plugin may implement, and what zoo promises when it calls.

A plugin is a module, named by an entry point in the group `zoo`, that says where the functions of its hooks are::

    # zoo_mine/__init__.py                              # pyproject.toml
    import zoo                                          # [project.entry-points.zoo]
                                                        # mine = "zoo_mine"
    zoo.hooks(construct=".model", loss=".training", batches=".training", evaluate=".training", sample=".text:draw")

`".training"` is the module `zoo_mine.training`, in which the function is called like the hook; `".text:draw"` is the
function `draw` of `zoo_mine.text`; a function itself may stand there too. A module is imported when one of its hooks is
first called, so it may import whatever it likes at its top. A small hook may as well be a decorated function in the
plugin's module, which must import nothing heavy; both forms go together::

    @zoo.hookimpl
    def recognises(config):
        return config.get("model_type") == "mine"

An *architecture* implements at least `construct`, `sample`, `loss`, `batches` and `evaluate`; a *quantizer*
implements `quantize`; an *adapter kind* implements `inject_adapter` and `adapter_config`. An implementation may
take fewer arguments than its hook has, and must not take others. `model` is a `zoo.Model`: `.module` (the
library's own module, unchanged), `.entry`, `.device`, `.dtype`. A hook is called on the plugin that the entry names
and, if that returns None, on zoo's own implementation: a plugin never needs to check whether a model is its own. An
*observer* has wrappers alone, `@zoo.hookimpl(wrapper=True)`, around the hooks of all plugins. Installing one
changes nothing: `ZOO_OBSERVE=name` (or `name,other`) in the environment, or `zoo.observe("name")`, switches it
on::

    @zoo.hookimpl(wrapper=True)
    def sample(model, request):
        print("sampling", model.entry.name)
        return (yield)

Raise users' mistakes as `zoo.ZooError`, which is shown in one line. Any other exception is reported as the plugin's
failure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import pluggy

from zoo.errors import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    import torch
    from torch import Tensor, nn

    from zoo.catalog.entry import Entry
    from zoo.catalog.head import Heads
    from zoo.methods.config import Adapter
    from zoo.plugin.contract import LoadedModel
    from zoo.plugin.engines import Engine
    from zoo.plugin.options import Option
    from zoo.plugin.requests import BatchRequest, EvaluationRequest, SampleRequest
    from zoo.samples import Samples
    from zoo.weights.foreign.weight import ForeignWeight
    from zoo.weights.lazy_weight import LazyWeight
    from zoo.weights.quantized_tensor import QuantizedTensor
    from zoo.weights.scheme import Quantization
    from zoo.weights.update import Update

PROJECT = "zoo"
FALLBACK = "fallback"  # the answer of `recognises` that counts only where no plugin returns True
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec(firstresult=True)
def recognises(config: dict[str, Any]) -> bool | Literal["fallback"] | None:
    """Return whether a configuration is this architecture's.

    Gets the `config.json` (or `model_index.json`) of a Hub repository or local folder that is in no registry.
    Returns True; or False or None; or "fallback" for a configuration that the plugin can load and takes only if no
    plugin returns True. Called on every architecture when a name with a slash is loaded: once in a process of its
    own, about configurations of nothing too, then in a thread, each time with a copy. Raising, any other answer, yes to
    everything, or taking long passes the plugin over with a warning::

        return config.get("_class_name") == "UNet2DModel"
    """


@hookspec(firstresult=True)
def construct(entry: Entry) -> nn.Module | None:
    """Return the module, without its weights.

    Gets the resolved entry: `entry.config`, and `entry.folder` with the files (None when only the structure is
    wanted). Returns the library's own module in evaluation mode. Called with parameters on `meta` and buffers
    real, so that initialising parameters costs nothing; for `weights="random"` once more with all of it real, and
    then the initial values are what training starts from::

        return UNet2DModel.from_config(entry.config)
    """


@hookspec(firstresult=True)
def checkpoint(entry: Entry, module: nn.Module) -> Iterator[tuple[str, Tensor]] | None:
    """Return the weights, one at a time.

    Gets the entry and the constructed module. Returns an iterator of (name, tensor) under the module's own parameter
    and buffer names, or None to let zoo read the safetensors in `entry.folder`. Called once per load; each tensor
    is quantized and freed before the next one is read, so yield them lazily::

        for name, tensor in zoo.checkpoint.tensors(entry):  # zoo's own reading
            yield OLD_NAMES.get(name, name), tensor
    """


@hookspec(firstresult=True)
def heads(entry: Entry) -> Heads | None:
    """Return for which tasks the architecture makes a new head, and which one a checkpoint has (optional).

    Gets the entry, whose files may be absent. Returns a `zoo.Heads`, or None where there is no such thing as a head.
    Called by `zoo.load` with `classes=`, `task=`, `image_size=` or `channels=`; `entry.head`, a `zoo.Head`, then says
    what `construct` is to build. Which of its parameters are new is found by their names and shapes: zoo gives them
    their first values (those of classes that the checkpoint knows by name keep their rows), leaves them in full
    precision, and trains and saves them with the adapters. Called without loading the model: import nothing heavy::

        config = entry.config
        return zoo.Heads(("classify",), zoo.Head("classify", tuple(config["names"]), len(config["names"])))
    """


@hookspec(firstresult=True)
def quantize(entry: Entry, name: str, weight: Tensor, scheme: Quantization) -> QuantizedTensor | Tensor | None:
    """Quantize one weight.

    Gets the entry, the parameter's name, its full-precision weight (any shape, on its final device) and the scheme
    that the user chose. Returns a `zoo.QuantizedTensor` (a quantizer), the weight itself to keep it in full
    precision (an architecture; `keep` in registry.toml does the same without code), or None to leave it to the next.
    Called for each managed weight while loading: on the architecture first, then on the plugin named like
    `scheme.scheme`, then on zoo::

        return weight if name.endswith("att_src") else None
    """


@hookspec(firstresult=True)
def foreign_weight(layer: nn.Module, dtype: torch.dtype) -> ForeignWeight | None:
    """Return the weight of a layer that another library has quantized (optional).

    Gets a layer that seems to store its weight as integers, which zoo itself cannot read, and the dtype of the module's
    other weights. Returns a `zoo.ForeignWeight`: the stored tensors as a `zoo.QuantizedTensor`, under which names the
    layer holds them, and its forward pass in terms of `layer.weight`; or None. Called by `zoo.wrap` on every installed
    plugin, for each such layer::

        if type(layer).__name__ != "PackedLinear":
            return None
        tensors = {"codes": layer.codes, "scale": layer.scale}
        packed = zoo.QuantizedTensor(Codec(), layer.shape, dtype, tensors)
        return zoo.ForeignWeight("packed", packed, (("codes", "codes"), ("scale", "scale")), forward, "linear")
    """


@hookspec(firstresult=True)
def inject_adapter(entry: Entry, name: str, weight: LazyWeight, config: Adapter) -> Update | None:
    """Return what one adapter does to one weight.

    Gets the entry, the parameter's name, the weight as its layer sees it (shape, dtype, device and `layout`: which
    dimensions are the layer's outputs and inputs; any torch function takes it as a tensor), and the adapter's
    configuration. Returns a `zoo.Update` (a module whose parameters train), or None to leave it to the next.
    Called for each targeted weight when an adapter is added: on the architecture first, then on the plugin named
    like `config.kind`, then on zoo::

        return Scaled(weight.shape, config.rank) if name.endswith(".modulated") else None
    """


@hookspec(firstresult=True)
def adapter_config(raw: dict[str, Any]) -> Adapter | None:
    """Return the configuration that a saved adapter's `adapter_config.json` describes.

    Gets what the file holds. Returns the kind's `zoo.Adapter`, or None to leave it to the next. Called when an adapter
    is loaded: on the plugin named like its `peft_type` in lower case, then on zoo::

        return Scale.from_peft(raw)
    """


@hookspec(firstresult=True)
def sample_options(entry: Entry) -> Sequence[Option] | None:
    """Return the options that `sample` takes (optional).

    Gets the entry, whose files may be absent. Returns a `zoo.Option` for each, in the order in which people are asked
    for them; () if there are none. zoo then checks what users give before `sample` is called, `request.take()` returns
    all of them, and `zoo info`, the page of `zoo play` and the requests of `zoo serve` show them. Called without
    loading the model: import nothing heavy::

        return [zoo.Option("steps", 50, "denoising steps", low=1, high=entry.config["num_train_timesteps"])]
    """


@hookspec(firstresult=True)
def sample(model: LoadedModel, request: SampleRequest) -> Samples | None:
    """Return `request.n` samples.

    Gets the model and the request: `n`, `seed` (None: a new one each time), and the options, which `request.take`
    returns: the declared ones, or, without `sample_options`, those that it is given with their defaults.
    Returns `zoo.Samples`, equal for equal seeds, and does not change the global random state. Called under
    `torch.no_grad` in evaluation mode::

        options = request.take(steps=50)
        noise = torch.randn(request.n, 64, generator=request.generator()).to(model.device)
        return zoo.Samples(images, "image")
    """


@hookspec(firstresult=True)
def engine(model: LoadedModel, room: int) -> Engine | None:
    """Return what continues many texts at once, token by token (optional).

    Gets the model, and how many texts there are at once, at most. Returns a `zoo.plugin.engines.Engine`: requests come
    and go, each under its own adapter, and get what `sample` gives alone. Called by `zoo serve` and `model.stream`::

        return Engine(model, room) if has_cache(model.module) else None
    """


@hookspec(firstresult=True)
def loss(model: LoadedModel, batch: Any) -> Tensor | None:
    """Return the training loss of one batch.

    Gets the model and one batch as `batches` makes it, on the model's device. Returns a scalar tensor with a graph.
    Called once per training step, in training mode::

        return F.cross_entropy(model.module(batch["images"]), batch["labels"])
    """


@hookspec(firstresult=True)
def distill(model: LoadedModel, teacher: LoadedModel, batch: Any, share: float) -> Tensor | None:
    """Return the loss of one batch for a model that learns from another one (optional).

    Gets the model and its teacher, in evaluation mode and on the same device, which need not be of one architecture; a
    batch of the model's own; and `share`, how much the teacher counts, from 0 (the labels alone) to 1 (the teacher).
    Returns a scalar tensor with a graph in the model, or None to let zoo mix the model's own loss with the distance of
    what both modules put out in it. Called by `model.tune(teacher=)`, once per batch::

        with torch.no_grad():
            wanted = teacher.module(batch["images"])
        mine = model.module(batch["images"])
        return (1 - share) * F.cross_entropy(mine, batch["labels"]) + share * F.mse_loss(mine, wanted)
    """


@hookspec(firstresult=True)
def count(model: LoadedModel, batch: Any) -> float | None:
    """Return what the loss of one batch is the mean of: tokens, places, samples (optional).

    Gets the model and one batch as `batches` makes it, on the CPU. Returns a number of at least 0. Called once per
    batch in training, so that accumulated batches count as in one large batch; without it all batches count alike::

        return int((batch["labels"] != -100).sum())
    """


@hookspec(firstresult=True)
def batches(model: LoadedModel, data: Any, request: BatchRequest) -> Iterable[Any] | None:
    """Return batches of the user's data, ready for `loss`.

    Gets the model; the data: None (the plugin's own), a name such as `"letters:serif"`, a path, a dataset, tensors, or
    a `zoo.Data` around one of these, which the readers of `zoo.data` understand; and the request: `batch_size`,
    `split`, `seed`. Returns an iterable of batches (dicts of tensors): for split "train" endless and shuffled by the
    seed, else one pass in fixed order. Called once per tuning. An iterator with a method `skip(count)`, as `stream` and
    its `map` return, passes over the batches of other processes and of earlier runs without making them::

        images, labels = image_data(data, size=32, channels=1, split=request.split)
        rows = stream({"images": images, "labels": labels}, request)
        return rows.map(lambda row, number: {**row, "noise": noise(row, generator_of(request.seed, number))})
    """


@hookspec(firstresult=True)
def evaluate(model: LoadedModel, data: Any, request: EvaluationRequest) -> dict[str, float] | None:
    """Return metrics on held-out data; the first is the main one.

    Gets the model and data as `batches` does, and a request for more metrics than the usual, of which `request.take`
    returns the known ones and refuses others. Returns name → number, the same at every call, best as
    `zoo.metrics.Scores` makes them of each example's values: intervals then follow. Does not change the global random
    state. Called under `torch.no_grad` in evaluation mode::

        scores = zoo.metrics.Scores("images")
        scores.mean("loss", losses)  # of each image
        return scores.figures()
    """


@hookspec(firstresult=True)
def tuning(entry: Entry) -> dict[str, Any] | None:
    """Return defaults of `model.tune` for objectives that need others than zoo's (optional).

    Gets the entry. Returns some of `batch_size`, `lr`, `betas`, `grad_clip`, `warmup`, `ema_decay`, `weight_decay`
    and `schedule` with their values. Called by `model.tune`; what the user gives takes precedence::

        return {"betas": (0.0, 0.99), "ema_decay": 0.99}
    """


@hookspec(firstresult=True)
def describe(entry: Entry) -> dict[str, str] | None:
    """Return facts about the entry for `zoo info` and the model card (optional).

    Gets the entry, whose files may be absent. Returns label → text. Called without loading the model: import nothing
    heavy::

        return {"image size": str(entry.config["sample_size"])}
    """


@hookspec(firstresult=True)
def save(model: LoadedModel, folder: Path, state_dict: dict[str, Tensor]) -> bool | None:
    """Write the model in the library's native format (optional).

    Gets the model, an empty folder, and the full-precision weights in the library's own names; none of them for
    `model.save(folder, packed=True)`, which takes only what lies beside the weights. Returns True when it wrote
    the folder so that the library's own loading reads it back, None to leave it to zoo (config.json and safetensors).
    Called by `model.save`::

        model.module.save_pretrained(folder, state_dict=state_dict)
        return True
    """


@hookspec(firstresult=True)
def run_rows(model: LoadedModel, args: tuple[Any, ...], kwargs: dict[str, Any], rows: Tensor, count: int) -> Any | None:
    """Return the module's output for some samples of a batch, if samples are not the rows of its inputs (optional).

    Gets the model with just these samples' adapters active; the arguments of the whole call; the samples' numbers
    (int64 [k], ascending) of `count` in all. Returns the module's output in which every tensor has `k` rows, these
    samples' in order, or None to let zoo take the rows of each tensor that has `count`. Called by
    `model(..., adapters=[...])`, once for each different choice of adapters::

        return model.module(*args, **kwargs)[rows]  # nodes of one graph: any of them may need all of it
    """


HOOKS = tuple(name for name, value in vars().items() if hasattr(value, f"{PROJECT}_spec"))


def no_such_hook(name: str) -> str:
    """Return the message about a hook that does not exist, with the nearest one that does."""
    return f"there is no hook {name!r}.{did_you_mean(name, HOOKS)} The hooks are {', '.join(HOOKS)}"


def deprecated_arguments(hook: str) -> dict[str, Warning]:
    """Return the arguments of a hook that a later version removes, each with its warning."""
    return getattr(globals()[hook], f"{PROJECT}_spec").get("warn_on_impl_args") or {}
