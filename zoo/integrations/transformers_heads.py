"""Heads of transformers' models: how its configurations and classes say what they are for, and of which classes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zoo.catalog.head import Head
from zoo.errors import CheckpointError, ZooError, one_line
from zoo.integrations.auto_classes import class_names, classes_of, is_for
from zoo.integrations.transformers import made_from_config, tie

if TYPE_CHECKING:
    from torch import nn

    from zoo.catalog.entry import Entry

# What the library calls the problems that one class of its has.
PROBLEMS = {
    "classify": "single_label_classification",
    "multilabel": "multi_label_classification",
    "regress": "regression",
}
# transformers' names of the tasks, as in `auto_classes.classes_of`.
SEQUENCE, TOKEN, IMAGE = "SEQUENCE_CLASSIFICATION", "TOKEN_CLASSIFICATION", "IMAGE_CLASSIFICATION"
_PEFT = {SEQUENCE: "SEQ_CLS", TOKEN: "TOKEN_CLS"}
_OWN = ("num_labels", "_num_labels", "id2label", "label2id", "problem_type", "architectures")


def with_head(values: Mapping[str, Any], head: Head | None, *, images: bool = False) -> dict[str, Any]:
    """Return the values of a config.json for a model with a head; as they are without one.

    Args:
        values: the checkpoint's.
        head: as `entry.head`.
        images: whether the model classifies images, and not texts.

    Raises:
        CheckpointError: transformers has no such class of the type.
    """
    if head is None or head.task is None:
        return dict(values)
    kind = IMAGE if images else TOKEN if head.task == "tokens" else SEQUENCE
    found = {key: value for key, value in values.items() if key not in _OWN}
    made = classes_of(kind).get(str(values.get("model_type")), ())
    if not made:
        raise CheckpointError(
            f"transformers has no {kind.lower().replace('_', ' ')} of model_type {values.get('model_type')!r}: leave "
            "classes and task out, or take another model"
        )
    found |= {"architectures": [made[0]], "problem_type": PROBLEMS.get(head.task)}
    if head.names:
        names = dict(enumerate(head.names))
        return {**found, "id2label": names, "label2id": {name: index for index, name in names.items()}}
    return {**found, "num_labels": head.count}


def classifies(values: Mapping[str, Any]) -> bool:
    """Return whether a configuration is of a model that says something of texts or their words."""
    return bool(values.get("architectures")) and is_for(values, SEQUENCE, TOKEN)


def text_module(entry: Entry, values: Mapping[str, Any], config: Any, own: Any, *, bare: bool) -> Any:
    """Return the module of a configuration: with a head for texts or words, the body alone, or as `own` makes it.

    Args:
        entry: the model's.
        values: of its config.json.
        config: the same as transformers reads it.
        own: the Auto class of what the plugin is for.
        bare: whether the configuration is a body's.

    Raises:
        CheckpointError: transformers has no such class of the type.
    """
    from transformers import AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification

    maker = AutoModel if bare else own
    if classifies(values):
        tokens = kind_of(values["architectures"][0], config.model_type) == TOKEN
        maker = AutoModelForTokenClassification if tokens else AutoModelForSequenceClassification
    try:
        module = made_from_config(maker, config)
    except Exception as error:  # a type that has no such head; constructors raise whatever their parts do
        raise CheckpointError(f"{entry.name}: transformers cannot build it: {one_line(error, 300)}") from error
    tie(module)
    return module


def kind_of(class_name: str, model_type: str) -> str | None:
    """Return which kind of head a class of the library has: SEQUENCE, TOKEN or IMAGE; None for another or none."""
    return next((kind for kind in (SEQUENCE, TOKEN, IMAGE) if class_name in classes_of(kind).get(model_type, ())), None)


def is_body(class_name: str, model_type: str) -> bool:
    """Return whether a class of the library is a body without any head, such as `BertModel`."""
    return class_name in classes_of("").get(model_type, ())


def check_has_head(name: str, module: nn.Module) -> None:
    """Raise `ZooError` for a body alone, which learns and says nothing.

    Args:
        name: the model's.
        module: its module.
    """
    config: Any = module.config
    if is_body(type(module).__name__, config.model_type):
        raise ZooError(
            f"{name}: a {type(module).__name__} is a body without a head, so call the module itself, or load it with "
            "what it is to learn: classes=[…], or task='regress'"
        )


def own_head(values: Mapping[str, Any]) -> Head | None:
    """Return the head that a checkpoint comes with, by its config.json; None for a body or a language model."""
    names = class_names(values)
    kind = kind_of(names[0], str(values.get("model_type"))) if names else None
    if kind is None:
        return None
    try:
        labels = {int(index): str(label) for index, label in (values.get("id2label") or {}).items()}
        count = int(len(labels) or values.get("num_labels") or values.get("_num_labels") or 2)
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise CheckpointError(
            f"its config.json: expected id2label and num_labels as names and numbers: {one_line(error, 200)}"
        ) from error
    return Head(
        _task(kind, values.get("problem_type"), count), _named([labels.get(i, "") for i in range(count)]), count
    )


def sample_kinds(values: Mapping[str, Any]) -> list[str]:
    """Return of which kinds of `zoo.Samples` the answers are of a model on texts, by its config.json."""
    own = own_head(values)
    task = "" if own is None else str(own.task)
    return {"classify": ["posterior"], "multilabel": ["probabilities"]}.get(task, ["text"])


def task_of(module: nn.Module) -> str | None:
    """Return for which task of `zoo.catalog.head.TASKS` a module of the library's is; None for none of them."""
    config: Any = module.config
    kind = kind_of(type(module).__name__, config.model_type)
    return None if kind is None else _task(kind, config.problem_type, config.num_labels)


def names_of(module: nn.Module) -> list[str]:
    """Return the names of the classes of a module of the library's, in order."""
    config: Any = module.config
    return [str(config.id2label[index]) for index in range(config.num_labels)]


def peft_task(module: nn.Module) -> str | None:
    """Return what PEFT's `task_type` is for a module; None where it has none, as for images and other libraries'."""
    kind = getattr(getattr(module, "config", None), "model_type", None)
    if not hasattr(module, "base_model_prefix") or not isinstance(kind, str):
        return None
    return _PEFT.get(kind_of(type(module).__name__, kind) or "")


def _task(kind: str, problem: str | None, count: int) -> str:
    if kind == TOKEN:
        return "tokens"
    if problem is None:  # as the library decides it
        return "regress" if count == 1 else "classify"
    return next((task for task, name in PROBLEMS.items() if name == problem), "classify")


def _named(labels: list[str]) -> tuple[str, ...]:
    """Return the labels if they are names, and not the numbers that the library fills in."""
    usual = all(re.fullmatch(rf"LABEL_{index}|{index}", label) for index, label in enumerate(labels))
    return () if usual or not all(labels) else tuple(labels)
