"""What an entry's configuration says. Imports nothing heavy.

`config.json` holds the arguments of `torch_geometric.nn.models.GAT`, as PyG's own files do; `class_names.json`, which
is this plugin's and may be missing, a list of what the classes are called.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import CheckpointError

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
    """`GAT`'s arguments: from the files where they are there, else as the registry has them.

    Raises `CheckpointError` where they are not there or not whole.
    """
    config = _read(Path(entry.folder) / "config.json") if entry.folder else None
    if config is None:
        config = dict(entry.config)
    if not isinstance(config, dict):
        raise CheckpointError(f"{entry.name}: config.json must hold a JSON object; it holds a {type(config).__name__}.")
    config = {key: value for key, value in config.items() if key != CLASS_NAMES}
    for key in _NEEDED:
        value = config.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise CheckpointError(
                f"{entry.name} needs GAT's arguments in config.json, {', '.join(_NEEDED)} among them, as whole numbers "
                f"from 1; {key} is {value!r}."
            )
    return config


def class_names(entry: Entry) -> list[str]:
    """What the classes are called, in order; empty if nothing says so."""
    names = _read(Path(entry.folder) / _NAMES_FILE) if entry.folder else None
    if names is None:
        names = entry.config.get(CLASS_NAMES, [])
    return [str(name) for name in names]


def write(folder: Path, config: dict[str, Any], names: list[str]) -> None:
    """Write both files."""
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if names:
        (folder / _NAMES_FILE).write_text(json.dumps(names) + "\n", encoding="utf-8")


def describe(entry: Entry) -> dict[str, str]:
    """Facts for `zoo info` and the model card."""
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


def _read(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not readable JSON ({error}); download it again.") from error
