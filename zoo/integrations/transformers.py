"""transformers' models: their configuration, their weights under whatever names a checkpoint gives them, tokenizers.

transformers knows how its architectures' parameters were called over the years, and which checkpoints store parts that
it joins (one tensor per expert, say). Both are used as they are, one tensor at a time; nothing here names a class.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import CheckpointError, OutputError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from zoo.catalog.entry import Entry


def library_config(
    entry: Entry, values: dict[str, Any], *, known: Callable[[str], bool], called: str
) -> PreTrainedConfig:
    """transformers' configuration object of the values of a config.json.

    known: whether a model_type is of the architecture, which errors call `called`. Code that comes with a checkpoint
    is never run. Raises CheckpointError for a type that is not known, values that are not valid, and a checkpoint that
    is quantized already.
    """
    from transformers import CONFIG_MAPPING

    if not values:
        raise CheckpointError(
            f"{entry.name}: expected a config.json with a model_type in {entry.folder or 'the registry'}, found none"
        )
    values = dict(values)
    # Where to find code that is to be run, and how a quantized file was written: neither is followed.
    values.pop("auto_map", None)
    if values.pop("quantization_config", None):
        raise CheckpointError(
            f"{entry.name}: expected full-precision weights, found a checkpoint that is quantized already; "
            "load the model that it was made from, with bits=4 or bits=8"
        )
    model_type = str(values.pop("model_type", ""))
    if not known(model_type):
        raise CheckpointError(
            f"{entry.name}: expected a model_type that transformers knows as {called}, found "
            f"{model_type!r}; code that comes with a checkpoint is never run: update transformers or take another model"
        )
    try:
        return CONFIG_MAPPING[model_type].from_dict(values)
    except Exception as error:  # validators raise errors of their own
        told = " ".join(str(error).split())
        raise CheckpointError(
            f"{entry.name}: its config.json is no valid {model_type} configuration: {told}"
        ) from error


def tie(module: PreTrainedModel) -> None:
    """Makes tied parameters one object again: a meta context puts a new one at every assignment."""
    for alias, source in ties(module).items():
        path, _, leaf = alias.rpartition(".")
        module.get_submodule(path)._parameters[leaf] = module.get_parameter(source)


def ties(module: nn.Module) -> dict[str, str]:
    """Parameter name → the name of the parameter that it is tied to."""
    return dict(getattr(module, "all_tied_weights_keys", None) or {})


def named_tensors(
    entry: Entry, module: PreTrainedModel, *, ignored: Callable[[str], bool]
) -> Iterator[tuple[str, Tensor]]:
    """(parameter or buffer name of `module`, tensor), in the order of the files; what belongs nowhere keeps its name.

    A tensor that the architecture joins from several is given as soon as its last part has been read. Names of which
    the module has no such parameter are left out where `ignored`, or transformers' own list for the class, says so.

    Raises CheckpointError where a tied weight is stored twice and differs.
    """
    import torch
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    from zoo.storage.checkpoint import tensors

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
    aliases = ties(module)
    tied = {*aliases, *aliases.values()}
    seen: dict[str, Tensor] = {}
    # How many parts each joined tensor has: asked of the names alone, so only where something is to be joined.
    names = (name for name, _ in tensors(entry)) if converters else ()
    awaited = Counter(renamed for renamed, pattern in map(target, names) if pattern)
    joined: dict[str, Any] = {}
    for name, tensor in tensors(entry):
        renamed, pattern = target(name)
        if renamed not in own and (ignored(renamed) or _library_ignores(renamed, module)):
            continue
        if pattern:
            converter = joined.setdefault(renamed, deepcopy(converter_of[pattern]))
            converter.add_tensor(renamed, name, pattern, tensor)
            awaited[renamed] -= 1
            if not awaited[renamed]:
                for key, value in joined.pop(renamed).convert(renamed, model=module, config=module.config).items():
                    yield key, value[0] if isinstance(value, list) else value
            continue
        canonical = aliases.get(renamed, renamed)
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


def _library_ignores(name: str, module: nn.Module) -> bool:
    patterns = getattr(module, "_keys_to_ignore_on_load_unexpected", None) or ()
    return any(re.search(pattern, name) for pattern in patterns)


@lru_cache(maxsize=8)
def read_tokenizer(folder: str) -> PreTrainedTokenizerBase:
    """The tokenizer whose files lie in `folder`. Raises CheckpointError if there is none or it cannot be read."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    files = {path.name for path in Path(folder).iterdir()} if Path(folder).is_dir() else set()
    if not files & {"tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model"}:
        raise CheckpointError(
            f"{folder}: expected a tokenizer.json beside the weights, found {', '.join(sorted(files)) or 'no files'}; "
            "add the model's tokenizer files"
        )
    try:
        if files.isdisjoint({"config.json", "tokenizer_config.json"}):
            return PreTrainedTokenizerFast(tokenizer_file=str(Path(folder) / "tokenizer.json"))
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the readers raise whatever their parsers do
        told = " ".join(str(error).split())
        raise CheckpointError(f"{folder}: its tokenizer cannot be read: {type(error).__name__}: {told}") from error


def save_library_model(module: PreTrainedModel, folder: Path, state_dict: dict[str, Tensor]) -> None:
    """config.json and safetensors as `from_pretrained` reads them. Raises OutputError where they cannot be written."""
    try:
        module.save_pretrained(folder, state_dict=state_dict)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from error
