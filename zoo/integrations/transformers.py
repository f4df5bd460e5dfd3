"""transformers' models: weights under the names of any year, tokenizers, image processors, saving.

transformers knows how its architectures' parameters were called over the years, and which checkpoints store parts that
it joins (one tensor per expert, say). Both are used as they are, one tensor at a time; no class is named here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import CheckpointError, OutputError, ZooError, one_line
from zoo.integrations.configured import check_files, without_code
from zoo.integrations.transformers_config import library_config
from zoo.storage.config_json import read_json_object

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
    from transformers.image_processing_utils import BaseImageProcessor

    from zoo.catalog.entry import Entry


# Buffers that files of older releases hold, and that are in no module today.
_ONCE_STORED = ("position_ids", "inv_freq", "masked_bias")


def construct(entry: Entry, values: dict[str, Any], library_class: Any) -> PreTrainedModel:
    """Return the module of a class of transformers, in evaluation mode, ready to generate where it can.

    Args:
        entry: whose configuration it is.
        values: the content of its config.json.
        library_class: the class, as `zoo.integrations.auto_classes.model_class` finds it.

    Raises:
        CheckpointError: the class refuses the configuration, or a file beside it cannot be read.
    """
    from transformers import CONFIG_MAPPING

    own = library_class.config_class
    values = {**values, "model_type": values.get("model_type", own.model_type)}
    config = library_config(entry, values, known=lambda kind: kind in CONFIG_MAPPING, called="one of its types")
    try:
        module = library_class(config)
    except Exception as error:  # constructors raise whatever their parts do
        raise CheckpointError(
            f"{entry.name}: its config.json makes no {library_class.__name__}: {one_line(error, 300)}"
        ) from error
    tie(module)
    set_generation(module, entry)
    return module.eval()


def made_from_config(auto_class: Any, config: PreTrainedConfig) -> PreTrainedModel:
    """Return the module that one of transformers' Auto classes makes of a configuration, in torch's default dtype.

    transformers would set the default dtype to the configuration's meanwhile, and that belongs to the process: modules
    that other threads build would be in it.
    """
    parts = [config, *(getattr(config, name, None) for name in getattr(config, "sub_configs", {}))]
    dtypes = [(part, part.dtype) for part in parts if part is not None]
    config.dtype = None
    try:
        module = auto_class.from_config(config, trust_remote_code=False)
    finally:
        for part, dtype in dtypes:
            part.dtype = dtype
    module.config.dtype = config.dtype  # a copy in some releases
    return module


def set_generation(module: PreTrainedModel, entry: Entry) -> None:
    """Give a module the settings in the entry's generation_config.json, if there is one.

    Raises:
        CheckpointError: it cannot be read.
    """
    from transformers import GenerationConfig

    values = read_json_object(Path(entry.folder) / "generation_config.json", entry) if entry.folder else None
    if values is not None:
        try:
            module.generation_config = GenerationConfig.from_dict(without_code(values, entry.name))
        except Exception as error:  # validators raise errors of their own
            raise CheckpointError(
                f"{entry.folder}: its generation_config.json cannot be used: {one_line(error, 300)}"
            ) from error


def computed(module: nn.Module) -> Callable[[str], bool]:
    """Return whether a name is that of a buffer which the module computes, and which older files hold all the same."""
    own = {f"{path}.{name}" if path else name for path, layer in module.named_modules() for name in layer._buffers}
    own -= module.state_dict().keys()
    return lambda name: name in own or name.rpartition(".")[2] in _ONCE_STORED


def tie(module: PreTrainedModel) -> None:
    """Make tied parameters one object again: a meta context puts a new one at every assignment."""
    for alias, source in ties(module).items():
        path, _, leaf = alias.rpartition(".")
        module.get_submodule(path)._parameters[leaf] = module.get_parameter(source)


def ties(module: nn.Module) -> dict[str, str]:
    """Return parameter name → the name of the parameter that it is tied to."""
    return dict(getattr(module, "all_tied_weights_keys", None) or {})


def named_tensors(
    entry: Entry, module: PreTrainedModel, *, ignored: Callable[[str], bool]
) -> Iterator[tuple[str, Tensor]]:
    """Yield (parameter or buffer name of `module`, tensor), in the order of the files; unknown names stay as they are.

    A tensor that the architecture joins from several is yielded as soon as its last part has been read.

    Args:
        entry: whose files to read.
        module: whose names count.
        ignored: returns whether to leave out a name of which the module has no parameter; those in transformers' own
            list for the class are left out too.

    Raises:
        CheckpointError: a tied weight is stored twice and differs.
    """
    import torch
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    from zoo.storage.checkpoint import tensors

    transforms = get_model_conversion_mapping(module)
    renamings = [each for each in transforms if isinstance(each, WeightRenaming)]
    converters = [each for each in transforms if isinstance(each, WeightConverter)]
    own = module.state_dict()
    prefix = module.base_model_prefix

    def target(name: str) -> tuple[str, str | None]:
        """Return the module's name for a stored name, and the pattern of the converter that it goes through, if any."""
        renamed, pattern = rename_source_key(name, renamings, converters, prefix, own)
        if renamed not in own and name in own:  # a renaming meant for older files caught a current name
            return name, None
        if renamed not in own and prefix:  # of a body alone; earlier versions rename only below the body's own name
            within = rename_source_key(f"{prefix}.{name}", renamings, converters, prefix, own)
            return within if within[0] in own else (renamed, pattern)
        return renamed, pattern

    converter_of = {pattern: each for each in converters for pattern in each.source_patterns}
    aliases = ties(module)
    tied = {*aliases, *aliases.values()}
    seen: dict[str, Tensor] = {}
    found: set[str] = set()
    # How many parts each joined tensor has, from the names alone; only where something is to be joined.
    names = (name for name, _ in tensors(entry)) if converters else ()
    awaited = Counter(renamed for renamed, pattern in map(target, names) if pattern)
    parts: dict[str, list[tuple[str, str, Tensor]]] = {}
    for name, tensor in tensors(entry):
        renamed, pattern = target(name)
        if renamed not in own and (ignored(renamed) or _library_ignores(renamed, module)):
            continue
        if pattern:
            parts.setdefault(renamed, []).append((name, pattern, tensor))
            if len(parts[renamed]) == awaited[renamed]:
                converter = deepcopy(converter_of[pattern])
                # By their numbers: in a file expert 10 may come before expert 2.
                for part, own_pattern, value in sorted(parts.pop(renamed), key=lambda one: dot_natural_key(one[0])):
                    converter.add_tensor(renamed, part, own_pattern, value)
                for key, value in converter.convert(renamed, model=module, config=module.config).items():
                    yield key, value[0] if isinstance(value, list) else value
            continue
        found.add(renamed)
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
    yield from _unsaved(module, found)


def _unsaved(module: PreTrainedModel, found: set[str]) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters that a class leaves out of its files because it computes them, as it computes them."""
    left_out = set(getattr(module, "_keys_to_ignore_on_save", None) or ()) - found
    for name in left_out & dict(module.named_parameters()).keys():
        path, _, leaf = name.rpartition(".")
        layer = deepcopy(module.get_submodule(path)).to_empty(device="cpu")
        module._init_weights(layer)
        yield name, getattr(layer, leaf).detach()


def _library_ignores(name: str, module: nn.Module) -> bool:
    patterns = getattr(module, "_keys_to_ignore_on_load_unexpected", None) or ()
    return any(re.search(pattern, name) for pattern in patterns)


@lru_cache(maxsize=8)
def read_tokenizer(folder: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer whose files are in `folder`.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    files = {path.name for path in Path(folder).iterdir()} if Path(folder).is_dir() else set()
    if not files & {"tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model"}:
        raise CheckpointError(
            f"{folder}: expected a tokenizer.json beside the weights, got {', '.join(sorted(files)) or 'no files'}; "
            "add the model's tokenizer files"
        )
    check_files(Path(folder), files)
    try:
        if files.isdisjoint({"config.json", "tokenizer_config.json"}):
            return PreTrainedTokenizerFast(tokenizer_file=str(Path(folder) / "tokenizer.json"))
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the readers raise whatever their parsers do
        raise CheckpointError(
            f"{folder}: its tokenizer cannot be read: {type(error).__name__}: {one_line(error)}"
        ) from error


def tokenizer_of(entry: Entry) -> PreTrainedTokenizerBase:
    """Return the tokenizer beside an entry's weights.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    if entry.folder is None:
        raise CheckpointError(
            f"{entry.name}: expected a folder with a tokenizer.json, and the model was built without files"
        )
    return read_tokenizer(str(entry.folder))


def check_vocabulary(entry: Entry, size: int, highest: int) -> None:
    """Check that token ids up to `highest` are below `size`, the model's number of tokens.

    Raises:
        CheckpointError: they are not.
    """
    if highest >= size:
        raise CheckpointError(
            f"{entry.name}: the model has {size} tokens and the text has token {highest}; "
            "the tokenizer belongs to another model"
        )


def image_processor(
    folder: Path | str | None, library_class: Any, default: Callable[[], BaseImageProcessor]
) -> BaseImageProcessor:
    """Return the image processor whose file is in `folder`, or the default where there is none.

    Args:
        folder: the model's, or None for a model without files.
        library_class: the class that reads the file, such as `AutoImageProcessor`.
        default: makes one where there is no file.

    Raises:
        CheckpointError: its file cannot be used.
    """
    if folder is None or not (Path(folder) / "preprocessor_config.json").is_file():
        return default()
    read_json_object(Path(folder) / "preprocessor_config.json")
    try:
        return library_class.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the readers raise whatever their parsers do
        raise CheckpointError(f"{folder}: its preprocessor_config.json cannot be used: {one_line(error)}") from error


def save_library_model(
    module: PreTrainedModel,
    folder: Path,
    state_dict: dict[str, Tensor],
    tokenizer: Callable[[], PreTrainedTokenizerBase] | None = None,
) -> None:
    """Write config.json, safetensors and the tokenizer as `from_pretrained` reads them.

    Args:
        module: whose configuration is written.
        folder: where to.
        state_dict: the weights in the library's own names.
        tokenizer: returns the tokenizer, or raises ZooError for a model that came without one, which is then saved
            without one.

    Raises:
        OutputError: they cannot be written.
    """
    try:
        module.save_pretrained(folder, state_dict=state_dict)
        if tokenizer is not None:
            with suppress(ZooError):
                tokenizer().save_pretrained(folder)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from error
