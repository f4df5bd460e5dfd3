"""Build a module of its library's class, read its weights under today's names, and write the library's format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING, Any

from zoo import CheckpointError, OutputError
from zoo.integrations import auto_classes, diffusers, pyg, transformers

from .facts import Library, configuration, library_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zoo import Entry, Model


# Files beside the weights that say how inputs are made; they go with a saved model.
_PROCESSORS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")


def construct(entry: Entry) -> nn.Module:
    """Return the module that the entry's configuration describes, in evaluation mode.

    Code that comes with a checkpoint is never run.

    Raises:
        CheckpointError: the library has no such class, or its class refuses the configuration.
    """
    config = configuration(entry)
    library = _library(entry, config)
    if library == "transformers":
        return transformers.construct(entry, config, auto_classes.model_class(entry, config))
    return (diffusers if library == "diffusers" else pyg).construct(entry, config)


def _library(entry: Entry, config: dict[str, Any]) -> Library:
    library = library_of(config)
    if library is None:
        raise CheckpointError(
            f"{entry.name}: expected a config.json as transformers, diffusers or PyTorch Geometric writes it, got one "
            f"with {', '.join(config) or 'nothing'}"
        )
    return library


def checkpoint(entry: Entry, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield (parameter or buffer name of `module`, tensor), in the order of the files; unknown names are kept."""
    library = _library(entry, configuration(entry))
    if library == "transformers":
        return transformers.named_tensors(entry, module, ignored=transformers.computed(module))
    return diffusers.named_tensors(entry, module) if library == "diffusers" else pyg.named_tensors(entry)


def save(model: Model, folder: Path, state_dict: dict[str, Tensor]) -> bool:
    """Write the folder as the library's own loading reads it."""
    module: Any = model.module
    library = _library(model.entry, configuration(model.entry))
    if library == "transformers":
        transformers.save_library_model(module, folder, state_dict, lambda: transformers.tokenizer_of(model.entry))
        _copy_processors(model.entry, Path(folder))
    elif library == "diffusers":
        diffusers.save_library_model(module, Path(folder), state_dict)
    else:
        pyg.save_library_model(Path(folder), configuration(model.entry), state_dict)
    return True


def _copy_processors(entry: Entry, folder: Path) -> None:
    """Copy the files that say how a model's inputs are made, those that there are."""
    for name in _PROCESSORS if entry.folder else ():
        if (Path(entry.folder) / name).is_file() and not (folder / name).exists():
            try:
                copyfile(Path(entry.folder) / name, folder / name)
            except OSError as error:
                raise OutputError(f"{folder / name}: cannot be written: {error.strerror or error}") from error
