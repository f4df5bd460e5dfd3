"""Repositories as the Hub has them: tiny, random, in the layouts in which causal language models are published."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

VOCABULARY = 96
TINY = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "llama": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
    },
}
TINY["qwen2"] = {**TINY["llama"], "tie_word_embeddings": True}
TINY["mixtral"] = {**TINY["llama"], "num_local_experts": 4, "num_experts_per_tok": 2}
# Those that cannot keep texts in one window apart.
TINY["bloom"] = {"hidden_size": 32, "n_layer": 2, "n_head": 2}
TINY["opt"] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 48}
TINY["opt"] |= {"word_embed_proj_dim": 32, "max_position_embeddings": 64}
TINY["mamba"] = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """make("llama", shards=True, tokenizer=False, …) → a folder as `save_pretrained` writes it, weights random."""

    def build(kind: str, *, shards: bool = False, tokenizer: bool = True, **config: Any) -> Path:
        folder = tmp_path / f"{kind}-{len(list(tmp_path.iterdir()))}"
        values = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0, **TINY[kind], **config}
        torch.manual_seed(random.randrange(2**31))
        module = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **values))
        with torch.no_grad():
            for parameter in module.parameters():  # also biases and gains, which start as zeros and ones
                parameter.add_(0.1 * torch.randn_like(parameter))
        module.save_pretrained(folder, max_shard_size="20KB" if shards else "1GB")
        if tokenizer:
            write_tokenizer(folder)
        return folder

    return build


def write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    letters = [chr(code) for code in range(ord("!"), ord("~"))][: VOCABULARY - 3]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<|endoftext|>"], initial_alphabet=letters, show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(letters)], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    values = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
