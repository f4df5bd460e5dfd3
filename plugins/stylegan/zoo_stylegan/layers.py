"""StyleGAN2's layers, written from the paper (Karras et al., arXiv 1912.04958) in plain torch.

Weights are stored as drawn, from N(0, 1), and multiplied by a gain when they are used ("equalised learning rate"), so
that parameters and names are those of the published networks. Weights are only ever passed to torch's functions, so
that a lazy weight, quantized or adapted, works in place of a parameter. Shapes: n batch, c channels, h × w pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.plugin.draws import Draws

SQRT2 = math.sqrt(2)
SLOPE = 0.2
NOISE = ("const", "random", "none")


def filter_kernel() -> Tensor:
    """Return the low-pass filter [1, 3, 3, 1] ⊗ [1, 3, 3, 1] with sum 1, as a kernel [1, 1, 4, 4]."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    return (taps[:, None] * taps[None, :])[None, None]


def filtered(x: Tensor, kernel: Tensor, padding: int, gain: float = 1.0, stride: int = 1) -> Tensor:
    """Filter each channel of x [n, c, h, w] times `gain`, with `padding` zeros at every side."""
    weight = (kernel.to(x.dtype) * gain).expand(x.shape[1], 1, 4, 4)  # [c, 1, 4, 4]
    return F.conv2d(x, weight, padding=padding, stride=stride, groups=x.shape[1])


def upsampled(x: Tensor, kernel: Tensor) -> Tensor:
    """Upsample x [n, c, h, w] to [n, c, 2h, 2w]: a zero after every pixel, then the filter."""
    # A transposed convolution with a symmetric filter is just that; its outermost ring lies outside the image.
    weight = (kernel.to(x.dtype) * 4.0).expand(x.shape[1], 1, 4, 4)  # [c, 1, 4, 4]
    return F.conv_transpose2d(x, weight, stride=2, padding=1, groups=x.shape[1])


def normalised(x: Tensor) -> Tensor:
    """Scale x [n, d] to mean square 1 in every row."""
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-8)


class Dense(nn.Module):
    """A fully connected layer: gain multiplier / √inputs on the weight and `multiplier` on the bias."""

    def __init__(
        self, inputs: int, outputs: int, *, bias: float = 0.0, multiplier: float = 1.0, activate: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / multiplier)
        self.bias = nn.Parameter(torch.full((outputs,), bias))
        self.gain, self.multiplier, self.activate = multiplier / math.sqrt(inputs), multiplier, activate
        self.start = bias

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the weight anew, and set the bias to what it began with."""
        self.weight.normal_().div_(self.multiplier)
        self.bias.fill_(self.start)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [n, inputs] to [n, outputs]."""
        y = F.linear(x * self.gain, self.weight, self.bias * self.multiplier)  # [n, outputs]
        return F.leaky_relu(y, SLOPE) * SQRT2 if self.activate else y


class Conv(nn.Module):
    """The discriminator's convolution: gain 1 / √(inputs · kernel²). `down`: filter, then every second pixel.

    clamp: outputs are limited to ±clamp, as networks that were trained in half precision need it; None for no limit.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        *,
        bias: bool = True,
        down: bool = False,
        scale: float = 1.0,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.register_buffer("resample_filter", filter_kernel(), persistent=False)
        self.gain, self.scale, self.down, self.padding = 1 / math.sqrt(inputs * kernel**2), scale, down, kernel // 2
        self.clamp = clamp

    def forward(self, x: Tensor) -> Tensor:
        """Map x [n, inputs, h, w] to [n, outputs, h, w] or half of it; with a bias to √2 · leaky(y + b) · scale."""
        if self.down and self.padding == 0:
            y = F.conv2d(filtered(x, self.resample_filter, 1, stride=2), self.weight)
        elif self.down:
            y = F.conv2d(filtered(x, self.resample_filter, 2), self.weight, stride=2)
        else:
            y = F.conv2d(x, self.weight, padding=self.padding)
        if self.bias is None:
            y = y * (self.gain * self.scale)
        else:
            y = activated(self.bias[:, None, None], y, self.gain, self.scale)
        return y if self.clamp is None else y.clamp(-self.clamp * self.scale, self.clamp * self.scale)


def activated(bias: Tensor, y: Tensor, gain: float = 1.0, scale: float = 1.0) -> Tensor:
    """Return leaky(gain · y + bias) · √2 · scale; the factors go before the (positively homogeneous) activation."""
    factor = SQRT2 * scale
    return F.leaky_relu(torch.add(bias * factor, y, alpha=gain * factor), SLOPE)


class ModulatedConv(nn.Module):
    """A convolution whose inputs the style scales and whose outputs are normalised to unit variance, with noise.

    With s = affine(w): y = d ⊙ conv(s ⊙ x, W), d_o = (Σ (s_i W_oik)² + 1e-8)^-½. Scaling activations instead of making
    a weight per sample is the same sum in another order, and lets one weight, quantized or adapted, serve the batch.
    The weight's gain cancels in d (and so has no part in it).
    """

    def __init__(
        self, inputs: int, outputs: int, latent: int, size: int, *, up: bool = False, clamp: float | None = None
    ) -> None:
        super().__init__()
        self.affine = Dense(latent, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("noise_const", torch.randn(size, size))
        self.register_buffer("resample_filter", filter_kernel(), persistent=False)
        self.gain, self.up, self.clamp = 1 / math.sqrt(9 * inputs), up, clamp

    def forward(
        self, x: Tensor, w: Tensor, noise: str = "const", generator: torch.Generator | Draws | None = None
    ) -> Tensor:
        """Map x [n, inputs, h, w], w [n, latent] to [n, outputs, h, w] or twice that; for `noise` see `NOISE`."""
        style = self.affine(w)  # [n, inputs]
        if self.up:
            dense = self.weight.transpose(0, 1)  # a transposed convolution's weight is [inputs, outputs, …]
            energy = dense.square().sum(dim=(2, 3)).t()  # [outputs, inputs]
            y = F.conv_transpose2d(x * style[:, :, None, None], dense, stride=2)
            y = filtered(y, self.resample_filter, 1, gain=4.0)
        else:
            energy = self.weight.square().sum(dim=(2, 3))  # [outputs, inputs]
            y = F.conv2d(x * style[:, :, None, None], self.weight, padding=1)
        demodulation = torch.rsqrt(F.linear(style.square(), energy) + 1e-8)[:, :, None, None]  # [n, outputs, 1, 1]
        y = torch.addcmul(self.bias[:, None, None] * SQRT2, y, demodulation * SQRT2)
        if noise != "none":
            y = y + self._noise(y, noise, generator) * (self.noise_strength * SQRT2)
        y = F.leaky_relu(y, SLOPE)
        return y if self.clamp is None else y.clamp(-self.clamp, self.clamp)

    def _noise(self, y: Tensor, noise: str, generator: torch.Generator | Draws | None) -> Tensor:
        if noise == "const":
            return self.noise_const.to(y.dtype)
        shape = (y.shape[0], 1, *y.shape[2:])
        if generator is None:
            return torch.randn(shape, dtype=y.dtype, device=y.device)
        if isinstance(generator, Draws):
            return generator.normal(shape).to(y)
        return torch.randn(shape, generator=generator, device=generator.device).to(y)


class ToRGB(nn.Module):
    """A 1×1 convolution to colours whose inputs the style scales: gain 1 / √inputs, no normalisation, no activation."""

    def __init__(self, inputs: int, colours: int, latent: int, clamp: float | None = None) -> None:
        super().__init__()
        self.affine = Dense(latent, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(colours, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(colours))
        self.gain, self.clamp = 1 / math.sqrt(inputs), clamp

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Map x [n, inputs, h, w], w [n, latent] to [n, colours, h, w]."""
        style = self.affine(w) * self.gain  # [n, inputs]
        y = F.conv2d(x * style[:, :, None, None], self.weight) + self.bias[:, None, None]
        return y if self.clamp is None else y.clamp(-self.clamp, self.clamp)
