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

from zoo.plugin import hookspecs_of_use
from zoo.plugin.hookspecs_of_use import describe as describe
from zoo.plugin.hookspecs_of_use import embed as embed
from zoo.plugin.hookspecs_of_use import engine as engine
from zoo.plugin.hookspecs_of_use import forward_pass as forward_pass
from zoo.plugin.hookspecs_of_use import run_rows as run_rows
from zoo.plugin.hookspecs_of_use import sample as sample
from zoo.plugin.hookspecs_of_use import sample_kinds as sample_kinds
from zoo.plugin.hookspecs_of_use import sample_options as sample_options
from zoo.plugin.hookspecs_of_use import save as save
from zoo.plugin.markers import FALLBACK as FALLBACK
from zoo.plugin.markers import PROJECT, hookspec
from zoo.plugin.markers import hookimpl as hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import torch
    from torch import Tensor, nn

    from zoo.catalog.entry import Entry
    from zoo.catalog.head import Heads
    from zoo.methods.config import Adapter
    from zoo.plugin.contract import LoadedModel
    from zoo.plugin.requests import BatchRequest, EvaluationRequest
    from zoo.weights.foreign.weight import ForeignWeight
    from zoo.weights.lazy_weight import LazyWeight
    from zoo.weights.quantized_tensor import QuantizedTensor
    from zoo.weights.scheme import Quantization
    from zoo.weights.update import Update


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


HOOKS = tuple(
    name
    for module in (vars(), vars(hookspecs_of_use))
    for name, value in module.items()
    if hasattr(value, f"{PROJECT}_spec") and value.__module__ == module["__name__"]
)
