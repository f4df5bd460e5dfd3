"""Both networks, as the paper has them: no pooling, no dense layer, batch normalisation but at the pixels."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from zoo import CheckpointError
from zoo.storage.config_json import check_counts

if TYPE_CHECKING:
    from zoo import Entry

SIZES = ("size", "channels", "latent", "features")
SMALLEST = 4  # pixels of the first feature map


def _generator(latent: int, widths: list[int], channels: int) -> nn.Sequential:
    """Return layers that map [n, latent, 1, 1] to [n, channels, s, s] in [-1, 1]; each doubles the size.

    Args:
        latent: inputs.
        widths: features, from the pixels up.
        channels: of an image.
    """
    layers: list[nn.Module] = []
    inputs = latent
    for width in reversed(widths):
        stride, padding = (1, 0) if not layers else (2, 1)
        layers += [nn.ConvTranspose2d(inputs, width, 4, stride, padding, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.ConvTranspose2d(inputs, channels, 4, 2, 1, bias=False), nn.Tanh())


def _discriminator(widths: list[int], channels: int) -> nn.Sequential:
    """Return layers that map [n, channels, s, s] to logits [n, 1, 1, 1], high for real; each halves the size."""
    layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
    for inputs, width in pairwise(widths):
        layers += [nn.Conv2d(inputs, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, 1, 0, bias=False))


class DCGAN(nn.Module):
    """Generator and discriminator. Towards the middle the features double where the size halves.

    Args:
        size: pixels of an edge, a power of two above 4.
        channels: of an image.
        latent: numbers of z.
        features: at half size.
    """

    def __init__(self, size: int = 32, channels: int = 1, latent: int = 64, features: int = 32) -> None:
        super().__init__()
        self.size, self.channels, self.latent = size, channels, latent
        widths = [features * 2**i for i in range((size // SMALLEST).bit_length() - 1)]
        self.generator = _generator(latent, widths, channels)
        self.discriminator = _discriminator(widths, channels)
        for layer in self.modules():  # the paper's start
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(layer.weight, std=0.02)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> DCGAN:
        """Return the module of a config.json.

        Raises:
            CheckpointError: a number is missing or not possible.
        """
        check_counts(config, *SIZES)
        size, channels, latent, features = (config[name] for name in SIZES)
        if size <= SMALLEST or size & (size - 1):
            raise CheckpointError(f"config.json: expected size as a power of two above {SMALLEST}, got {size}")
        return cls(size, channels, latent, features).eval()

    def forward(self, z: Tensor) -> Tensor:
        """Return images [n, channels, size, size] in [-1, 1] of latents [n, latent]."""
        return self.generator(z[:, :, None, None])


def construct(entry: Entry) -> DCGAN:
    """Return the module of the entry's config.json, in evaluation mode."""
    return DCGAN.from_config(entry.config)
