"""Pixels: images of any type and layout as float32 tensors [n, c, h, w] in [-1, 1].

Shapes: n images of c channels, h × w pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


_MOST = 8  # channels of an image


def with_channels(images: Tensor, channels: int) -> Tensor:
    """Return images [n, c, h, w] in [-1, 1] with `channels` channels: grey ↔ colour; transparency becomes white.

    Raises:
        DataError: there is no way from the one number of channels to the other.
    """
    if images.shape[1] == channels:
        return images
    if images.shape[1] == 4:
        ink, alpha = images[:, :3], images[:, 3:] / 2 + 0.5  # [n, 3, h, w], [n, 1, h, w] in [0, 1]
        images = ink * alpha + (1 - alpha)
    if images.shape[1] == 3 and channels == 1:  # ITU-R BT.601 luma, as Pillow's mode L
        return (images * images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    if images.shape[1] == 1 and channels > 1:
        return images.expand(-1, channels, -1, -1)
    if images.shape[1] != channels:
        known = "1, 3 or 4" if channels in (1, 3, 4) else f"1 or {channels}"
        raise DataError(f"expected images of {known} channels: {images.shape[1]} channels do not become {channels}")
    return images


def edges(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return height and width of images whose size is one number for both, or both."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def fit(images: Tensor, size: int | tuple[int, int], channels: int) -> Tensor:
    """Return images [n, c, h, w] in [-1, 1] as [n, channels, *size], scaled to cover and cropped to the middle."""
    import torch

    images = with_channels(images, channels)
    height, width = images.shape[-2:]
    rows, columns = edges(size)
    scale = max(rows / height, columns / width)
    if (height, width) != (rows, columns):
        shape = (max(rows, round(height * scale)), max(columns, round(width * scale)))
        images = torch.nn.functional.interpolate(
            images, shape, mode="bilinear", align_corners=False, antialias=True
        ).clamp(-1, 1)  # [n, channels, *shape]
        top, left = (shape[0] - rows) // 2, (shape[1] - columns) // 2
        images = images[..., top : top + rows, left : left + columns]  # [n, channels, rows, columns]
    return images.contiguous()


def as_batch(images: Any) -> Tensor:
    """Return a tensor or an array of images, in any layout, as float32 [n, c, h, w] in [-1, 1]."""
    import torch

    if not len(images):
        return torch.empty(0, 1, 1, 1)
    group = channels_first(torch.as_tensor(images))
    return scaled(group, is_signed([group]))


def is_signed(groups: list[Tensor]) -> bool:
    """Return whether floats lie in [-1, 1].

    One image may have no dark pixel, so this is judged over all of them.
    """
    return any(group.is_floating_point() and bool(group.min() < 0) for group in groups)


def as_single(image: Any, span: tuple[float, float] | None = None) -> Tensor:
    """Return one PIL image, tensor or array as [1, c, h, w], bytes or floats.

    Args:
        image: of any mode that Pillow has.
        span: the values that are black and white in a picture of 32-bit numbers; None: `span_of` this picture's own.

    Raises:
        DataError: it is none of them.
    """
    import numpy as np
    import torch
    from PIL import Image

    if isinstance(image, Image.Image):
        if image.mode.startswith("I;16"):
            return torch.from_numpy(np.array(image).astype(np.float32) / 65535)[None, None]
        if is_wide(image):
            values = np.array(image).astype(np.float64)  # [h, w]
            low, high = span or span_of(float(values.min()), float(values.max()))
            return torch.from_numpy(((values - low) / (high - low)).clip(0, 1).astype(np.float32))[None, None]
        return channels_first(torch.from_numpy(np.array(_with_alpha_or_plain(image)))[None])
    if isinstance(image, list):
        image = np.asarray(image)
    if isinstance(image, torch.Tensor | np.ndarray):
        return channels_first(torch.as_tensor(image)[None])
    raise DataError(f"expected an image as a PIL image, a tensor or an array, got {type(image).__name__}")


def is_pil(value: Any) -> bool:
    """Return whether something is a picture of Pillow, without importing it; tensors have a `mode` too."""
    return hasattr(value, "mode") and not hasattr(value, "ndim")


def is_wide(image: Image) -> bool:
    """Return whether a picture's values are 32-bit numbers, of which nothing says what is white."""
    return image.mode in ("I", "F")


def span_of(low: float, high: float) -> tuple[float, float]:
    """Return which values are black and white among 32-bit numbers from `low` to `high`.

    They are 0 and the first of 1, 255, 65535 that is not exceeded, or -1 and 1; else the lowest and the highest value.

    Raises:
        DataError: a value is not finite.
    """
    import math

    if not (math.isfinite(low) and math.isfinite(high)):
        raise DataError(f"expected a picture of finite numbers, got values from {low} to {high}: mend the file")
    if low >= 0:
        top = next((float(top) for top in (1, 255, 65535) if high <= top), None)
        if top is not None:
            return 0.0, top
    elif low >= -1 and high <= 1:
        return -1.0, 1.0
    return (low, high) if low < high else (low - 1, high)


def as_picture(image: Image, channels: int) -> Image:
    """Return a picture of any mode as one of mode L (1 channel) or RGB (3), 8 bits each; transparency becomes white."""
    import numpy as np
    from PIL import Image as PIL

    if image.mode.startswith("I;16") or is_wide(image):
        values = as_single(image)[0, 0].numpy()  # [h, w] in [0, 1]
        image = PIL.fromarray((values * 255).round().astype(np.uint8))
    image = _with_alpha_or_plain(image)
    if image.mode == "RGBA":
        image = PIL.alpha_composite(PIL.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")


def _with_alpha_or_plain(image: Image) -> Image:
    """Return a picture of 8 bits as one of mode L, RGB or, where something is transparent, RGBA.

    Raises:
        DataError: Pillow does not convert its mode.
    """
    try:
        if image.mode in ("RGBa", "La"):
            image = image.convert("RGBA" if image.mode == "RGBa" else "LA")
        if ("A" in image.mode and image.mode != "LAB") or "transparency" in image.info:
            return image.convert("RGBA")
        return image if image.mode in ("L", "RGB") else image.convert("L" if image.mode == "1" else "RGB")
    except ValueError as error:
        raise DataError(f"a picture of mode {image.mode} does not convert ({error}): save it as RGB") from None


def channels_first(images: Tensor) -> Tensor:
    """Return images [n, c, h, w], [n, h, w, c] or [n, h, w] as [n, c, h, w].

    Raises:
        DataError: they have another shape.
    """
    if images.ndim == 3:
        return images[:, None]
    for usual in ((1, 3, 4), range(1, _MOST + 1)):
        if images.ndim == 4 and images.shape[1] in usual:
            return images
        if images.ndim == 4 and images.shape[-1] in usual:
            return images.permute(0, 3, 1, 2)
    raise DataError(
        f"expected images as [n, c, h, w], [n, h, w, c] or [n, h, w] with 1 to {_MOST} channels, "
        f"got {images.ndim} dimensions of {list(images.shape)}"
    )


def scaled(images: Tensor, signed: bool) -> Tensor:
    """Return images as float32 in [-1, 1], from 8 or 16 bits, booleans or floats in [0, 1] or, if `signed`, in [-1, 1].

    Raises:
        DataError: they are of another type, or their values lie elsewhere.
    """
    import torch

    if images.dtype == torch.uint8:
        return images.float() / 127.5 - 1
    if images.dtype == torch.bool:
        return images.float() * 2 - 1
    if images.dtype == torch.uint16:
        return images.float() / 32767.5 - 1
    if not images.is_floating_point():
        raise DataError(f"expected images of bytes (uint8) or floats, got {images.dtype}: convert them first")
    images = images.float()
    low, high = images.aminmax()
    if not (torch.isfinite(low) and torch.isfinite(high)) or low < -1.001 or high > 1.001:
        raise DataError(f"expected float images in [0, 1] or [-1, 1], got values from {low:.4g} to {high:.4g}")
    return images.clamp(-1, 1) if signed else images.clamp(0, 1) * 2 - 1
