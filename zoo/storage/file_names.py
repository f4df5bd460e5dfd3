"""Customary names of the files in a model's or an adapter's folder. Imports nothing of zoo."""

from __future__ import annotations

PIPELINE = "model_index.json"  # of a diffusers pipeline
MODEL_CONFIGS = ("config.json", PIPELINE)
# Without their suffix: of transformers and timm, of diffusers, transformers' older one, of open_clip.
MODEL_WEIGHTS = ("model", "diffusion_pytorch_model", "pytorch_model", "open_pytorch_model")

ADAPTER_CONFIG, ADAPTER_TENSORS = "adapter_config.json", "adapter_model.safetensors"  # PEFT's
MANIFEST = "zoo.json"  # zoo's own, beside them
DIFFUSERS_TENSORS = "pytorch_lora_weights.safetensors"
PICKLES = ("adapter_model.bin", "pytorch_lora_weights.bin")  # the older forms of the two, which zoo does not execute
