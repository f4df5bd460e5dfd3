"""Small random networks in the layouts of other repositories, and the paper's formulas, with a weight per image."""

from __future__ import annotations

import io
import math
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo_stylegan import StyleGAN2

TINY = {
    "img_resolution": 16,
    "img_channels": 3,
    "z_dim": 12,
    "w_dim": 10,
    "mapping_layers": 2,
    "channels": {"4": 8, "8": 7, "16": 6},
    "discriminator": {"channels": {"4": 8, "8": 7, "16": 6}, "mapping_layers": 2},
}

# What NVlabs's pickles carry with every object. If anything ran it, the list would not be empty.
RAN: list[str] = []
SOURCE = """
import zoo_stylegan_tests_spy
zoo_stylegan_tests_spy.RAN.append("the embedded source")
class Generator: pass
"""


@pytest.fixture(autouse=True)
def spy(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Everything that a pickle made run; must stay empty."""
    module = types.ModuleType("zoo_stylegan_tests_spy")
    module.RAN = RAN
    monkeypatch.setitem(sys.modules, module.__name__, module)
    RAN.clear()
    yield RAN
    assert RAN == []


@pytest.fixture
def network() -> Callable[..., StyleGAN2]:
    """A random network, of which nothing is zero or constant."""

    def made(seed: int = 0, **config: Any) -> StyleGAN2:
        torch.manual_seed(seed)
        module = StyleGAN2({**TINY, **config}).eval()
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.dim() < 2:
                    parameter.add_(0.3 * torch.randn_like(parameter))
            module.generator.mapping.w_avg.normal_()
        return module

    return made


def plain_generator(module: StyleGAN2, w: Tensor, noise: bool = True) -> Tensor:
    """The image by the paper's own formulas: a weight per image, zeros put between pixels, filters by hand."""
    synthesis, image = module.generator.synthesis, None
    for size in synthesis.sizes:
        block = synthesis.get_submodule(f"b{size}")
        if size == 4:
            x = block.const.expand(len(w), -1, -1, -1)
        else:
            x = _layer(block.conv0, x, w, noise, up=True)
            image = _fir(_spread(image), (2, 1)) * 4
        x = _layer(block.conv1, x, w, noise)
        rgb = block.torgb
        style = _affine(rgb.affine, w) / math.sqrt(x.shape[1])
        y = torch.einsum("oi,ni,nihw->nohw", rgb.weight[:, :, 0, 0], style, x) + rgb.bias[:, None, None]
        image = y if image is None else image + y
    return image


def _affine(dense: nn.Module, w: Tensor) -> Tensor:
    return w @ dense.weight.t() / math.sqrt(w.shape[1]) + dense.bias


def _layer(conv: nn.Module, x: Tensor, w: Tensor, noise: bool, up: bool = False) -> Tensor:
    style = _affine(conv.affine, w)
    weights = conv.weight[None] * style[:, None, :, None, None]
    weights = weights * torch.rsqrt(weights.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8)
    images = []
    for one, weight in zip(x, weights, strict=True):
        if up:
            # Zeros between the pixels, and the kernel as a transposed convolution sees it: turned round.
            spread = F.pad(_spread(one[None])[:, :, :-1, :-1], (2, 2, 2, 2))
            images.append(_fir(F.conv2d(spread, weight.flip(2, 3)), (1, 1)) * 4)
        else:
            images.append(F.conv2d(one[None], weight, padding=1))
    y = torch.cat(images)
    if noise:
        y = y + conv.noise_const * conv.noise_strength
    return F.leaky_relu(y + conv.bias[:, None, None], 0.2) * math.sqrt(2)


def _spread(x: Tensor) -> Tensor:
    y = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    y[:, :, ::2, ::2] = x
    return y


def _fir(x: Tensor, padding: tuple[int, int]) -> Tensor:
    taps = torch.tensor([1.0, 3, 3, 1], dtype=x.dtype) / 8
    x = F.pad(x, (*padding, *padding))
    rows = sum(t * x[:, :, i : x.shape[2] - 3 + i] for i, t in enumerate(taps))
    return sum(t * rows[:, :, :, i : x.shape[3] - 3 + i] for i, t in enumerate(taps))


class Persistent:
    """What NVlabs's decorator makes of an object when it is pickled."""

    def __init__(self, name: str, state: dict[str, Any]) -> None:
        self.name, self.state = name, state

    def __reduce__(self) -> Any:
        meta = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": self.name, "state": self.state}
        return _function("torch_utils.persistence", "_reconstruct_persistent_obj"), (meta,)


class Storage:
    """A tensor's data as torch's own pickling hands it over, in the form of torch 1.7, which wrote these files."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __reduce__(self) -> Any:
        data = io.BytesIO()
        storage = torch.storage.TypedStorage(
            wrap_storage=self.tensor.untyped_storage(), dtype=self.tensor.dtype, _internal=True
        )
        torch.save(storage, data, _use_new_zipfile_serialization=False)
        return torch.storage._load_from_bytes, (data.getvalue(),)


class Old:
    """A tensor pickled the old way."""

    def __init__(self, tensor: Tensor, parameter: bool) -> None:
        self.tensor, self.parameter = tensor.detach().clone().contiguous(), parameter

    def __reduce__(self) -> Any:
        tensor = self.tensor
        parts = (Storage(tensor), 0, tuple(tensor.shape), tensor.stride(), False, OrderedDict())
        if not self.parameter:
            return torch._utils._rebuild_tensor_v2, parts
        return torch._utils._rebuild_parameter, (Old(tensor, False), True, OrderedDict())


def _function(module: str, name: str) -> Any:
    """Something that pickles as `module.name`, which need not exist here otherwise."""
    if module not in sys.modules:
        parent = module.rpartition(".")[0]
        if parent and parent not in sys.modules:
            sys.modules[parent] = types.ModuleType(parent)
        sys.modules[module] = types.ModuleType(module)
    found = getattr(sys.modules[module], name, None)
    if found is None:

        def found(*_: Any) -> Any:
            raise AssertionError("the test's own stand-in must not be called")

        found.__module__, found.__name__, found.__qualname__ = module, name, name
        setattr(sys.modules[module], name, found)
    return found


def persistent(module: nn.Module, name: str, filters: bool = True) -> Persistent:
    """A module as NVlabs's classes would hold and pickle it."""
    buffers = {key: value for key, value in module._buffers.items() if value is not None}
    if filters and "resample_filter" in buffers:
        buffers["resample_filter"] = buffers["resample_filter"][0, 0]
    state: dict[str, Any] = {
        "training": False,
        "_parameters": OrderedDict((k, Old(v, True)) for k, v in module._parameters.items() if v is not None),
        "_buffers": OrderedDict((k, Old(v, False)) for k, v in buffers.items()),
        "_modules": OrderedDict(
            (k, persistent(v, type(v).__name__)) for k, v in module._modules.items() if v is not None
        ),
        "_init_args": (),
        "_init_kwargs": {"conv_clamp": None},
        "conv_clamp": getattr(module, "clamp", None),
    }
    if hasattr(module, "group"):  # there it is a module of its own
        mbstd = Persistent("MinibatchStdLayer", {"_modules": OrderedDict(), "group_size": module.group})
        state["_modules"]["mbstd"] = mbstd
    return Persistent(name, state)


def write_nvlabs(module: StyleGAN2, path: Path, extra: dict[str, Any] | None = None) -> Path:
    """The network in NVlabs's layout, with source text that would be noticed if it ran."""
    content = {
        "training_set_kwargs": {"class_name": "training.dataset.ImageFolderDataset", "resolution": 16},
        "G": persistent(module.generator, "Generator"),
        "D": persistent(module.discriminator, "Discriminator"),
        "G_ema": persistent(module.generator, "Generator"),
        "augment_pipe": None,
        **(extra or {}),
    }
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=4))
    return path


def write_rosinality(module: StyleGAN2, path: Path, average: bool = True) -> Path:
    """The network as rosinality's training script saves it."""
    state, sizes = module.generator.state_dict(), module.generator.synthesis.sizes
    kernel = torch.tensor([1.0, 3, 3, 1])[:, None] * torch.tensor([1.0, 3, 3, 1]) / 64
    found = {"input.input": state["synthesis.b4.const"][None]}
    for i in range(module.generator.mapping.layers):
        for kind in ("weight", "bias"):
            found[f"style.{i + 1}.{kind}"] = state[f"mapping.fc{i}.{kind}"]

    def convolution(ours: str, theirs: str) -> None:
        found[f"{theirs}.conv.weight"] = state[f"{ours}.weight"][None]
        for kind in ("weight", "bias"):
            found[f"{theirs}.conv.modulation.{kind}"] = state[f"{ours}.affine.{kind}"]
        if "torgb" in ours:
            found[f"{theirs}.bias"] = state[f"{ours}.bias"].reshape(1, -1, 1, 1)
            return
        found[f"{theirs}.noise.weight"] = state[f"{ours}.noise_strength"].reshape(1)
        found[f"{theirs}.activate.bias"] = state[f"{ours}.bias"]

    convolution("synthesis.b4.conv1", "conv1")
    convolution("synthesis.b4.torgb", "to_rgb1")
    found["noises.noise_0"] = state["synthesis.b4.conv1.noise_const"][None, None]
    for i, size in enumerate(sizes[1:]):
        for j in (0, 1):
            convolution(f"synthesis.b{size}.conv{j}", f"convs.{2 * i + j}")
            noise = state[f"synthesis.b{size}.conv{j}.noise_const"]
            found[f"noises.noise_{2 * i + j + 1}"] = noise[None, None]
        found[f"convs.{2 * i}.conv.blur.kernel"] = kernel * 4
        found[f"to_rgbs.{i}.upsample.kernel"] = kernel * 4
        convolution(f"synthesis.b{size}.torgb", f"to_rgbs.{i}")
    critic = {}
    own = module.discriminator.state_dict()
    top = sizes[-1]
    critic["convs.0.0.weight"], critic["convs.0.1.bias"] = own[f"b{top}.fromrgb.weight"], own[f"b{top}.fromrgb.bias"]
    for i, size in enumerate(reversed(sizes[1:]), start=1):
        critic[f"convs.{i}.conv1.0.weight"] = own[f"b{size}.conv0.weight"]
        critic[f"convs.{i}.conv1.1.bias"] = own[f"b{size}.conv0.bias"]
        critic[f"convs.{i}.conv2.0.kernel"] = critic[f"convs.{i}.skip.0.kernel"] = kernel
        critic[f"convs.{i}.conv2.1.weight"] = own[f"b{size}.conv1.weight"]
        critic[f"convs.{i}.conv2.2.bias"] = own[f"b{size}.conv1.bias"]
        critic[f"convs.{i}.skip.1.weight"] = own[f"b{size}.skip.weight"]
    for theirs, ours in (("final_conv.0.weight", "conv.weight"), ("final_conv.1.bias", "conv.bias")):
        critic[theirs] = own[f"b4.{ours}"]
    for i, ours in enumerate(("fc", "out")):
        for kind in ("weight", "bias"):
            critic[f"final_linear.{i}.{kind}"] = own[f"b4.{ours}.{kind}"]
    content: dict[str, Any] = {"g": found, "d": critic, "g_ema": found, "g_optim": {"state": {}}, "ada_aug_p": 0.0}
    if average:
        content["latent_avg"] = state["mapping.w_avg"]
    path.parent.mkdir(exist_ok=True)
    torch.save(content, path)
    return path


@pytest.fixture(scope="session")
def layouts() -> types.SimpleNamespace:
    """What writes networks as other repositories do, and the plain formulas."""
    return types.SimpleNamespace(
        Persistent=Persistent,
        persistent=persistent,
        plain_generator=plain_generator,
        write_nvlabs=write_nvlabs,
        write_rosinality=write_rosinality,
    )
