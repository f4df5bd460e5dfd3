"""Small models of many types, each in a folder as its library writes it, and what a call and the verbs take.

A subject is (library, task, type, make); `make(folder)` writes the folder and returns a `Case`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import tiny_types
import torch
from tiny_library import DIFFUSERS, PYG, TIMM, diffusers_case, pyg_case, timm_case
from tiny_types import Case

Make = Callable[[Path], Case]
TASKS = (
    *("CAUSAL_LM", "MASKED_LM", "SEQ_TO_SEQ_CAUSAL_LM", "SEQUENCE_CLASSIFICATION", "TOKEN_CLASSIFICATION"),
    *("QUESTION_ANSWERING", "MULTIPLE_CHOICE", "IMAGE_CLASSIFICATION", "SEMANTIC_SEGMENTATION"),
    *("MASKED_IMAGE_MODELING", "ZERO_SHOT_IMAGE_CLASSIFICATION", "SPEECH_SEQ_2_SEQ", "AUDIO_CLASSIFICATION", "CTC"),
    *("IMAGE_TEXT_TO_TEXT", "PRETRAINING"),
)


class Subject(NamedTuple):
    """A model type of a library.

    Attributes:
        library: "transformers", "diffusers", "timm" or "torch_geometric".
        task: what the library has it for.
        kind: what the library calls the type.
        make: writes a small one.
    """

    library: str
    task: str
    kind: str
    make: Make


def subjects(tasks: tuple[str, ...] = TASKS) -> Iterator[Subject]:
    """Yield the subjects; of transformers every class of the tasks once."""
    from zoo.integrations.auto_classes import classes_of

    seen: set[str] = set()
    for task in tasks:
        for kind, names in classes_of(task).items():
            # The plugin bert takes classes for pretraining as masked language models.
            if names[0] not in seen and not (task == "PRETRAINING" and kind in classes_of("MASKED_LM")):
                seen.add(names[0])
                yield Subject("transformers", task, kind, partial(tiny_types.case, kind, task))
    for name, arguments in TIMM.items():
        yield Subject("timm", "images", name, partial(timm_case, name, arguments))
    for name, (arguments, call) in DIFFUSERS.items():
        yield Subject("diffusers", "models", name, partial(diffusers_case, name, arguments, call))
    for name, arguments in PYG.items():
        yield Subject("torch_geometric", "graphs", name, partial(pyg_case, name, arguments))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Return whether two state dicts are equal."""
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def as_json(folder: Path, values: Any) -> None:
    """Write a configuration."""
    (folder / "config.json").write_text(json.dumps(values))
