"""Build a GAT, read its weights under today's names, call it, and save it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from zoo import CheckpointError

from . import files

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch_geometric.nn.models import GAT

    from zoo import Entry, Model

_LAYER = re.compile(r"(?P<layer>convs\.\d+)\.(?P<rest>.+)")
# One weight serves sources and targets. Before PyG 2.5 the files hold it under both names, before 2.0 under other ones.
_SOURCE = {"lin_src": "lin", "lin_l": "lin"}
_TARGET = {"lin_dst": "lin", "lin_r": "lin"}
_ATTENTION = {"att_l": "att_src", "att_r": "att_dst"}


def construct(entry: Entry) -> GAT:
    """Return the module that the entry's configuration describes, in evaluation mode.

    PyG writes no truth values into config.json; `v2`, `residual` and `bias` are then read off the weights' names.
    """
    from torch_geometric.nn.models import GAT

    config = files.gat_config(entry)
    if entry.folder is not None:
        config = {**_seen(entry), **config}
    try:
        return GAT(**config).eval()
    except (TypeError, ValueError, KeyError, AttributeError, AssertionError) as error:
        raise CheckpointError(f"the configuration of {entry.name} does not make a GAT: {error}") from error


def checkpoint(entry: Entry, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the checkpoint's tensors under the module's names; what old files hold twice, once.

    Raises:
        CheckpointError: the two differ: such a layer tells sources from targets, and this one does not.
    """
    known = {name for name, _ in module.named_parameters()}
    first: dict[str, Tensor] = {}
    for name, tensor in _tensors(entry):
        new = name if name in known else current_name(name)
        if new == name or new not in known:
            yield name, tensor
        elif new not in first:
            first[new] = tensor
            yield new, tensor
        elif not torch.equal(first[new], tensor):
            raise CheckpointError(
                f"{entry.name}: {name} differs from the weight of the sources, so its layers are bipartite; a GAT has "
                "one weight for both"
            )


def current_name(name: str) -> str:
    """Return the name that today's PyG gives to a GATConv's parameter of an old file."""
    found = _LAYER.fullmatch(name)
    if not found:
        return name
    head, dot, tail = found["rest"].partition(".")
    return f"{found['layer']}.{(_SOURCE | _TARGET | _ATTENTION).get(head, head)}{dot}{tail}"


def predict(model: Model, graph: dict[str, Tensor]) -> Tensor:
    """Return logits float32 [n, classes] of every node of a graph.

    Args:
        model: the model.
        graph: "x" [n, features], "edge_index" [2, e] and perhaps "edge_attr" [e, edge features].
    """
    place = model.device
    options = {}
    if graph.get("edge_attr") is not None:
        options["edge_attr"] = graph["edge_attr"].to(place, model.dtype)
    x = graph["x"].to(place, model.dtype)
    return model.module(x, graph["edge_index"].to(place), **options).float()


def save(model: Model, folder: Path, state_dict: dict[str, Tensor]) -> bool:
    """Write config.json and model.pth as PyG's `PyGModelHubMixin` does, with class_names.json where there are names."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {**_seen(model.entry), **files.gat_config(model.entry)}
    config.setdefault("heads", 1)  # tells a GAT's file from other models'
    files.write(folder, config, files.class_names(model.entry))
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state_dict.items()}
    torch.save(plain, folder / "model.pth")
    return True


def _tensors(entry: Entry) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of the file, without what a class around the GAT puts before every name."""
    import zoo

    prefix = None
    for name, tensor in zoo.checkpoint.tensors(entry):
        if prefix is None:
            found = re.match(r"((?:\w+\.)*?)convs\.\d", name)
            prefix = found[1] if found else ""
        yield name.removeprefix(prefix), tensor


def _seen(entry: Entry) -> dict[str, Any]:
    """Return the arguments that show in the names of the first layer's weights; none without files."""
    import zoo

    if entry.folder is None or not any(zoo.checkpoint.weight_files(Path(entry.folder))):
        return {}
    names = {name.removeprefix("convs.0.") for name, _ in _tensors(entry) if name.startswith("convs.0.")}
    return {"v2": "att" in names, "residual": "res.weight" in names, "bias": "bias" in names} if names else {}
