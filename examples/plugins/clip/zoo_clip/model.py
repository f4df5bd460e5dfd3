"""Build the module, read its weights, its tokenizer and image processor, and write the library's format."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import CheckpointError
from zoo.integrations import transformers as library
from zoo.integrations.transformers_config import library_config

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import CLIPModel, PreTrainedTokenizerBase
    from transformers.image_processing_utils import BaseImageProcessor

    from zoo import Entry, Model


def construct(entry: Entry) -> CLIPModel:
    """Return the model of a config.json, in evaluation mode.

    Raises:
        CheckpointError: it is not valid.
    """
    from transformers import CLIPModel

    values = {"model_type": "clip", **entry.config} if entry.config else {}
    config = library_config(entry, values, known=lambda name: name == "clip", called="CLIP")
    return CLIPModel(config).eval()


def checkpoint(entry: Entry, module: CLIPModel) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor); the position numbers that older files stored are computed and not read."""
    return library.named_tensors(entry, module, ignored=lambda name: name.endswith("position_ids"))


def tokenizer_of(model: Model) -> PreTrainedTokenizerBase:
    """Return the tokenizer beside the weights.

    Raises:
        CheckpointError: there is none, or it does not fit.
    """
    tokenizer = library.tokenizer_of(model.entry)
    size = model.module.config.text_config.vocab_size
    if len(tokenizer) > size:
        raise CheckpointError(f"{model.entry.name}: its tokenizer has {len(tokenizer)} tokens, the model {size}")
    return tokenizer


def processor_of(model: Model) -> BaseImageProcessor:
    """Return the image processor beside the weights; where there is none, the paper's, at the model's size."""
    folder = model.entry.folder
    return _processor(folder and str(folder), model.module.config.vision_config.image_size)


@lru_cache(maxsize=8)
def _processor(folder: str | None, size: int) -> BaseImageProcessor:
    from transformers import CLIPImageProcessor

    def own() -> BaseImageProcessor:
        return CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})

    return library.image_processor(folder, CLIPImageProcessor, own)


def save(model: Model, folder: Path, state_dict: dict[str, Tensor]) -> bool:
    """Write config.json, safetensors, tokenizer and preprocessing, as `from_pretrained` reads them."""
    module: Any = model.module
    library.save_library_model(module, folder, state_dict, lambda: tokenizer_of(model))
    processor_of(model).save_pretrained(folder)
    return True
