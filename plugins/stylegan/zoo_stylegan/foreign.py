"""Read networks of other repositories under this one's names: NVlabs's `.pkl` and rosinality's `.pt`.

The key layouts are taken as facts; no code of either is used. Both hold the same networks: outputs agree to rounding.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo import CheckpointError

from . import pickles
from .layers import filter_kernel
from .networks import Mapping

G, D = "generator.", "discriminator."
_INNER = {
    "conv.weight": "weight",
    "conv.modulation.weight": "affine.weight",
    "conv.modulation.bias": "affine.bias",
    "noise.weight": "noise_strength",
    "activate.bias": "bias",
    "bias": "bias",
}
_CRITIC = {
    "conv1.0.weight": "conv0.weight",
    "conv1.1.bias": "conv0.bias",
    "conv2.1.weight": "conv1.weight",
    "conv2.2.bias": "conv1.bias",
    "skip.1.weight": "skip.weight",
}
_CRITIC_END = {
    "final_conv.0.weight": "b4.conv.weight",
    "final_conv.1.bias": "b4.conv.bias",
    "final_linear.0.weight": "b4.fc.weight",
    "final_linear.0.bias": "b4.fc.bias",
    "final_linear.1.weight": "b4.out.weight",
    "final_linear.1.bias": "b4.out.bias",
}


class Networks(NamedTuple):
    """The content of a file.

    Attributes:
        config: the configuration that its tensors imply.
        tensors: the tensors under this plugin's names.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]


def find(folder: Path | None) -> Path | None:
    """Return the `.pkl` or `.pt` file of a folder that has no weights in zoo's own form; None if there is none.

    Raises:
        CheckpointError: there are several.
    """
    if folder is None or any(folder.glob("*.safetensors")) or any(folder.glob("*.bin")):
        return None
    found = sorted([*folder.glob("*.pkl"), *folder.glob("*.pt")])
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise CheckpointError(f"{folder}: expected one .pkl or .pt file, got {names}: keep one of them in a folder")
    return found[0] if found else None


def read(path: Path) -> Networks:
    """Return the content of a file.

    Raises:
        CheckpointError: it is no StyleGAN2, or holds code to run.
    """
    from zoo.storage.sums import verify

    verify(path.parent, [path])
    stamp = path.stat()
    return _read(path, stamp.st_mtime_ns, stamp.st_size)


@lru_cache(maxsize=1)  # read twice while loading: for the configuration, and for the weights
def _read(path: Path, modified: int, size: int) -> Networks:
    return _nvlabs(path) if path.suffix == ".pkl" else _rosinality(path)


def forget() -> None:
    """Free the file that was read last."""
    _read.cache_clear()


def _nvlabs(path: Path) -> Networks:
    networks = pickles.read(path)
    held = networks.get("G_ema") or networks.get("G")
    if held is None:
        raise CheckpointError(f"{path}: expected a generator, G_ema or G, got a discriminator alone")
    generator = dict(_without_filters(path, held.tensors()))
    if not any(name.startswith("synthesis.b4.") for name in generator):
        raise CheckpointError(f"{path}: its generator is no StyleGAN2 (StyleGAN3's are not read)")
    critic = None
    options: dict[str, Any] = {}
    if "D" in networks:
        critic = dict(_without_filters(path, networks["D"].tensors()))
        end = networks["D"].child("b4.mbstd")
        group = end.state.get("group_size") if end else None
        options = {"group": group} if isinstance(group, int) else {}
    first = held.child("synthesis.b4.conv1")
    clamp = first.state.get("conv_clamp") if first else None
    return _named(path, generator, critic, clamp if isinstance(clamp, int | float) else None, options)


def _without_filters(path: Path, tensors: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    wanted = filter_kernel()[0, 0]
    for name, tensor in tensors:
        if not name.endswith("resample_filter"):
            yield name, tensor
        elif tensor.shape != wanted.shape or not torch.allclose(tensor.float(), wanted, atol=1e-5):
            raise CheckpointError(f"{path}: {name} is another filter than [1, 3, 3, 1], which alone is supported")


def _rosinality(path: Path) -> Networks:
    from zoo.storage.checkpoint import load_pickled

    with torch.serialization.safe_globals([argparse.Namespace]):  # a training run's options: plain values
        content = load_pickled(path)
    held = content.get("g_ema", content.get("g")) if isinstance(content, dict) else None
    if not isinstance(held, dict) or "input.input" not in held:
        raise CheckpointError(
            f"{path}: expected g_ema or g with input.input, as rosinality's stylegan2-pytorch saves them"
        )
    generator = {}
    for name, tensor in _without_kernels(path, held):
        found = _generator_name(name)
        if found is None:
            raise CheckpointError(f"{path}: {name} is no tensor of a StyleGAN2 generator")
        generator[found] = _reshaped(found, tensor)
    average = content.get("latent_avg")
    generator["mapping.w_avg"] = average.flatten() if isinstance(average, Tensor) else _average(generator)
    critic = None
    if isinstance(content.get("d"), dict):
        top = generator_size(generator)
        critic = {_critic_name(path, name, top): tensor for name, tensor in _without_kernels(path, content["d"])}
    return _named(path, generator, critic, None, {})


def _without_kernels(path: Path, tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    wanted = filter_kernel()[0, 0]
    for name, tensor in tensors.items():
        if not name.endswith(".kernel"):
            yield name, tensor.detach()
        elif tensor.shape != wanted.shape or not torch.allclose(tensor.float() / tensor.sum(), wanted, atol=1e-5):
            raise CheckpointError(f"{path}: {name} is another filter than [1, 3, 3, 1], which alone is supported")


def _generator_name(name: str) -> str | None:
    if name == "input.input":
        return "synthesis.b4.const"
    if match := re.fullmatch(r"style\.(\d+)\.(weight|bias)", name):
        return f"mapping.fc{int(match[1]) - 1}.{match[2]}"
    if match := re.fullmatch(r"noises\.noise_(\d+)", name):
        return f"synthesis.{_layer(int(match[1]) - 1)}.noise_const"
    match = re.fullmatch(r"(conv1|to_rgb1|convs\.\d+|to_rgbs\.\d+)\.(.+)", name)
    if match is None or match[2] not in _INNER:
        return None
    place, _, number = match[1].partition(".")
    if place.startswith("conv"):
        where = _layer(int(number)) if number else _layer(-1)
    else:
        where = f"b{2 ** (int(number) + 3)}.torgb" if number else "b4.torgb"
    return f"synthesis.{where}.{_INNER[match[2]]}"


def _layer(number: int) -> str:
    """Return the name of layer `convs.{number}`; -1: the one before them."""
    return "b4.conv1" if number < 0 else f"b{2 ** (number // 2 + 3)}.conv{number % 2}"


def _reshaped(name: str, tensor: Tensor) -> Tensor:
    if (name.endswith(".weight") and tensor.dim() == 5) or (name.endswith("const") and tensor.dim() == 4):
        return tensor[0, 0] if name.endswith("noise_const") else tensor[0]
    if name.endswith("noise_strength"):
        return tensor.reshape([])
    return tensor.flatten() if name.endswith("bias") else tensor


def _critic_name(path: Path, name: str, top: int) -> str:
    if name in _CRITIC_END:
        return _CRITIC_END[name]
    match = re.fullmatch(r"convs\.(\d+)\.(.+)", name)
    if match and match[1] == "0" and match[2] in ("0.weight", "1.bias"):
        return f"b{top}.fromrgb.{match[2][2:]}"
    if match and match[2] in _CRITIC:
        return f"b{top // 2 ** (int(match[1]) - 1)}.{_CRITIC[match[2]]}"
    raise CheckpointError(f"{path}: {name} is no tensor of a StyleGAN2 discriminator")


def _average(generator: dict[str, Tensor]) -> Tensor:
    """Return the mean of 4096 w, for a file that has none: the same at every call."""
    layers = [name for name in generator if re.fullmatch(r"mapping\.fc\d+\.weight", name)]
    outputs, inputs = generator["mapping.fc0.weight"].shape
    mapping = Mapping(inputs, 0, outputs, len(layers), average=False)
    own = {name.removeprefix("mapping."): t for name, t in generator.items() if name.startswith("mapping.fc")}
    z = torch.randn(4096, inputs, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # not by loading them: while a model is constructed, parameters are on "meta"
        return torch.func.functional_call(mapping, own, (z,)).mean(dim=0)


def generator_size(generator: dict[str, Tensor]) -> int:
    """Return the images' edge in pixels."""
    return max(int(match[1]) for name in generator if (match := re.match(r"synthesis\.b(\d+)\.", name)))


def _named(
    path: Path,
    generator: dict[str, Tensor],
    critic: dict[str, Tensor] | None,
    clamp: float | None,
    options: dict[str, Any],
) -> Networks:
    """Return the configuration that the tensors imply, and all of them under this plugin's names."""
    try:
        config = _generator_config(generator, clamp)
        if critic is not None:
            config["discriminator"] = _critic_config(critic) | options
    except KeyError as error:
        raise CheckpointError(
            f"{path}: {error.args[0]} is missing: expected a StyleGAN2 with skip connections"
        ) from error
    tensors = {G + name: tensor for name, tensor in generator.items()}
    tensors |= {D + name: tensor for name, tensor in (critic or {}).items()}
    return Networks(config, tensors)


def _generator_config(tensors: dict[str, Tensor], clamp: float | None) -> dict[str, Any]:
    size = generator_size(tensors)
    sizes = [2**power for power in range(2, size.bit_length())]
    embed = tensors.get("mapping.embed.weight")
    colours = {tensors[f"synthesis.b{one}.torgb.weight"].shape[0] for one in sizes}
    return {
        "_class_name": "StyleGAN2",
        "img_resolution": size,
        "img_channels": colours.pop(),
        "z_dim": tensors["mapping.fc0.weight"].shape[1] - (0 if embed is None else embed.shape[0]),
        "w_dim": tensors["synthesis.b4.conv1.affine.weight"].shape[1],
        "c_dim": 0 if embed is None else embed.shape[1],
        "mapping_layers": _layers(tensors),
        "conv_clamp": clamp,
        "channels": {str(one): tensors[f"synthesis.b{one}.conv1.weight"].shape[0] for one in sizes},
    }


def _critic_config(tensors: dict[str, Tensor]) -> dict[str, Any]:
    sizes = sorted(int(match[1]) for name in tensors if (match := re.fullmatch(r"b(\d+)\.conv0\.weight", name)))
    channels = {"4": tensors["b4.fc.weight"].shape[0]}
    channels |= {str(size): tensors[f"b{size}.conv0.weight"].shape[1] for size in sizes}
    plain = not any(name.endswith(".skip.weight") for name in tensors)
    return {
        "channels": channels,
        "mapping_layers": _layers(tensors),
        "architecture": "orig" if plain else "resnet",
    }


def _layers(tensors: dict[str, Tensor]) -> int:
    return sum(1 for name in tensors if re.fullmatch(r"mapping\.fc\d+\.weight", name))
