"""Build the module, read its weights under the names of any year, and write transformers' own format."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.integrations import transformers as library
from zoo.integrations import transformers_heads
from zoo.integrations.transformers_config import library_config

from .facts import classifies, configuration, is_bare, is_masked
from .initial import place_positions

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from zoo import Entry, Model

# What was trained beside masked language modelling and is of no use to it: the pooler, the head of next-sentence
# prediction, ELECTRA's discriminator. And buffers that older versions stored; they are computed, not loaded.
_UNUSED = re.compile(
    r"(^|\.)pooler\.|^cls\.seq_relationship\.|^sop_classifier\.|^discriminator_predictions\.|rotary_emb\.\w*inv_freq$"
    r"|(^|\.)embeddings\.(position_ids|token_type_ids)$"
)
_POOLER = re.compile(r"(^|\.)pooler\.")
_SEED = 0  # of a classifier's head where the checkpoint has none: the same for everyone who loads it


def is_classifier(module: nn.Module) -> bool:
    """Return whether the module says something of texts or their words, and does not fill masks."""
    return transformers_heads.task_of(module) is not None


def construct(entry: Entry) -> PreTrainedModel:
    """Return the masked language model, or the one with another head, that the configuration describes, for evaluation.

    Code that comes with a checkpoint is never run. Random weights begin as `initial.py` says.

    Raises:
        CheckpointError: there is no configuration, transformers has no such architecture, or the checkpoint is
            quantized already.
    """
    from transformers import AutoModelForMaskedLM

    values = configuration(entry)
    config = library_config(entry, values, known=is_masked, called="a masked language model")
    bare = is_bare(values)
    module: Any = transformers_heads.text_module(entry, values, config, AutoModelForMaskedLM, bare=bare)
    if entry.weights == "random" and not bare and not classifies(values) and values.get("model_type") == "bert":
        place_positions(module)
    return module.eval()


def checkpoint(entry: Entry, module: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Yield (parameter or buffer name of `module`, tensor), in the order of the files; unknown names stay as they are.

    A classifier whose checkpoint has no head gets a new one (with pooler, where the architecture has one), the same at
    every load: random weights of the configuration's deviation, biases of zero.
    """
    if entry.head is not None or not is_classifier(module):
        yield from library.named_tensors(entry, module, ignored=lambda name: bool(_UNUSED.search(name)))
        return

    def ignored(name: str) -> bool:
        return bool(_UNUSED.search(name)) or not name.startswith(f"{module.base_model_prefix}.")

    found = set()
    for name, tensor in library.named_tensors(entry, module, ignored=ignored):
        found.add(name)
        yield name, tensor
    head = {name: parameter for name, parameter in module.named_parameters() if _is_head(name, module)}
    last = {name for name, parameter in head.items() if len(parameter) == module.config.num_labels}
    if not last & found:  # else what is missing is missing from a trained classifier: an error
        yield from _new_head(module, sorted(head.keys() - found))


def _is_head(name: str, module: PreTrainedModel) -> bool:
    return not name.startswith(f"{module.base_model_prefix}.") or bool(_POOLER.search(name))


def _new_head(module: PreTrainedModel, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    import torch

    generator = torch.Generator().manual_seed(_SEED)
    deviation = float(getattr(module.config, "initializer_range", 0.02))
    for name in names:
        shape = module.get_parameter(name).shape
        if len(shape) > 1:
            yield name, torch.randn(shape, generator=generator) * deviation
        else:  # a norm's gain is one, every other vector a bias
            yield name, torch.ones(shape) if name.endswith("norm.weight") else torch.zeros(shape)


def tokenizer_of(model: Model) -> PreTrainedTokenizerBase:
    """Return the tokenizer beside the model's weights.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    return library.tokenizer_of(model.entry)


def context_of(model: Model) -> int:
    """Return the longest sequence that the model takes, in tokens (2**31 for a model without a limit).

    Architectures that count positions from their padding's number on (RoBERTa) take fewer than their table has rows.
    """
    limit = getattr(model.module.config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return 2**31
    for path, layer in model.module.named_modules():
        if path.endswith("position_embeddings") and getattr(layer, "padding_idx", None) is not None:
            return limit - layer.padding_idx - 1
    return limit


def check_vocabulary(model: Model, highest: int) -> None:
    """Check that the token ids up to `highest` are the model's.

    Raises:
        CheckpointError: they are not.
    """
    library.check_vocabulary(model.entry, model.module.config.vocab_size, highest)


def save(model: Model, folder: Path, state_dict: dict[str, Tensor]) -> bool:
    """Write config.json, safetensors and the tokenizer, as `from_pretrained` reads them."""
    module: Any = model.module
    library.save_library_model(module, folder, state_dict, lambda: tokenizer_of(model))
    return True
