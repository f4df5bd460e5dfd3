"""The configuration of an autoencoder. Imports nothing heavy."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import CheckpointError
from zoo.storage.config_json import model_folder, read_config

if TYPE_CHECKING:
    from torch import Tensor

    from zoo import Entry, Quantization

# A key of this plugin's in the configuration: the weight of the KL term that the model was trained with. diffusers
# passes over a file's keys that begin with "_".
KL_WEIGHT = "_kl_weight"
# What the autoencoders of latent diffusion were trained with (arXiv 2112.10752, appendix G); their files do not say.
LATENT_DIFFUSION = 1e-6
# From this weight on the prior is taken to be like what the encoder makes of images.
USABLE_PRIOR = 0.1
# Every pixel or every latent passes through these four, under 0.1 % of an autoencoder. On the embedded model 4 bit
# takes the reconstruction's error from .0326 to .0366 with them and to .0336 without; 8 bit costs nothing either way.
_OUTERMOST = ("encoder.conv_in.weight", "quant_conv.weight", "post_quant_conv.weight", "decoder.conv_out.weight")


def recognises(config: dict[str, Any]) -> bool:
    """Return whether a configuration is an autoencoder's."""
    return config.get("_class_name") == "AutoencoderKL"


def quantize(name: str, weight: Tensor, scheme: Quantization) -> Tensor | None:
    """Keep the outermost convolutions in full precision in 4 bit."""
    return weight if scheme.bits == 4 and name in _OUTERMOST else None


def vae_folder(entry: Entry) -> Path | None:
    """Return where the autoencoder's files lie: the entry's folder, or `vae/` in a pipeline's; None without files."""
    return model_folder(entry, "vae")


def vae_config(entry: Entry) -> dict[str, Any]:
    """Return `AutoencoderKL`'s configuration: from the files where they are there, else as the registry has it.

    Raises:
        CheckpointError: there is none, or it is another class's.
    """
    return read_config(entry, "vae", class_name="AutoencoderKL")


def kl_weight(entry: Entry) -> float:
    """Return β: the files' configuration's, else the registry's, else 1e-6, that of every latent diffusion model.

    Raises:
        CheckpointError: it is no number from 0.
    """
    weight = vae_config(entry).get(KL_WEIGHT, entry.config.get(KL_WEIGHT, LATENT_DIFFUSION))
    number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not number or not 0 <= weight < math.inf:
        raise CheckpointError(
            f"{entry.name}: expected {KL_WEIGHT} in its configuration as a number from 0, got {weight!r}"
        )
    return float(weight)


def has_prior(entry: Entry) -> bool:
    """Return whether, by its KL weight, points of N(0, I) decode to images like those the model was trained on."""
    return kl_weight(entry) >= USABLE_PRIOR


def factor(config: dict[str, Any]) -> int:
    """Return the number of pixels of an edge that make one latent."""
    return 2 ** (len(config.get("block_out_channels", (64,))) - 1)


def describe(entry: Entry) -> dict[str, str]:
    """Return facts for `zoo info` and the model card."""
    try:
        config, weight, prior = vae_config(entry), kl_weight(entry), has_prior(entry)
    except CheckpointError:
        return {}
    size, latent = config.get("sample_size", 32), config.get("latent_channels", 4)
    side = size // factor(config) if isinstance(size, int) else None
    return {
        "module": "diffusers.AutoencoderKL",
        "image": f"{config.get('in_channels', 3)} × {size} × {size}" if side else str(size),
        "latent": f"{latent} × {side} × {side}" if side else f"{latent} channels",
        "latent scale": f"{config.get('scaling_factor', 0.18215):g}",
        "KL weight": f"{weight:g}",
        "prior": "N(0, I)" if prior else "none to sample from: it reconstructs and interpolates",
    }
