"""Small models with random weights of any type of transformers, made from nothing but the type's name."""

from __future__ import annotations

from typing import Any

VOCABULARY = 99
# A field of a configuration -> its value in a small one. Fields that a type does not have are passed over.
_WIDTHS = dict.fromkeys(
    (
        *(
            "hidden_size",
            "d_model",
            "n_embd",
            "dim",
            "emb_dim",
            "embed_dim",
            "hidden_dim",
            "model_dim",
            "embedding_size",
        ),
        *("word_embed_proj_dim", "projection_dim", "attention_hidden_size", "input_embedding_dim", "true_hidden_size"),
        *("out_hidden_size", "encoder_hidden_size", "decoder_hidden_size", "ffn_dim_base", "d_embed", "lru_width"),
        *("width", "text_embed_dim", "vision_embed_dim", "embedding_dim", "output_hidden_size", "attention_size"),
    ),
    32,
)
_INNER = dict.fromkeys(
    (
        *("intermediate_size", "ffn_dim", "n_inner", "d_ff", "d_inner", "encoder_ffn_dim", "decoder_ffn_dim"),
        *("moe_intermediate_size", "shared_expert_intermediate_size", "ffn_hidden_size", "mlp_dim", "inner_dim"),
        *("decoder_intermediate_size", "encoder_intermediate_size", "ffn_intermediate_size", "linear_hidden"),
        *("shared_intermediate_size", "expert_hidden_size", "hidden_size_mlp", "mamba_intermediate_size"),
        *("moe_shared_expert_intermediate_size", "feed_forward_size", "expert_ffn_hidden_size", "mlp_hidden_size"),
    ),
    64,
)
_LAYERS = dict.fromkeys(
    (
        *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers", "depth"),
        *("num_decoder_layers", "num_encoder_layers", "encoder_num_layers", "decoder_num_layers", "num_blocks"),
        *("decoder_num_hidden_layers", "encoder_num_hidden_layers", "num_hidden_groups_layers"),
    ),
    2,
)
_HEADS = dict.fromkeys(
    (
        *("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads", "heads"),
        *("decoder_attention_heads", "decoder_num_attention_heads", "num_key_value_heads", "num_kv_heads"),
        *("encoder_num_attention_heads", "num_key_value_heads_global", "swa_num_attention_heads", "kv_heads"),
        *("linear_num_key_heads", "linear_num_value_heads", "num_global_key_value_heads", "nhead"),
        *("swa_num_key_value_heads", "num_kv_shared_heads", "num_swa_attention_heads"),
    ),
    4,
)
_OTHERS: dict[str, Any] = {
    **dict.fromkeys(("head_dim", "d_kv", "attention_head_dim", "kv_channels", "swa_head_dim", "global_head_dim"), 8),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "d_head", "index_head_dim"), 8),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "rotary_dim", "mamba_d_head"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank", "index_topk", "hidden_size_per_layer_input"), 16),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk", "num_selected_experts", "top_k_experts"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace", "mamba_n_groups"), 1),
    **dict.fromkeys(("vocab_size", "text_vocab_size", "vocab_size_per_layer_input", "encoder_vocab_size"), VOCABULARY),
    **dict.fromkeys(("image_size", "img_size", "input_size"), 32),
    **dict.fromkeys(("patch_size", "encoder_stride", "window_size"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_source_positions"), 64),
    **dict.fromkeys(("max_target_positions", "max_text_len", "sliding_window", "max_sequence_length"), 64),
    **dict.fromkeys(("state_size", "mamba_d_state", "ssm_state_size", "d_state", "num_mel_bins"), 16),
    **dict.fromkeys(("bos_token_id", "decoder_start_token_id"), 1),
    **dict.fromkeys(("eos_token_id",), 2),
    **dict.fromkeys(("pad_token_id",), 0),
}
_SMALL: dict[str, Any] = {**_WIDTHS, **_INNER, **_LAYERS, **_HEADS, **_OTHERS}
# Lists with an entry for each layer or stage, which follow from the number of layers if they are left out.
_PER_LAYER = ("layer_types", "layers_block_type", "mlp_layer_types", "attention_types", "block_types", "no_rope_layers")
# What a few types need besides: what their own checks ask for.
_EXTRA: dict[str, dict[str, Any]] = {}


def small_values(kind: str) -> dict[str, Any]:
    """Return arguments of the configuration of `kind`, a model_type, that make it small."""
    from transformers import CONFIG_MAPPING

    return {**_small(CONFIG_MAPPING[kind]), **_EXTRA.get(kind, {})}


def _small(config_class: Any, depth: int = 0) -> dict[str, Any]:
    default = config_class()
    fields = default.to_dict() if depth < 3 else {}
    values = {
        name: _SMALL[name] for name, value in fields.items() if name in _SMALL and not isinstance(value, list | dict)
    }
    for name, kind in (getattr(config_class, "sub_configs", None) or {}).items():
        part = getattr(default, name, None)
        if part is not None and kind is not None:
            values[name] = _small(type(part), depth + 1) | {"model_type": part.model_type}
    return values


def small_config(kind: str, **changes: Any) -> Any:
    """Return a small configuration of a model_type."""
    from transformers import CONFIG_MAPPING

    values = {**small_values(kind), **changes}
    return CONFIG_MAPPING[kind](**{name: value for name, value in values.items() if name not in _PER_LAYER})
