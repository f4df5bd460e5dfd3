"""The configuration of a U-Net and of its noise schedule. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import CheckpointError, Head, Heads
from zoo.storage.config_json import model_folder, read_config, read_json_object

if TYPE_CHECKING:
    from torch import Tensor

    from zoo import Entry, Quantization

# Keys of a configuration that are this plugin's. diffusers passes over a file's keys that begin with "_".
SCHEDULER = "scheduler"
CLASS_NAMES = "_class_names"


def recognises(config: dict[str, Any]) -> bool:
    """Return whether a configuration is a U-Net's, or a pipeline's of such a U-Net and a scheduler."""
    if config.get("_class_name") == "UNet2DModel":
        return True
    # A pipeline's model_index.json. Latent pipelines hold further parts (a VAE, a text encoder) and are not ours.
    parts = {name for name in config if not name.startswith("_")}
    return parts == {"unet", "scheduler"} and config["unet"] == ["diffusers", "UNet2DModel"]


def quantize(name: str, weight: Tensor, scheme: Quantization) -> Tensor | None:
    """Keep the first and the last convolution in full precision in 4 bit.

    Every pixel passes through these two, under 0.1 % of a U-Net. On the embedded model 4 bit takes the noise error
    from .0153 to .0262 with them and to .0168 without; 8 bit costs nothing either way.
    """
    return weight if scheme.bits == 4 and name in ("conv_in.weight", "conv_out.weight") else None


def unet_folder(entry: Entry) -> Path | None:
    """Return where the U-Net's files lie: the entry's folder, or `unet/` in a pipeline's; None without files."""
    return model_folder(entry, "unet")


def unet_config(entry: Entry) -> dict[str, Any]:
    """Return `UNet2DModel`'s configuration: from the files where they are there, else as the registry has it.

    With the classes and the size that `entry.head` asks for.

    Raises:
        CheckpointError: there is none, or it is another class's.
    """
    config, head = _stored(entry), entry.head
    if head is not None and head.task is not None:
        config |= {"num_class_embeds": head.count, CLASS_NAMES: list(head.labels)}
    if head is not None and head.image_size is not None:
        height, width = head.image_size
        config["sample_size"] = height if height == width else [height, width]
    return config


def _stored(entry: Entry) -> dict[str, Any]:
    config = read_config(entry, "unet", class_name="UNet2DModel")
    return {key: value for key, value in config.items() if key != SCHEDULER}


def heads(entry: Entry) -> Heads:
    """Return that the classes which the U-Net is conditioned on can be others, and images of another size.

    It is the embedding of the classes that is new; one of a class that the checkpoint knows by name stays.
    """
    config = _stored(entry)
    count, names = config.get("num_class_embeds") or 0, tuple(map(str, config.get(CLASS_NAMES) or []))
    own = Head("classify", names, count) if count else None
    return Heads(("classify",), own, image_size=True)


def scheduler_config(entry: Entry) -> dict[str, Any]:
    """Return the noise schedule's configuration: the files', else the registry's, else {} (the paper's schedule)."""
    if entry.folder is not None:
        for folder in (Path(entry.folder), Path(entry.folder) / "scheduler"):
            config = read_json_object(folder / "scheduler_config.json", entry)
            if config is not None:
                return config
    return dict(entry.config.get(SCHEDULER, {}))


def class_names(entry: Entry) -> list[str]:
    """Return the classes' names, in order; none if the configuration has none."""
    names = unet_config(entry).get(CLASS_NAMES) or []
    return [str(name) for name in names]


def describe(entry: Entry) -> dict[str, str]:
    """Return facts for `zoo info` and the model card."""
    try:
        config, schedule = unet_config(entry), scheduler_config(entry)
    except CheckpointError:
        return {}
    size = config.get("sample_size")
    facts = {
        "module": "diffusers.UNet2DModel",
        "image": f"{config.get('in_channels', 3)} × {size} × {size}" if isinstance(size, int) else str(size),
        "channels": ", ".join(map(str, config.get("block_out_channels", ()))),
        "noise schedule": f"{schedule.get('beta_schedule', 'linear')}, "
        f"{schedule.get('num_train_timesteps', 1000)} steps, predicts {schedule.get('prediction_type', 'epsilon')}",
    }
    classes = config.get("num_class_embeds")
    if classes:
        names = class_names(entry)
        facts["classes"] = f"{classes}: {' '.join(names)}" if names else str(classes)
    return facts
