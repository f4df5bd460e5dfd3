"""PyTorch Geometric's models and layers, as its `PyGModelHubMixin` writes them.

Its config.json holds the arguments of a class that are text or numbers, and not which class that is. The class is
found by the weights: the one whose module has the same names and shapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import CheckpointError
from zoo.storage import atomic
from zoo.storage.config_json import CONFIG

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zoo.catalog.entry import Entry

WEIGHTS = "model.pth"
# Truth values that decide which weights a class has, and that the file does not hold; as they are by default, not.
_SWITCHES = (("bias", False), ("residual", True), ("concat", False), ("root_weight", False), ("v2", True))


def construct(entry: Entry, config: dict[str, Any]) -> nn.Module:
    """Return the module, in evaluation mode.

    Args:
        entry: whose weights say which class it is.
        config: the arguments, and perhaps the class, under "class".

    Raises:
        CheckpointError: no class has such weights, or several have.
    """
    named = config.get("class")
    arguments = {key: value for key, value in config.items() if key != "class"}
    shapes = {name: tuple(tensor.shape) for name, tensor in named_tensors(entry)} if entry.folder else None
    if shapes is None and not named:
        raise CheckpointError(
            f'{entry.name}: without weights, say which of PyG\'s classes it is: "class" in config.json'
        )
    classes = _classes()
    if named and named not in classes:
        raise CheckpointError(f"{entry.name}: PyG has no class {named!r} with weights of its own")
    chosen = {str(named): classes[str(named)]} if named else classes
    for count in range(3):
        found: dict[str, nn.Module] = {}
        for switched in combinations(_SWITCHES, count):
            for name, kind in chosen.items():
                module = _made(kind, {**dict(switched), **arguments})
                if module is not None and (shapes is None or _shapes(module) == shapes):
                    found.setdefault(name, module)
        if len(found) > 1:
            raise CheckpointError(
                f"{entry.name}: these could be the weights of PyG's {' or '.join(found)}: say which, by "
                f'"class": "{next(iter(found))}" in its config.json'
            )
        for module in found.values():
            return module.eval()
    raise CheckpointError(
        f"{entry.name}: no class of PyG has these weights with the arguments {', '.join(arguments)}; PyG leaves truth "
        'values out of config.json: add them, and the class as "class": "GCN"'
    )


def _classes() -> dict[str, Any]:
    """Return name → class of PyG's models and layers."""
    from torch_geometric.nn import conv, models

    kinds = {name: getattr(module, name) for module in (models, conv) for name in module.__all__}
    seen: dict[Any, str] = {}
    for name, kind in kinds.items():  # a class under several names counts under the first
        if isinstance(kind, type):
            seen.setdefault(kind, name)
    return {name: kind for kind, name in seen.items()}


def _made(kind: Any, arguments: dict[str, Any]) -> nn.Module | None:
    try:
        return kind(**arguments)
    except Exception:  # any class is tried with arguments that may be another's
        return None


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items() if hasattr(tensor, "shape")}


def named_tensors(entry: Entry) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of the file; a model that was saved within another has that one's prefix, which is left out."""
    from zoo.storage.checkpoint import tensors

    prefix = None
    for name, tensor in tensors(entry):
        if prefix is None:
            prefix = "model." if name.startswith("model.") else ""
        yield name.removeprefix(prefix), tensor


def save_library_model(folder: Path, config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> None:
    """Write config.json and model.pth as PyG's `PyGModelHubMixin` does.

    Args:
        folder: where to; it is made if it is missing.
        config: the arguments.
        state_dict: the weights.

    Raises:
        OutputError: a file cannot be written.
    """
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    atomic.write_json(folder / CONFIG, dict(config))
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state_dict.items()}
    torch.save(plain, folder / WEIGHTS)
