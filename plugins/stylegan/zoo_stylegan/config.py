"""The configuration of a network. Imports nothing heavy.

Keys, all optional (defaults: the published configuration at 1024 pixels, config-f): `img_resolution`,
`img_channels`, `z_dim`, `w_dim`, `c_dim` (classes, 0: none), `mapping_layers`, `conv_clamp`;
`channel_base` and `channel_max` (min(base / size, max) features at each size) or `channels`, {size: features};
`discriminator`: false, true (the same features), or a table with `channels`, `mapping_layers`, `architecture`
("resnet" or "orig") and `group` (images over which it looks at the deviation); `training`: `r1_gamma`,
`path_weight` and `mixing`; `class_names`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo import CheckpointError, Head, Heads

if TYPE_CHECKING:
    from zoo import Entry

CLASS_NAME = "StyleGAN2"
SIZES = tuple(2**power for power in range(3, 11))
_DEFAULTS: dict[str, Any] = {
    "img_resolution": 1024,
    "img_channels": 3,
    "z_dim": 512,
    "w_dim": 512,
    "c_dim": 0,
    "mapping_layers": 8,
    "conv_clamp": None,
    "channel_base": 32768,
    "channel_max": 512,
    "channels": None,
    "discriminator": False,
    "training": {},
    "class_names": [],
}
_TRAINING = {"r1_gamma": 1.0, "path_weight": 2.0, "mixing": 0.9}
_CRITIC = {"architecture": "resnet", "group": 4}


def recognises(config: dict[str, Any]) -> bool:
    """Return whether a configuration is a StyleGAN2's."""
    return config.get("_class_name") == CLASS_NAME


def complete(config: dict[str, Any], name: str = "the configuration") -> dict[str, Any]:
    """Return the configuration with every key, `channels` by size, `discriminator` a table or None.

    Raises:
        CheckpointError: a key is unknown, or a value impossible.
    """
    own = {key: value for key, value in config.items() if not key.startswith("_")}
    unknown = sorted(set(own) - set(_DEFAULTS))
    if unknown:
        raise CheckpointError(f"{name}: unknown key {unknown[0]!r}, expected {', '.join(_DEFAULTS)}")
    full = {**_DEFAULTS, **own}
    for key in ("img_resolution", "img_channels", "z_dim", "w_dim", "c_dim", "mapping_layers"):
        least = 0 if key == "c_dim" else 1
        if not isinstance(full[key], int) or isinstance(full[key], bool) or full[key] < least:
            raise CheckpointError(f"{name}: expected {key} as a whole number from {least}, got {full[key]!r}")
    size = full["img_resolution"]
    if size not in SIZES:
        raise CheckpointError(f"{name}: expected img_resolution as one of {', '.join(map(str, SIZES))}, got {size}")
    base, most = full.pop("channel_base"), full.pop("channel_max")
    sizes = [2**power for power in range(2, size.bit_length())]
    automatic = {str(one): max(1, min(base // one, most)) for one in sizes}
    full["channels"] = _channels(full["channels"] or automatic, sizes, name)
    full["training"] = {**_TRAINING, **full["training"]}
    critic = full["discriminator"]
    if not critic:
        full["discriminator"] = None
        return full
    critic = {**_CRITIC, "mapping_layers": full["mapping_layers"], **(critic if isinstance(critic, dict) else {})}
    critic["channels"] = _channels(critic.get("channels") or full["channels"], sizes, f"{name}, discriminator")
    if critic["architecture"] not in ("resnet", "orig"):
        raise CheckpointError(
            f"{name}: expected a discriminator's architecture as resnet or orig, got {critic['architecture']!r}"
        )
    full["discriminator"] = critic
    return full


def _channels(channels: dict[str, int], sizes: list[int], name: str) -> dict[str, int]:
    """Return the features at each size, in order of size."""
    found = {str(size): count for size, count in channels.items()}
    if set(found) != {str(size) for size in sizes} or not all(isinstance(n, int) and n > 0 for n in found.values()):
        raise CheckpointError(
            f"{name}: expected channels as a number for each of {', '.join(map(str, sizes))}, got {channels}"
        )
    return {str(size): found[str(size)] for size in sizes}


def with_classes(config: dict[str, Any], entry: Entry) -> dict[str, Any]:
    """Return a configuration with the classes that `entry.head` asks for.

    Raises:
        CheckpointError: the network has no classes so far.
    """
    if entry.head is None or entry.head.task is None:
        return config
    if not config.get("c_dim"):
        raise CheckpointError(
            f"{entry.name}: its generator was trained without classes, and to give it some would begin its mapping "
            "network anew: leave classes out, or load a conditional one"
        )
    return {**config, "c_dim": entry.head.count, "class_names": list(entry.head.labels)}


def heads(entry: Entry) -> Heads:
    """Return that the classes of a conditional generator can be others: their embeddings are then new."""
    config = stored(entry)
    count, names = config.get("c_dim") or 0, tuple(class_names(config))
    own = Head("classify", names if len(names) == count else (), count) if count else None
    return Heads(("classify",), own)


def stored(entry: Entry) -> dict[str, Any]:
    """Return the configuration as the entry or its file in another format has it."""
    from . import foreign

    path = foreign.find(entry.folder)
    return foreign.read(path).config if path else entry.config


def class_names(config: dict[str, Any]) -> list[str]:
    """Return the classes' names, in order; none if the configuration has none."""
    return [str(name) for name in config.get("class_names") or []]


def describe(entry: Entry) -> dict[str, str]:
    """Return facts for `zoo info` and the model card."""
    try:
        config = complete(with_classes(entry.config, entry), entry.name)
    except CheckpointError:
        return {}
    size = config["img_resolution"]
    critic = config["discriminator"]
    facts = {
        "module": "zoo_stylegan.StyleGAN2",
        "image": f"{config['img_channels']} × {size} × {size}",
        "latent": f"z of {config['z_dim']}, w of {config['w_dim']}, {config['mapping_layers']} mapping layers",
        "channels": ", ".join(map(str, config["channels"].values())) + f" (4 to {size} pixels)",
        "discriminator": f"{critic['architecture']}, carried" if critic else "none in the configuration",
    }
    if config["c_dim"]:
        names = class_names(config)
        facts["classes"] = f"{config['c_dim']}: {' '.join(names)}" if names else str(config["c_dim"])
    if entry.license and "non-commercial" in entry.license.lower():
        facts["warning"] = "the published weights are for non-commercial use only"
    return facts
