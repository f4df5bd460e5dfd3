"""Weights that transformers joins from the parts in a file, or leaves out of it because it computes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

import zoo


def equal(folder: Path, module: torch.nn.Module) -> None:
    module.save_pretrained(folder)
    state, theirs = zoo.load(str(folder)).state_dict(), type(module).from_pretrained(folder).state_dict()
    assert state.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(state[name], tensor), name


@pytest.mark.parametrize("experts", [2, 13, 101])
def test_experts_are_in_the_order_of_their_numbers(experts, tmp_path):
    config = transformers.OlmoeConfig(
        vocab_size=99,
        hidden_size=16,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_experts=experts,
        num_experts_per_tok=2,
    )
    module = transformers.OlmoeForCausalLM(config)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    equal(tmp_path, module)


def test_positions_that_are_computed_are_no_part_of_the_file(tmp_path):
    config = transformers.MarianConfig(
        vocab_size=99,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_position_embeddings=40,
        pad_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=0,
    )
    module = transformers.MarianMTModel(config)
    equal(tmp_path, module)
    zoo.load(str(tmp_path), bits=4, lora=2)
