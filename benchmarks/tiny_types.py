"""Small models with random weights of any type of transformers, made from nothing but the type's name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

VOCABULARY = 99
_LARGEST = 5_000_000  # parameters
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
# What a few types need besides: what their own checks ask for.
_EXTRA: dict[str, dict[str, Any]] = {
    "bamba": {"mamba_n_heads": 8, "mamba_d_head": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"mamba_n_heads": 8, "mamba_d_head": 8},
    "kimi_linear": {"num_experts_per_token": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "reformer": {"axial_pos_embds": False, "attn_layers": ["local", "local"], "local_attn_chunk_length": 4},
    "roc_bert": {"pronunciation_embed_dim": 16, "shape_embed_dim": 16, "shape_vocab_size": VOCABULARY},
    "xmod": {"default_language": "en_XX"},
    "zaya": {"num_experts_per_tok": 1},
}


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

    values = {**_small(CONFIG_MAPPING[kind]), **_EXTRA.get(kind, {}), **changes}
    config = CONFIG_MAPPING[kind](**values)
    if getattr(config, "is_encoder_decoder", False) and getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = 0
    return config


def small_module(kind: str, task: str, **changes: Any) -> Any:
    """Return a small module with random weights, in evaluation mode.

    Args:
        kind: a model_type.
        task: as in `zoo.integrations.auto_classes.classes_of`.
        changes: values of the configuration.
    """
    import torch
    import transformers

    from zoo.integrations.auto_classes import classes_of

    library_class = getattr(transformers, classes_of(task)[kind][0])
    config = small_config(kind, **changes)
    if not isinstance(config, library_class.config_class):
        config = config.get_text_config()
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in library_class(config).parameters())
    if size > _LARGEST:
        raise ValueError(f"{kind} is not small: {size} parameters")
    module = library_class(config).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    return module


class Case(NamedTuple):
    """A small model in a folder.

    Attributes:
        state: the weights that were written.
        call: arguments of the module's forward, in which gradients are checked.
        data: what the verbs take, by plugin and verb; see `model_types.py`.
        again: reads the weights of a folder with the library itself.
    """

    state: dict[str, Any]
    call: dict[str, Any]
    data: dict[str, Any]
    again: Callable[[Path], dict[str, Any]]


def case(kind: str, task: str, folder: Path) -> Case:
    """Write a small model of transformers with a tokenizer, and return it with what it takes."""
    module = small_module(kind, task)
    module.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    call = _call(module, task)
    return Case(module.state_dict(), call, {"library": call}, lambda at: type(module).from_pretrained(at).state_dict())


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ("<pad>", "<s>", "</s>", "<unk>", "<mask>")
    words = (*special, *(f"w{i}" for i in range(VOCABULARY - 9)))
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token", "mask_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


def _call(module: Any, task: str) -> dict[str, Any]:
    """Return arguments of a module's forward with which its library computes a loss, by the arguments' names."""
    import inspect

    import torch

    takes = inspect.signature(type(module).forward).parameters
    ids = torch.randint(5, 90, (2, 8))
    call: dict[str, Any] = {}
    if "input_ids" in takes:
        call["input_ids"] = ids[:, None].repeat(1, 2, 1) if task == "MULTIPLE_CHOICE" else ids
    if task in ("CAUSAL_LM", "MASKED_LM", "SEQ_TO_SEQ_CAUSAL_LM") and "input_ids" in takes:
        return {**call, **({"labels": ids.clone()} if "labels" in takes else {})}  # text alone
    if "pixel_values" in takes:
        config = getattr(module.config, "vision_config", None) or module.config
        channels, size = getattr(config, "num_channels", 3), getattr(config, "image_size", 32)
        height, width = (size, size) if isinstance(size, int) else size
        call["pixel_values"] = torch.rand(2, channels, height, width)
    if "input_features" in takes:
        call["input_features"] = torch.rand(2, getattr(module.config, "num_mel_bins", 16), 128)
    if "bool_masked_pos" in takes and task == "MASKED_IMAGE_MODELING":
        patches = (height // module.config.patch_size) * (width // module.config.patch_size)
        call["bool_masked_pos"] = torch.rand(2, patches) < 0.5
    if "input_values" in takes:
        call["input_values"] = torch.rand(2, 4000)
    if "start_positions" in takes:
        call |= {"start_positions": torch.tensor([1, 2]), "end_positions": torch.tensor([3, 4])}
    if "labels" in takes:
        classes = getattr(module.config, "num_labels", 2)
        per_row = task in ("SEQUENCE_CLASSIFICATION", "MULTIPLE_CHOICE", "IMAGE_CLASSIFICATION", "AUDIO_CLASSIFICATION")
        if per_row:
            call["labels"] = torch.tensor([0, 1])
        elif task == "SEMANTIC_SEGMENTATION":
            call["labels"] = torch.randint(classes, (2, height, width))
        else:
            call["labels"] = torch.randint(classes, (2, 8)) if task == "TOKEN_CLASSIFICATION" else ids.clone()
    if "return_loss" in takes:
        call["return_loss"] = True
    return call
