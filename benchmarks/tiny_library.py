"""Small models of timm, diffusers and PyTorch Geometric, written as their libraries write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tiny_types import Case

_SWIN = {"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 2)}
# Architecture -> arguments.
TIMM: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {"img_size": 32, "depth": 2},
    "deit_tiny_distilled_patch16_224": {"img_size": 32, "depth": 2},
    "swin_tiny_patch4_window7_224": _SWIN,
    "swinv2_tiny_window8_256": {**_SWIN, "window_size": 8},
    "swin_s3_tiny_224": {},
    "beit_base_patch16_224": {"img_size": 32, "depth": 2, "embed_dim": 48, "num_heads": 4},
    "eva02_tiny_patch14_224": {"img_size": 28, "depth": 2},
    "vit_tiny_r_s16_p8_224": {"img_size": 64, "depth": 2},
    "vit_small_r26_s32_224": {"img_size": 64, "depth": 2},
    "convit_tiny": {"img_size": 32, "depth": 2},
    "cait_xxs24_224": {"img_size": 32, "depth": 2},
    "xcit_nano_12_p16_224": {"img_size": 32, "depth": 2},
    "mixer_s16_224": {"img_size": 32, "num_blocks": 2},
    "resmlp_12_224": {"img_size": 32, "num_blocks": 2},
    "pit_ti_224": {},
    "levit_128s": {},
    "coat_tiny": {},
    "crossvit_tiny_240": {},
    "tiny_vit_5m_224": {},
    "efficientformer_l1": {},
    "efficientformerv2_s0": {},
    "efficientvit_b0": {},
    "efficientvit_m0": {},
    "pvt_v2_b0": {},
    "poolformer_s12": {},
    "convnext_atto": {},
    "convnextv2_atto": {},
    "edgenext_xx_small": {},
    "mobilevit_xxs": {},
    "mobilevitv2_050": {},
    "mobilenetv3_small_050": {},
    "mobilenetv4_conv_small_035": {},
    "efficientnet_lite0": {},
    "tinynet_e": {},
    "ghostnet_050": {},
    "fastvit_t8": {},
    "repvit_m0_9": {},
    "resnet10t": {},
    "regnetx_002": {},
    "densenet121": {},
    "lambda_resnet26t": {},
    "halonet26t": {},
    "botnet26t_256": {},
    "visformer_tiny": {},
    "mambaout_femto": {},
    "starnet_s1": {},
    "hgnetv2_b0": {},
    "maxvit_rmlp_pico_rw_256": {},
    "coatnet_pico_rw_224": {},
    "focalnet_tiny_srf": {},
}
_DOWN, _UP = ("DownBlock2D", "DownBlock2D"), ("UpBlock2D", "UpBlock2D")
_SMALL = {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8}
_CROSS = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 16,
    "attention_head_dim": 4,
}
_VAE = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
_CODER = {**_SMALL, **_VAE}
_TINY = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1}
_TIMES, _PIXELS = torch.tensor([1, 2]), {"in_channels": 3, "out_channels": 3, "sample_size": 8}
_TEXT = torch.rand(2, 5, 16)
# Class -> its arguments, and those of its forward.
DIFFUSERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "UNet2DModel": (
        {**_SMALL, "down_block_types": _DOWN, "up_block_types": _UP, "sample_size": 16},
        {"sample": torch.rand(2, 3, 16, 16), "timestep": torch.tensor([3, 4])},
    ),
    "UNet2DConditionModel": (
        {**_SMALL, **_CROSS, "sample_size": 8},
        {"sample": torch.rand(2, 4, 8, 8), "timestep": 3, "encoder_hidden_states": _TEXT},
    ),
    "UNet3DConditionModel": (
        {
            **_SMALL,
            "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
            "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
            "cross_attention_dim": 16,
            "attention_head_dim": 4,
        },
        {"sample": torch.rand(2, 4, 2, 8, 8), "timestep": 3, "encoder_hidden_states": _TEXT},
    ),
    "AutoencoderKL": ({**_CODER, "sample_size": 16}, {"sample": torch.rand(2, 3, 16, 16)}),
    "AsymmetricAutoencoderKL": (
        {
            **_VAE,
            "down_block_out_channels": (16, 32),
            "up_block_out_channels": (16, 32),
            "norm_num_groups": 8,
            "layers_per_down_block": 1,
            "layers_per_up_block": 1,
        },
        {"sample": torch.rand(2, 3, 16, 16)},
    ),
    "AutoencoderKLTemporalDecoder": (
        {"block_out_channels": (32, 32), "down_block_types": ("DownEncoderBlock2D",) * 2, "layers_per_block": 1},
        {"sample": torch.rand(2, 3, 16, 16), "num_frames": 2},
    ),
    "AutoencoderTiny": (
        {
            "encoder_block_out_channels": (8, 8),
            "decoder_block_out_channels": (8, 8),
            "num_encoder_blocks": (1, 1),
            "num_decoder_blocks": (1, 1),
        },
        {"sample": torch.rand(2, 3, 16, 16)},
    ),
    "VQModel": (
        {"block_out_channels": (16,), "norm_num_groups": 8, "num_vq_embeddings": 8},
        {"sample": torch.rand(2, 3, 8, 8)},
    ),
    "ControlNetModel": (
        {**_SMALL, **{k: v for k, v in _CROSS.items() if k != "up_block_types"}, "in_channels": 4},
        {
            "sample": torch.rand(2, 4, 8, 8),
            "timestep": 3,
            "encoder_hidden_states": _TEXT,
            "controlnet_cond": torch.rand(2, 3, 64, 64),
        },
    ),
    "T2IAdapter": ({"channels": [8, 8], "num_res_blocks": 1, "downscale_factor": 8}, {"x": torch.rand(2, 3, 32, 32)}),
    "MotionAdapter": (
        {
            "block_out_channels": (16, 32),
            "motion_layers_per_block": 1,
            "motion_num_attention_heads": 2,
            "motion_norm_num_groups": 8,
        },
        {},
    ),
    "DiTTransformer2DModel": (
        {**_TINY, "in_channels": 3, "sample_size": 8, "num_embeds_ada_norm": 10},
        {
            "hidden_states": torch.rand(2, 3, 8, 8),
            "timestep": torch.tensor([1, 2]),
            "class_labels": torch.tensor([1, 2]),
        },
    ),
    "Transformer2DModel": (
        {**_TINY, "in_channels": 16, "norm_num_groups": 8, "cross_attention_dim": 16},
        {"hidden_states": torch.rand(2, 16, 8, 8), "encoder_hidden_states": _TEXT},
    ),
    "PixArtTransformer2DModel": (
        {
            **_TINY,
            "in_channels": 3,
            "out_channels": 3,
            "sample_size": 8,
            "cross_attention_dim": 16,
            "caption_channels": 16,
        },
        {
            "hidden_states": torch.rand(2, 3, 8, 8),
            "timestep": torch.tensor([1, 2]),
            "encoder_hidden_states": _TEXT,
            "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        },
    ),
    "SD3Transformer2DModel": (
        {
            **_TINY,
            "sample_size": 8,
            "in_channels": 4,
            "out_channels": 4,
            "joint_attention_dim": 16,
            "caption_projection_dim": 16,
            "pooled_projection_dim": 16,
            "pos_embed_max_size": 8,
        },
        {
            "hidden_states": torch.rand(2, 4, 8, 8),
            "encoder_hidden_states": _TEXT,
            "pooled_projections": torch.rand(2, 16),
            "timestep": torch.tensor([1, 2]),
        },
    ),
    "FluxTransformer2DModel": (
        {
            **_TINY,
            "in_channels": 4,
            "num_single_layers": 1,
            "joint_attention_dim": 16,
            "pooled_projection_dim": 16,
            "axes_dims_rope": (2, 2, 4),
        },
        {
            "hidden_states": torch.rand(2, 6, 4),
            "encoder_hidden_states": _TEXT,
            "pooled_projections": torch.rand(2, 16),
            "timestep": torch.tensor([0.1, 0.2]),
            "img_ids": torch.zeros(6, 3),
            "txt_ids": torch.zeros(5, 3),
        },
    ),
    "AuraFlowTransformer2DModel": (
        {
            "sample_size": 8,
            "in_channels": 4,
            "out_channels": 4,
            "num_mmdit_layers": 1,
            "num_single_dit_layers": 1,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "joint_attention_dim": 16,
            "caption_projection_dim": 16,
            "pos_embed_max_size": 16,
        },
        {"hidden_states": torch.rand(2, 4, 8, 8), "encoder_hidden_states": _TEXT, "timestep": torch.tensor([0.1, 0.2])},
    ),
    "PriorTransformer": (
        {**_TINY, "embedding_dim": 16, "num_embeddings": 5, "additional_embeddings": 4},
        {
            "hidden_states": torch.rand(2, 16),
            "timestep": 2,
            "proj_embedding": torch.rand(2, 16),
            "encoder_hidden_states": _TEXT,
        },
    ),
}
_NET = {"in_channels": 4, "hidden_channels": 8, "num_layers": 2, "out_channels": 3}
_LAYER = {"in_channels": 4, "out_channels": 8}
# Model or layer -> the arguments that its config.json holds.
PYG: dict[str, dict[str, Any]] = {
    "GCN": _NET,
    "GraphSAGE": _NET,
    "GIN": _NET,
    "GAT": {**_NET, "heads": 2},
    "EdgeCNN": _NET,
    "GCNConv": _LAYER,
    "GATConv": {**_LAYER, "heads": 2},
    "GATv2Conv": {**_LAYER, "heads": 2},
    "SAGEConv": _LAYER,
    "GraphConv": _LAYER,
    "TransformerConv": {**_LAYER, "heads": 2},
    "TAGConv": _LAYER,
    "ChebConv": {**_LAYER, "K": 2},
    "SuperGATConv": {**_LAYER, "heads": 2},
}


def timm_case(name: str, arguments: dict[str, Any], folder: Path) -> Case:
    """Write a small model of timm."""
    import timm
    from safetensors.torch import load_file

    module = timm.create_model(name, num_classes=3, **arguments).eval()
    sizes = {"num_classes": 3, "model_args": {**arguments, "num_classes": 3}}
    timm.models.save_for_hf(module, str(folder), model_config=sizes, safe_serialization=True)
    size = arguments.get("img_size") or module.pretrained_cfg["input_size"][-1]
    images = torch.rand(20, 3, size, size)
    data = {"vit": (images, torch.arange(20) % 3)}
    return Case(module.state_dict(), {"x": images[:2]}, data, lambda at: load_file(at / "model.safetensors"))


def diffusers_case(name: str, arguments: dict[str, Any], call: dict[str, Any], folder: Path) -> Case:
    """Write a small model of diffusers."""
    import diffusers

    kind = getattr(diffusers, name)
    module = kind(**arguments).eval()
    module.save_pretrained(folder)
    images = torch.rand(20, 3, 16, 16)
    data = {"ddpm": images, "vae": images}
    return Case(module.state_dict(), call, data, lambda at: kind.from_pretrained(at).state_dict())


def pyg_case(name: str, arguments: dict[str, Any], folder: Path) -> Case:
    """Write a model or layer of PyTorch Geometric."""
    from torch_geometric import nn
    from torch_geometric.data import Data

    module = getattr(nn, name)(**arguments).eval()
    torch.save(module.state_dict(), folder / "model.pth")
    (folder / "config.json").write_text(json.dumps(arguments))
    graph = Data(x=torch.rand(20, 4), edge_index=torch.randint(20, (2, 60)), y=torch.arange(20) % 3)
    call = {"x": graph.x, "edge_index": graph.edge_index}
    return Case(module.state_dict(), call, {"gat": graph}, lambda at: torch.load(at / "model.pth", weights_only=True))
