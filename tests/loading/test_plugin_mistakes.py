"""What `zoo.load` says of a plugin whose hooks give what fits neither module nor weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import zoo
from zoo.errors import CheckpointError, PluginError, QuantizationError
from zoo.plugin import hooks

from .tiny import Tiny, put, state

pytestmark = pytest.mark.usefixtures("tiny_plugin")


def plugin(**functions: Any) -> zoo.Entry:
    made = ModuleType("zoo_other")
    for name, hook in functions.items():
        setattr(made, name, zoo.hookimpl(hook))
    hooks.reset()
    hooks.register(made, "tiny")
    return zoo.Entry("other", "tiny")


def test_a_buffer_that_a_plugin_leaves_on_meta_is_named(
    module: Tiny, tmp_path: Path, open_: Callable[..., zoo.Model]
) -> None:
    def construct(entry: zoo.Entry) -> nn.Module:
        made = Tiny()
        made.places = torch.arange(8, device="meta")
        return made

    plugin(construct=construct)
    with pytest.raises(CheckpointError, match=r"places was never filled"):
        open_(put(tmp_path / "m", {**state(module), "head.weight": module.head.weight.detach()}))


def test_a_quantizer_of_another_shape_and_a_tensor_that_is_to_stay(
    module: Tiny, tmp_path: Path, open_: Callable[..., zoo.Model]
) -> None:
    from zoo.weights.codecs import pack

    def quantize(name: str, weight: Tensor, scheme: zoo.Quantization) -> Any:
        if name == "conv.weight":
            return weight
        return pack(weight[1:], scheme) if name == "fc.weight" else None

    folder = put(tmp_path / "m", state(module))
    plugin(construct=lambda entry: Tiny(tie=False), quantize=quantize)
    save_file({**state(module), "head.weight": module.head.weight.detach().clone()}, folder / "model.safetensors")
    with pytest.raises(
        QuantizationError, match=r"fc\.weight: its quantizer returned shape \(63, 64\), expected \(64, 64\)"
    ):
        open_(folder, bits=4)


def test_a_checkpoint_hook_that_gives_nonsense(module: Tiny, tmp_path: Path, open_: Callable[..., zoo.Model]) -> None:
    folder = put(tmp_path / "m", state(module))
    plugin(construct=lambda entry: Tiny(), checkpoint=lambda entry: [("a", 3)])
    with pytest.raises(PluginError, match="checkpoint"):
        open_(folder)
