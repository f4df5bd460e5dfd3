"""The module, its weights under whatever names a checkpoint gives them, and transformers' own format back.

transformers knows how its architectures' parameters were called over the years, and which checkpoints store parts that
it joins (one tensor per expert, say). Both are used as they are, one tensor at a time; nothing here names a class.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import CheckpointError, OutputError, ZooError

from .facts import configuration

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedConfig, PreTrainedModel

    from zoo import Entry, Model

# Buffers that older versions stored: GPT-2's and GPT-Neo's masks, rotary frequencies. They are computed, not loaded.
_COMPUTED = re.compile(r"(^|\.)(attn|attention)(\.attention)?\.(bias|masked_bias)$|rotary_emb\.inv_freq$")


def is_causal(model_type: str) -> bool:
    """Whether transformers can build a causal language model of this type without running foreign code."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def build(entry: Entry) -> PreTrainedModel:
    """The causal language model that the entry's configuration describes, in evaluation mode.

    Raises zoo.CheckpointError if there is no configuration, if transformers has no such architecture (code that comes
    with a checkpoint is never run), or if the checkpoint is quantized already.
    """
    from transformers import AutoModelForCausalLM

    module = AutoModelForCausalLM.from_config(_config(entry), trust_remote_code=False)
    _tie(module)
    _set_generation(module, entry)
    return module.eval()


def _config(entry: Entry) -> PreTrainedConfig:
    from transformers import CONFIG_MAPPING

    values = configuration(entry)
    if not values:
        raise CheckpointError(
            f"{entry.name}: expected a config.json with a model_type in {entry.folder or 'the registry'}, found none"
        )
    # Where to find code that is to be run, and how a quantized file was written: neither is followed.
    values.pop("auto_map", None)
    if values.pop("quantization_config", None):
        raise CheckpointError(
            f"{entry.name}: expected full-precision weights, found a checkpoint that is quantized already; "
            "load the model that it was made from, with bits=4 or bits=8"
        )
    model_type = str(values.pop("model_type", ""))
    if not is_causal(model_type):
        raise CheckpointError(
            f"{entry.name}: expected a model_type that transformers knows as a causal language model, found "
            f"{model_type!r}; code that comes with a checkpoint is never run: update transformers or take another model"
        )
    try:
        return CONFIG_MAPPING[model_type].from_dict(values)
    except Exception as error:  # validators raise errors of their own
        told = " ".join(str(error).split())
        raise CheckpointError(
            f"{entry.name}: its config.json is no valid {model_type} configuration: {told}"
        ) from error


def _tie(module: PreTrainedModel) -> None:
    """Makes tied parameters one object again: a meta context puts a new one at every assignment."""
    for alias, source in _ties(module).items():
        path, _, leaf = alias.rpartition(".")
        module.get_submodule(path)._parameters[leaf] = module.get_parameter(source)


def _ties(module: nn.Module) -> dict[str, str]:
    return dict(getattr(module, "all_tied_weights_keys", None) or {})


def _set_generation(module: PreTrainedModel, entry: Entry) -> None:
    from transformers import GenerationConfig

    if entry.folder and (Path(entry.folder) / "generation_config.json").is_file():
        try:
            module.generation_config = GenerationConfig.from_pretrained(entry.folder)
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(f"{entry.folder}: its generation_config.json cannot be read: {error}") from error


def named_tensors(entry: Entry, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(parameter or buffer name of `module`, tensor), in the order of the files; what belongs nowhere keeps its name.

    A tensor that the architecture joins from several is given as soon as its last part has been read.
    """
    import torch
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    from zoo.checkpoint import tensors

    transforms = get_model_conversion_mapping(module)
    renamings = [each for each in transforms if isinstance(each, WeightRenaming)]
    converters = [each for each in transforms if isinstance(each, WeightConverter)]
    own = module.state_dict()
    prefix = module.base_model_prefix

    def target(name: str) -> tuple[str, str | None]:
        """The module's name for a stored name, and the pattern of the converter that it goes through, if any."""
        renamed, pattern = rename_source_key(name, renamings, converters, prefix, own)
        if renamed not in own and name in own:  # a renaming meant for older files caught a current name
            return name, None
        return renamed, pattern

    converter_of = {pattern: each for each in converters for pattern in each.source_patterns}
    ties: dict[str, str] = _ties(module)
    tied = {*ties, *ties.values()}
    seen: dict[str, Tensor] = {}
    # How many parts each joined tensor has: asked of the names alone, so only where something is to be joined.
    names = (name for name, _ in tensors(entry)) if converters else ()
    awaited = Counter(renamed for renamed, pattern in map(target, names) if pattern)
    joined: dict[str, WeightConverter] = {}
    for name, tensor in tensors(entry):
        renamed, pattern = target(name)
        if renamed not in own and _is_ignored(renamed, module):
            continue
        if pattern:
            converter = joined.setdefault(renamed, deepcopy(converter_of[pattern]))
            converter.add_tensor(renamed, name, pattern, tensor)
            awaited[renamed] -= 1
            if not awaited[renamed]:
                for key, value in joined.pop(renamed).convert(renamed, model=module, config=module.config).items():
                    yield key, value[0] if isinstance(value, list) else value
            continue
        canonical = ties.get(renamed, renamed)
        if renamed in tied:
            trace = tensor.flatten()[:: max(1, tensor.numel() // 4096)].clone()
            if canonical in seen:  # stored under both of its names
                if not torch.equal(seen[canonical], trace):
                    raise CheckpointError(
                        f"{entry.name}: its configuration ties {renamed} to another weight, and the checkpoint holds "
                        'two that differ; if they are meant to, set "tie_word_embeddings": false in its config.json'
                    )
                continue
            seen[canonical] = trace
        yield canonical, tensor


def _is_ignored(name: str, module: nn.Module) -> bool:
    patterns = getattr(module, "_keys_to_ignore_on_load_unexpected", None) or ()
    return bool(_COMPUTED.search(name)) or any(re.search(pattern, name) for pattern in patterns)


def write(model: Model, folder: Path, state_dict: dict[str, Tensor]) -> None:
    """config.json, generation_config.json, safetensors and the tokenizer, as `from_pretrained` reads them."""
    from .text import tokenizer_of

    module: Any = model.module
    try:
        module.save_pretrained(folder, state_dict=state_dict)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from error
    try:
        tokenizer = tokenizer_of(model)
    except ZooError:  # a model that came without one is saved without one
        return
    tokenizer.save_pretrained(folder)
