"""Build the module, read its weights under the names of any year, and write transformers' own format."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import CheckpointError, ZooError
from zoo.integrations import transformers as library
from zoo.integrations import transformers_heads
from zoo.integrations.auto_classes import classes_of, sees_later_tokens
from zoo.integrations.transformers_config import library_config

from .facts import classifies, configuration, is_bare

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from zoo import Entry, Model

# Buffers that older versions stored: GPT-2's and GPT-Neo's masks, rotary frequencies. They are computed, not loaded.
_COMPUTED = re.compile(r"(^|\.)(attn|attention)(\.attention)?\.(bias|masked_bias)$|rotary_emb\.inv_freq$")


def is_causal(model_type: str) -> bool:
    """Return whether transformers can build a causal language model of this type without running foreign code."""
    return model_type in classes_of("CAUSAL_LM")


def is_classifier(module: nn.Module) -> bool:
    """Return whether the module says something of texts or their words, and does not continue them."""
    return transformers_heads.task_of(module) is not None


def construct(entry: Entry) -> PreTrainedModel:
    """Return the causal language model that the configuration describes, or one with its head, in evaluation mode.

    A head for texts reads the last token that is not padding: padding is then the token that the configuration names,
    else the one that ends a text.

    Raises:
        CheckpointError: there is no configuration, transformers has no such architecture (code that comes with a
            checkpoint is never run), it is not causal, or the checkpoint is quantized already.
    """
    from transformers import AutoModelForCausalLM

    values = configuration(entry)
    config = library_config(entry, values, known=is_causal, called="a causal language model")
    seen = None if classifies(values) or is_bare(values) else sees_later_tokens(values)
    if seen is not None:
        raise CheckpointError(
            f"{entry.name}: expected a causal language model, got a {values['model_type']} that sees the tokens that "
            f"it should predict, since {seen}; load its folder or repository by name, and the plugin that fits takes it"
        )
    if classifies(values):
        _set_padding(entry, config)
    bare = is_bare(values)
    module: Any = transformers_heads.text_module(entry, values, config, AutoModelForCausalLM, bare=bare)
    if not bare and not classifies(values):
        library.set_generation(module, entry)
    return module.eval()


def _set_padding(entry: Entry, config: Any) -> None:
    config.use_cache = False  # nothing is continued
    text = config.get_text_config()
    if text.pad_token_id is None:
        ends = text.eos_token_id
        ends = ends[0] if isinstance(ends, list) and ends else ends
        if ends is None and entry.folder is not None:
            with suppress(ZooError):  # without a tokenizer there is no text to pad
                tokenizer = library.tokenizer_of(entry)
                ends = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        text.pad_token_id = config.pad_token_id = 0 if ends is None else ends


def checkpoint(entry: Entry, module: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Yield (parameter or buffer name of `module`, tensor) in the order of the files; unknown names are kept."""
    return library.named_tensors(entry, module, ignored=lambda name: bool(_COMPUTED.search(name)))


def save(model: Model, folder: Path, state_dict: dict[str, Tensor]) -> bool:
    """Write config.json, generation_config.json, safetensors and the tokenizer, as `from_pretrained` reads them."""
    module: Any = model.module
    library.save_library_model(module, folder, state_dict, lambda: library.tokenizer_of(model.entry))
    return True


def context_of(model: Model) -> int:
    """Return the longest sequence that the model takes, in tokens (2**31 for a model without a limit)."""
    config = model.module.config
    limits = (getattr(config, name, None) for name in ("max_position_embeddings", "n_positions", "max_seq_len"))
    return next((int(limit) for limit in limits if isinstance(limit, int) and limit > 0), 2**31)
