"""Names that layers have elsewhere: those of Stability's code lead to the same weights as diffusers' converter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import zoo
from zoo.integrations.old_names import other_names


def unet(layers: int) -> nn.Module:
    from diffusers import UNet2DConditionModel

    downs = ("DownBlock2D", "CrossAttnDownBlock2D")
    sizes = {"sample_size": 8, "in_channels": 2, "out_channels": 2, "norm_num_groups": 4, "block_out_channels": (4, 8)}
    added = {"addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 24}
    blocks = {"down_block_types": downs, "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")}
    more = {"cross_attention_dim": 8, "attention_head_dim": 4, "addition_embed_type": "text_time"}
    return UNet2DConditionModel(**sizes, **blocks, **more, **added, layers_per_block=layers).eval()


@pytest.mark.parametrize("layers", [1, 2])
def test_every_layer_of_a_unet_has_its_original_name(layers: int) -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    module = unet(layers)
    names = {path: other for other, path in other_names(module).items()}
    state = module.state_dict()
    original = {}
    for name, tensor in state.items():
        path, _, attribute = name.rpartition(".")
        original[f"model.diffusion_model.{names[path]}.{attribute}"] = tensor
    again = convert_ldm_unet_checkpoint(original, {**module.config, "num_class_embeds": None})
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("prefix", ["lora_unet_", "diffusion_model.", "model.diffusion_model."])
def test_a_file_for_stable_diffusion_xl(prefix: str, tmp_path: Path) -> None:
    module = unet(2)
    places = {
        "input_blocks.4.1.proj_out": "down_blocks.1.attentions.0.proj_out",
        "middle_block.1.proj_in": "mid_block.attentions.0.proj_in",
        "output_blocks.2.2.conv": "up_blocks.0.upsamplers.0.conv",
        "out.2": "conv_out",
    }
    state, tensors, changes = module.state_dict(), {}, {}
    for original, path in places.items():
        rows, *columns = state[f"{path}.weight"].shape
        stem = prefix + (original.replace(".", "_") if prefix.endswith("_") else original)
        down, up = torch.randn(2, *columns), torch.randn(rows, 2)
        tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
        changes[f"{path}.weight"] = state[f"{path}.weight"] + (up @ down.flatten(1)).reshape(rows, *columns)
    save_file(tensors, tmp_path / "xl.safetensors")
    model = zoo.wrap(module, lora=tmp_path)
    found = model.state_dict()
    for name, tensor in changes.items():
        torch.testing.assert_close(found[name], tensor)
    assert len([info for info in model.weights() if info.adapters]) == len(places)
