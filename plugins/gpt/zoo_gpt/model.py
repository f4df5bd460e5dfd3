"""Build the module, read its weights under the names of any year, and write transformers' own format."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import CheckpointError
from zoo.errors import one_line
from zoo.integrations import transformers as library
from zoo.integrations import transformers_heads

from .facts import classifies, configuration

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from zoo import Entry, Model

# Buffers that older versions stored: GPT-2's and GPT-Neo's masks, rotary frequencies. They are computed, not loaded.
_COMPUTED = re.compile(r"(^|\.)(attn|attention)(\.attention)?\.(bias|masked_bias)$|rotary_emb\.inv_freq$")


def is_causal(model_type: str) -> bool:
    """Return whether transformers can build a causal language model of this type without running foreign code."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def is_decoder(model_type: str) -> bool:
    """Return whether this is a type of causal language models, and not of masked ones that can be causal too."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    return is_causal(model_type) and model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def is_classifier(module: nn.Module) -> bool:
    """Return whether the module says something of texts or their words, and does not continue them."""
    return transformers_heads.task_of(module) is not None


def construct(entry: Entry) -> PreTrainedModel:
    """Return the causal language model that the configuration describes, or one with its head, in evaluation mode.

    A head for texts reads the last token that is not padding: padding is then the token that the configuration names,
    else the one that ends a text.

    Raises:
        CheckpointError: there is no configuration, transformers has no such architecture (code that comes with a
            checkpoint is never run), or the checkpoint is quantized already.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoModelForTokenClassification

    values = configuration(entry)
    config = library.library_config(entry, values, known=is_causal, called="a causal language model")
    maker: Any = AutoModelForCausalLM
    if classifies(values):
        tokens = transformers_heads.kind_of(values["architectures"][0], config.model_type) == transformers_heads.TOKEN
        maker = AutoModelForTokenClassification if tokens else AutoModelForSequenceClassification
        _set_padding(entry, config)
    try:
        module = maker.from_config(config, trust_remote_code=False)
    except ValueError as error:  # a type that has no such head
        raise CheckpointError(f"{entry.name}: transformers cannot build it: {one_line(error, 200)}") from error
    library.tie(module)
    if maker is AutoModelForCausalLM:
        _set_generation(module, entry)
    return module.eval()


def _set_padding(entry: Entry, config: Any) -> None:
    config.use_cache = False  # nothing is continued
    text = config.get_text_config()
    if text.pad_token_id is None:
        ends = text.eos_token_id
        ends = ends[0] if isinstance(ends, list) and ends else ends
        if ends is None and entry.folder is not None:
            tokenizer = library.tokenizer_of(entry)
            ends = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        text.pad_token_id = config.pad_token_id = 0 if ends is None else ends


def _set_generation(module: PreTrainedModel, entry: Entry) -> None:
    from transformers import GenerationConfig

    if entry.folder and (Path(entry.folder) / "generation_config.json").is_file():
        try:
            module.generation_config = GenerationConfig.from_pretrained(entry.folder)
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(f"{entry.folder}: its generation_config.json cannot be read: {error}") from error


def checkpoint(entry: Entry, module: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Yield (parameter or buffer name of `module`, tensor) in the order of the files; unknown names are kept.

    Raises:
        CheckpointError: the files are of a body alone, no head was asked for, and the library does not tie one to it.
    """
    if entry.head is None and not library.ties(module):
        transformers_heads.check_has_head(entry, entry.config)
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
