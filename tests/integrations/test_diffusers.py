"""diffusers' models: names of earlier years, and the folder that the library reads."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import AutoencoderKL

from zoo.integrations.diffusers import current_name, save_library_model


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("mid_block.attentions.0.query.weight", "mid_block.attentions.0.to_q.weight"),
        ("up_blocks.1.attentions.2.proj_attn.bias", "up_blocks.1.attentions.2.to_out.0.bias"),
        ("mid_block.attentions.0.to_q.weight", "mid_block.attentions.0.to_q.weight"),
        ("time_embedding.linear_1.weight", "time_embedding.linear_1.weight"),
        ("query.weight", "query.weight"),
    ],
)
def test_names_of_old_files_are_todays(old, new):
    assert current_name(old) == new


def test_the_library_reads_what_is_written(tmp_path):
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=2).eval()
    state = {name: tensor + 1 for name, tensor in vae.state_dict().items()}
    save_library_model(vae, tmp_path / "new", state, {"_mine": [1, 2]})
    again = AutoencoderKL.from_pretrained(tmp_path / "new")
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in state.items())
    assert again.config.latent_channels == 2
    assert json.loads((tmp_path / "new" / "config.json").read_text())["_mine"] == [1, 2]
