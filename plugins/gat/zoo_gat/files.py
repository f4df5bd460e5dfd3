"""The configuration of a GAT. Imports nothing heavy.

`config.json` holds the arguments of `torch_geometric.nn.models.GAT`, as PyG's own files do; `class_names.json`, which
is this plugin's and may be missing, a list of what the classes are called.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import CheckpointError, Head, Heads
from zoo.storage import atomic
from zoo.storage.config_json import CONFIG, check_counts, read_config, read_json_file

if TYPE_CHECKING:
    from torch import Tensor

    from zoo import Entry, Quantization

CLASS_NAMES = "class_names"
_NAMES_FILE = "class_names.json"
_NEEDED = ("in_channels", "hidden_channels", "num_layers")


def recognises(config: dict[str, Any]) -> bool:
    """Return whether a configuration holds the arguments of PyG's `GAT`.

    They are all that its files hold; among the library's models only GATs have heads.
    """
    return {"in_channels", "hidden_channels", "num_layers", "heads"} <= config.keys() and "_class_name" not in config


def quantize(name: str, weight: Tensor, scheme: Quantization) -> Tensor | None:
    """Keep the attention vectors in full precision below 16 bit.

    They are one vector for each head, under 1 % of the weights, and every attention coefficient is a product with one.
    """
    kept = name.rpartition(".")[2] in ("att", "att_src", "att_dst", "att_edge")
    return weight if scheme.bits < 16 and kept else None


def gat_config(entry: Entry) -> dict[str, Any]:
    """Return `GAT`'s arguments: the files', else those of the registry; with the classes that `entry.head` asks for.

    Raises:
        CheckpointError: there are none, or some are missing.
    """
    config = {key: value for key, value in read_config(entry).items() if key != CLASS_NAMES}
    check_counts(config, *_NEEDED, where=f"{entry.name}: GAT's arguments in config.json")
    if entry.head is not None and entry.head.task is not None:
        config["out_channels"] = entry.head.count
    return config


def heads(entry: Entry) -> Heads:
    """Return that the last layer can be one for other classes of nodes."""
    plain = replace(entry, head=None)
    names, count = tuple(class_names(plain)), gat_config(plain).get("out_channels") or 0
    own = Head("classify", names if len(names) == count else (), count) if count else None
    return Heads(("classify", "multilabel"), own)


def class_names(entry: Entry) -> list[str]:
    """Return the classes' names, in order; none if no file has them."""
    if entry.head is not None and entry.head.task is not None:
        return list(entry.head.labels)
    names = read_json_file(Path(entry.folder) / _NAMES_FILE) if entry.folder else None
    if names is None:
        names = entry.config.get(CLASS_NAMES, [])
    return [str(name) for name in names]


def write(folder: Path, config: dict[str, Any], names: list[str]) -> None:
    """Write both files."""
    atomic.write_json(folder / CONFIG, config)
    if names:
        atomic.write_json(folder / _NAMES_FILE, names)


def describe(entry: Entry) -> dict[str, str]:
    """Return facts for `zoo info` and the model card."""
    try:
        config, names = gat_config(entry), class_names(entry)
    except CheckpointError:
        return {}
    facts = {
        "module": "torch_geometric.nn.models.GAT" + (", GATv2" if config.get("v2") else ""),
        "features": str(config["in_channels"]),
        "layers": f"{config['num_layers']}, {config['hidden_channels']} channels, {config.get('heads', 1)} heads",
    }
    if config.get("out_channels"):
        facts["classes"] = f"{config['out_channels']}{': ' + ' '.join(names) if names else ''}"
    return facts
