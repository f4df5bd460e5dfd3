"""The hooks for a model in use, a part of the contract: `hookspecs.py` has the others, and says what they share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo.plugin.markers import hookspec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch
    from torch import Tensor

    from zoo.catalog.entry import Entry
    from zoo.plugin.contract import LoadedModel
    from zoo.plugin.engines import Engine
    from zoo.plugin.forward_pass import ForwardPass
    from zoo.plugin.options import Option
    from zoo.plugin.requests import SampleRequest
    from zoo.samples import SampleKind, Samples


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
def sample_kinds(entry: Entry) -> Sequence[str | SampleKind] | None:
    """Return of which kinds the samples may be (optional; not for kinds of a plugin's own).

    Gets the entry, whose files may be absent. Returns what `zoo.Samples` may have as its kind: "image", "text",
    "posterior", "probabilities", or a `zoo.SampleKind`. `zoo serve` asks, to know its endpoints before anything is
    drawn; a run that goes on asks, to read the samples that it has kept. Without it the first samples show `zoo serve`
    their kind, which has to be one of zoo's. Called without loading the model: import nothing heavy::

        return ["posterior"] if entry.config.get("num_labels") else ["image"]
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

    Gets the model, and how many texts there are at once, at most. Returns a `zoo.plugin.engines.Engine`, or None for a
    model that cannot. Requests come and go while others are worked on, each under its own adapter, and each gets what
    `sample` gives it alone. Called by `zoo serve`, `zoo chat` and `model.stream`; without it samples come as a whole::

        return Engine(model, room) if has_cache(model.module) else None
    """


@hookspec(firstresult=True)
def embed(model: LoadedModel, texts: Sequence[str]) -> Tensor | None:
    """Return a vector of each text (optional).

    Gets the model and n texts, none empty. Returns float32 [n, d]: near texts have near directions. Called under
    `torch.no_grad` in evaluation mode, by `/v1/embeddings` of `zoo serve`::

        return torch.cat([states_of(model, text).mean(0, keepdim=True) for text in texts])
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


@hookspec(firstresult=True)
def forward_pass(model: LoadedModel, count: int, generator: torch.Generator) -> ForwardPass | None:
    """Return one call of the module that says what the model is without zoo (optional).

    Gets the model, for how many items to make inputs, and where to draw them. Returns a `zoo.ForwardPass`: tensors on
    the CPU by name, and a function of the module and them; or None to let zoo take the call in `loss`. Called by
    `model.export` several times: sizes of the inputs that change with `count` are free in the exported file::

        images = torch.randn(count, 1, 32, 32, generator=generator)
        return zoo.ForwardPass({"images": images}, lambda module, images: module(images).logits)
    """
