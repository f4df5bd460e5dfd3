"""Build the module, read its weights under the names of any year, and write transformers' own format."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import CheckpointError
from zoo.integrations import transformers as library

from .facts import configuration

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from zoo import Entry, Model

# Buffers that older versions stored: GPT-2's and GPT-Neo's masks, rotary frequencies. They are computed, not loaded.
_COMPUTED = re.compile(r"(^|\.)(attn|attention)(\.attention)?\.(bias|masked_bias)$|rotary_emb\.inv_freq$")


def is_causal(model_type: str) -> bool:
    """Return whether transformers can build a causal language model of this type without running foreign code."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def construct(entry: Entry) -> PreTrainedModel:
    """Return the causal language model that the entry's configuration describes, in evaluation mode.

    Raises:
        CheckpointError: there is no configuration, transformers has no such architecture (code that comes with a
            checkpoint is never run), or the checkpoint is quantized already.
    """
    from transformers import AutoModelForCausalLM

    config = library.library_config(entry, configuration(entry), known=is_causal, called="a causal language model")
    module = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    library.tie(module)
    _set_generation(module, entry)
    return module.eval()


def _set_generation(module: PreTrainedModel, entry: Entry) -> None:
    from transformers import GenerationConfig

    if entry.folder and (Path(entry.folder) / "generation_config.json").is_file():
        try:
            module.generation_config = GenerationConfig.from_pretrained(entry.folder)
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(f"{entry.folder}: its generation_config.json cannot be read: {error}") from error


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
