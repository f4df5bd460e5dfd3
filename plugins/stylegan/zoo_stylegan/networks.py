"""StyleGAN2's networks: mapping, synthesis with skip connections, discriminator, under the published names."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.plugin.draws import Draws

from .config import complete
from .layers import NOISE, Conv, Dense, ModulatedConv, ToRGB, filter_kernel, normalised, upsampled

HALF = math.sqrt(0.5)


class Mapping(nn.Module):
    """z (and a class) → w: `fc0` … with the learning rate multiplier 0.01. inputs 0: the class alone."""

    def __init__(self, inputs: int, classes: int, outputs: int, layers: int, *, average: bool = True) -> None:
        super().__init__()
        self.inputs, self.classes, self.layers = inputs, classes, layers
        if classes:
            self.embed = Dense(classes, outputs)
        width = inputs + (outputs if classes else 0)
        for i in range(layers):
            self.add_module(f"fc{i}", Dense(width if i == 0 else outputs, outputs, multiplier=0.01, activate=True))
        if average:
            self.register_buffer("w_avg", torch.zeros(outputs))

    def forward(self, z: Tensor | None, labels: Tensor | None = None) -> Tensor:
        """Map z [n, inputs], labels [n] (or one row of weights per class, [n, classes]) to w [n, outputs]."""
        parts = [] if z is None or not self.inputs else [normalised(z)]
        if self.classes:
            if labels is None:
                raise ValueError(f"this network is conditional: give labels from 0 to {self.classes - 1}")
            rows = F.one_hot(labels, self.classes) if labels.dim() == 1 else labels
            parts.append(normalised(self.embed(rows.to(self.embed.bias.dtype))))
        w = torch.cat(parts, dim=1)
        for i in range(self.layers):
            w = self.get_submodule(f"fc{i}")(w)
        return w


class SynthesisBlock(nn.Module):
    """One resolution: `conv0` doubles the size (at 4 × 4 the constant stands instead), `conv1` keeps it."""

    def __init__(self, inputs: int, outputs: int, latent: int, size: int, colours: int, clamp: float | None) -> None:
        super().__init__()
        if inputs:
            self.conv0 = ModulatedConv(inputs, outputs, latent, size, up=True, clamp=clamp)
        else:
            self.const = nn.Parameter(torch.randn(outputs, size, size))
        self.conv1 = ModulatedConv(outputs, outputs, latent, size, clamp=clamp)
        self.torgb = ToRGB(outputs, colours, latent, clamp)
        self.register_buffer("resample_filter", filter_kernel(), persistent=False)
        self.first = not inputs

    def forward(
        self,
        x: Tensor | None,
        image: Tensor | None,
        ws: list[Tensor],
        noise: str,
        generator: torch.Generator | Draws | None,
    ) -> tuple[Tensor, Tensor]:
        """Map features and image of the resolution before (None at first) to those of this one.

        Args:
            x: features [n, inputs, h, w].
            image: [n, colours, h, w].
            ws: one w [n, latent] per layer.
            noise: see `NOISE`.
            generator: of random noise; None: torch's own.
        """
        if self.first or x is None or image is None:
            x = self.const.unsqueeze(0).expand(ws[0].shape[0], -1, -1, -1)
            x = self.conv1(x.to(ws[0].dtype), ws[0], noise, generator)
            return x, self.torgb(x, ws[1])
        x = self.conv0(x, ws[0], noise, generator)
        x = self.conv1(x, ws[1], noise, generator)
        return x, upsampled(image, self.resample_filter) + self.torgb(x, ws[2])


class Synthesis(nn.Module):
    """ws → image. channels: features at each resolution, 4 and on, each twice the one before."""

    def __init__(self, latent: int, channels: dict[int, int], colours: int, clamp: float | None = None) -> None:
        super().__init__()
        self.sizes = sorted(channels)
        before = 0
        for size in self.sizes:
            self.add_module(f"b{size}", SynthesisBlock(before, channels[size], latent, size, colours, clamp))
            before = channels[size]
        self.num_ws = 2 * len(self.sizes)

    def forward(self, ws: Tensor, noise: str = "const", generator: torch.Generator | Draws | None = None) -> Tensor:
        """Map ws [n, num_ws, latent] to images [n, colours, size, size], about [-1, 1]."""
        if noise not in NOISE:
            raise ValueError(f"noise is one of {', '.join(NOISE)}; got {noise!r}")
        each = list(ws.unbind(dim=1))
        x = image = None
        used = 0
        for size in self.sizes:
            layers = 1 if size == self.sizes[0] else 2
            # A block's colours share their w with the next block's first convolution.
            x, image = self.get_submodule(f"b{size}")(x, image, each[used : used + layers + 1], noise, generator)
            used += layers
        return image


class Generator(nn.Module):
    """z → w → image."""

    def __init__(self, z: int, classes: int, w: int, layers: int, channels: dict[int, int], colours: int, clamp: Any):
        super().__init__()
        self.mapping = Mapping(z, classes, w, layers)
        self.synthesis = Synthesis(w, channels, colours, clamp)

    def forward(
        self,
        z: Tensor,
        labels: Tensor | None = None,
        *,
        psi: float = 1.0,
        cutoff: int | None = None,
        noise: str = "const",
        generator: torch.Generator | Draws | None = None,
    ) -> Tensor:
        """Map z [n, z], labels [n] to images [n, colours, size, size], about [-1, 1].

        `psi` is the truncation, w_avg + psi (w - w_avg), in the first `cutoff` layers (None: in all).
        """
        return self.synthesis(self.styles(self.mapping(z, labels), psi, cutoff), noise, generator)

    def styles(self, w: Tensor, psi: float = 1.0, cutoff: int | None = None) -> Tensor:
        """Map w [n, w] to one w per layer, [n, num_ws, w], truncated."""
        ws = w.unsqueeze(1).expand(-1, self.synthesis.num_ws, -1)
        if psi == 1.0:
            return ws
        cut = torch.lerp(self.mapping.w_avg.to(w.dtype), ws, psi)
        return cut if cutoff is None else torch.cat([cut[:, :cutoff], ws[:, cutoff:]], dim=1)


class DiscriminatorBlock(nn.Module):
    """Two convolutions, the second to half the size; `residual`: beside a 1×1 one, scaled to the same variance."""

    def __init__(self, inputs: int, outputs: int, colours: int, clamp: float | None, residual: bool = True) -> None:
        super().__init__()
        if colours:
            self.fromrgb = Conv(colours, inputs, 1, clamp=clamp)
        self.conv0 = Conv(inputs, inputs, clamp=clamp)
        self.conv1 = Conv(inputs, outputs, down=True, scale=HALF if residual else 1.0, clamp=clamp)
        self.skip = Conv(inputs, outputs, 1, bias=False, down=True, scale=HALF) if residual else None
        self.first = bool(colours)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [n, inputs (at first: colours), h, w] to [n, outputs, h/2, w/2]."""
        if self.first:
            x = self.fromrgb(x)
        y = self.conv1(self.conv0(x))
        return y if self.skip is None else self.skip(x) + y


class DiscriminatorEpilogue(nn.Module):
    """4 × 4 features, with the deviation over a group of images as one channel more → `outputs` numbers."""

    def __init__(self, channels: int, outputs: int, clamp: float | None, group: int = 4) -> None:
        super().__init__()
        self.group = group
        self.conv = Conv(channels + 1, channels, clamp=clamp)
        self.fc = Dense(channels * 16, channels, activate=True)
        self.out = Dense(channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [n, channels, 4, 4] to [n, outputs]."""
        return self.out(self.fc(self.conv(with_deviation(x, self.group)).flatten(1)))


def with_deviation(x: Tensor, most: int = 4) -> Tensor:
    """Return x [n, c, h, w] with one channel more: the mean deviation of its features over the images of a group.

    Groups have `most` images, or fewer where n is no multiple of that.
    """
    n, c, h, w = x.shape
    group = next(size for size in range(min(most, n), 0, -1) if n % size == 0)
    groups = x.reshape(group, n // group, c, h, w)
    variance = (groups - groups.mean(dim=0)).square().mean(dim=0)  # [n / group, c, h, w]
    deviation = (variance + 1e-8).sqrt().mean(dim=(1, 2, 3))  # [n / group]
    return torch.cat([x, deviation.repeat(group)[:, None, None, None].expand(-1, 1, h, w)], dim=1)


class Discriminator(nn.Module):
    """An image (and its class) → a logit, positive for "real"; with classes a projection on the class's embedding."""

    def __init__(
        self,
        classes: int,
        layers: int,
        channels: dict[int, int],
        colours: int,
        clamp: float | None,
        *,
        architecture: str = "resnet",
        group: int = 4,
    ) -> None:
        super().__init__()
        self.sizes = sorted(channels, reverse=True)
        residual, last = architecture == "resnet", channels[4]
        for size in self.sizes[:-1]:
            first = colours if size == self.sizes[0] else 0
            block = DiscriminatorBlock(channels[size], channels[size // 2], first, clamp, residual)
            self.add_module(f"b{size}", block)
        self.b4 = DiscriminatorEpilogue(last, last if classes else 1, clamp, group)
        if classes:
            self.mapping = Mapping(0, classes, last, layers, average=False)
        self.classes = classes

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map images [n, colours, size, size] in [-1, 1], labels [n] to logits [n]."""
        x = images
        for size in self.sizes[:-1]:
            x = self.get_submodule(f"b{size}")(x)
        x = self.b4(x)
        if not self.classes:
            return x.squeeze(1)
        return (x * self.mapping(None, labels)).sum(dim=1) / math.sqrt(x.shape[1])


class StyleGAN2(nn.Module):
    """A generator and, where there is one, the discriminator that it was trained against.

    `config`: see `config.py`. Called, it generates. `path_length`: the running mean of path length
    regularisation, 0 before its first use.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        config = complete(config)
        channels = {int(size): count for size, count in config["channels"].items()}
        classes, colours, clamp = config["c_dim"], config["img_channels"], config["conv_clamp"]
        self.config = config
        self.generator = Generator(
            config["z_dim"], classes, config["w_dim"], config["mapping_layers"], channels, colours, clamp
        )
        self.discriminator = None
        if config["discriminator"] is not None:
            self.discriminator = self.new_discriminator()
        self.register_buffer("path_length", torch.zeros([]))

    def new_discriminator(self) -> Discriminator:
        """Return a discriminator for this generator, with random weights."""
        config = self.config
        own = config["discriminator"] or complete({**config, "discriminator": True})["discriminator"]
        return Discriminator(
            config["c_dim"],
            own["mapping_layers"],
            {int(size): count for size, count in own["channels"].items()},
            config["img_channels"],
            config["conv_clamp"],
            architecture=own["architecture"],
            group=own["group"],
        )

    def forward(self, z: Tensor, labels: Tensor | None = None, **options: Any) -> Tensor:
        """Return images [n, colours, size, size]; see `Generator.forward`."""
        return self.generator(z, labels, **options)
