"""Build the module, read its weights under the names of any year, and write transformers' own format."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import CheckpointError
from zoo.integrations import transformers as library
from zoo.integrations.auto_classes import classes_of, sees_later_tokens

from .facts import configuration

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from zoo import Entry, Model

# Buffers that older versions stored: GPT-2's and GPT-Neo's masks, rotary frequencies. They are computed, not loaded.
_COMPUTED = re.compile(r"(^|\.)(attn|attention)(\.attention)?\.(bias|masked_bias)$|rotary_emb\.inv_freq$")


def is_causal(model_type: str) -> bool:
    """Return whether transformers can build a causal language model of this type without running foreign code."""
    return model_type in classes_of("CAUSAL_LM")


def construct(entry: Entry) -> PreTrainedModel:
    """Return the causal language model that the entry's configuration describes, in evaluation mode.

    Raises:
        CheckpointError: there is no configuration, transformers has no such architecture (code that comes with a
            checkpoint is never run), it is not causal, or the checkpoint is quantized already.
    """
    from transformers import AutoModelForCausalLM

    values = configuration(entry)
    config = library.library_config(entry, values, known=is_causal, called="a causal language model")
    seen = sees_later_tokens(values)
    if seen is not None:
        raise CheckpointError(
            f"{entry.name}: expected a causal language model, got a {values['model_type']} that sees the tokens that "
            f"it should predict, since {seen}; load its folder or repository by name, and the plugin that fits takes it"
        )
    module = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    library.tie(module)
    library.set_generation(module, entry)
    return module.eval()


def checkpoint(entry: Entry, module: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Yield (parameter or buffer name of `module`, tensor) in the order of the files; unknown names are kept."""
    return library.named_tensors(entry, module, ignored=lambda name: bool(_COMPUTED.search(name)))


def save(model: Model, folder: Path, state_dict: dict[str, Tensor]) -> bool:
    """Write config.json, generation_config.json, safetensors and the tokenizer, as `from_pretrained` reads them."""
    module: Any = model.module
    library.save_library_model(module, folder, state_dict, lambda: library.tokenizer_of(model.entry))
    return True
