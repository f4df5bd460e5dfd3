"""Which of transformers' classes a configuration is for, by the library's own tables.

A class is looked up, never judged by how its name ends. The tables are transformers' own, so they know the types of the
installed release. Looking a class up imports no torch.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import CheckpointError, did_you_mean

if TYPE_CHECKING:
    from zoo.catalog.entry import Entry

_END = "_MAPPING_NAMES"  # of the names of transformers' tables
# Types whose attention is of both sides, and whose configuration does not say so.
_BOTH_SIDES = {"cpmant": "its prompt is read from both sides"}


@lru_cache(maxsize=64)
def classes_of(task: str) -> Mapping[str, tuple[str, ...]]:
    """Return model_type → the names of the classes that transformers has for a task; none for an unknown task.

    Args:
        task: as in the names of transformers' tables, such as "CAUSAL_LM" of MODEL_FOR_CAUSAL_LM_MAPPING_NAMES; "" for
            bodies without a head.
    """
    table = f"MODEL_FOR_{task}{_END}" if task else f"MODEL{_END}"
    found = _written().get(table)
    if found is None:
        from transformers.models.auto import modeling_auto

        found = getattr(modeling_auto, table, {})
    return {kind: (names,) if isinstance(names, str) else tuple(names) for kind, names in found.items()}


@lru_cache(maxsize=1)
def _written() -> dict[str, dict[str, Any]]:
    """Return the tables that stand in transformers' source, read and not run: importing them would import torch."""
    package = find_spec("transformers")
    places = package.submodule_search_locations if package else None
    if not places:
        return {}
    source = (Path(places[0]) / "models" / "auto" / "modeling_auto.py").read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = {}
    for line in ast.parse(source).body:
        if not (isinstance(line, ast.Assign) and isinstance(line.value, ast.Call) and len(line.value.args) == 1):
            continue
        name, pairs = ast.unparse(line.targets[0]), line.value.args[0]
        if name.endswith(_END) and isinstance(pairs, ast.List):
            with suppress(ValueError, KeyError):  # one that is made in another way
                found[name] = dict(pair for part in pairs.elts for pair in _pairs(part, found))
    return found


def _pairs(part: ast.expr, tables: Mapping[str, dict[str, Any]]) -> list[tuple[str, Any]]:
    """Return what one element of a table's source stands for: a pair, or the pairs of a table before it."""
    if not isinstance(part, ast.Starred):
        return [ast.literal_eval(part)]
    name = next(one.id for one in ast.walk(part) if isinstance(one, ast.Name) and one.id.endswith(_END))
    return list(tables[name].items())


def is_for(config: Mapping[str, Any], *tasks: str) -> bool:
    """Return whether a configuration's class is one that transformers has for one of the tasks.

    The class is that in `architectures`, one of the type's where the configuration has a type. Where there is no class,
    the type decides: whether transformers has a class of it for the task.

    Args:
        config: the content of a config.json.
        tasks: as in `classes_of`.
    """
    kind, named = model_type(config), set(class_names(config))
    if kind is None:
        return any(not named.isdisjoint(names) for task in tasks for names in classes_of(task).values())
    return any(
        not named.isdisjoint(classes_of(task).get(kind, ())) if named else kind in classes_of(task) for task in tasks
    )


def model_type(config: Mapping[str, Any]) -> str | None:
    """Return a configuration's model_type; None if it has none."""
    kind = config.get("model_type")
    return kind if isinstance(kind, str) and kind else None


def class_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what a configuration says of its class, in `architectures`."""
    names = config.get("architectures")
    return tuple(str(name) for name in names) if isinstance(names, list | tuple) else ()


def sees_later_tokens(config: Mapping[str, Any]) -> str | None:
    """Return why a language model of this configuration sees the tokens that it should predict; None if it does not.

    By the configuration's own fields. Fields that it leaves out have the values that transformers gives them.
    """
    kind = model_type(config) or ""

    def value(name: str) -> Any:
        return config.get(name, getattr(_config_class(kind), name, None))

    # Bodies that become decoders, with attention to an encoder, when they are told to.
    if value("is_decoder") is False and value("add_cross_attention") is not None and not value("is_encoder_decoder"):
        return '"is_decoder" is false in its config.json'
    if value("causal") is False:
        return '"causal" is false in its config.json'
    if value("attn_type") == "bi":
        return '"attn_type" is "bi" in its config.json: it was trained with permutations'
    return _BOTH_SIDES.get(kind)


def has_parts(config: Mapping[str, Any]) -> bool:
    """Return whether a type reads more than text, so that its text has a configuration of its own within it."""
    return "text_config" in (getattr(_config_class(model_type(config) or ""), "sub_configs", None) or ())


def _config_class(kind: str) -> Any:
    if not kind:
        return None
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING[kind] if kind in CONFIG_MAPPING else None  # noqa: SIM401 - its `get` finds nothing


def model_class(entry: Entry, config: Mapping[str, Any]) -> Any:
    """Return transformers' class of a configuration: the first of `architectures`, else the type's body.

    Code that comes with a checkpoint is never run.

    Raises:
        CheckpointError: transformers has no such class, or it is another type's.
    """
    import transformers
    from transformers import CONFIG_MAPPING, PreTrainedModel

    kind = model_type(config)
    if kind is not None and kind not in CONFIG_MAPPING:
        raise CheckpointError(
            f"{entry.name}: transformers {transformers.__version__} has no model_type {kind!r}; code that comes with a "
            f"checkpoint is never run: update transformers, or take another model.{did_you_mean(kind, CONFIG_MAPPING)}"
        )
    named = class_names(config)
    name = named[0] if named else next(iter(classes_of("").get(kind or "", ())), None)
    found = getattr(transformers, name, None) if name else None
    own = getattr(found, "config_class", None)
    if not (isinstance(found, type) and issubclass(found, PreTrainedModel)) or own is None:
        known = {one for task in _tables() for names in classes_of(task).values() for one in names}
        says = f"no class {name!r}" if name else f"no class for a bare {kind!r}: state architectures in its config.json"
        raise CheckpointError(
            f"{entry.name}: transformers {transformers.__version__} has {says}; code that comes with a checkpoint is "
            f"never run.{did_you_mean(name, known) if name else ''}"
        )
    if kind is not None and not _fits(found, kind):
        raise CheckpointError(
            f"{entry.name}: {name} is no class of model_type {kind!r}: mend one of them in its config.json"
        )
    return found


def _fits(found: Any, kind: str) -> bool:
    """Return whether a class takes configurations of a type; some take several."""
    from transformers import CONFIG_MAPPING

    if found.config_class.model_type == kind or issubclass(CONFIG_MAPPING[kind], found.config_class):
        return True
    return any(found.__name__ in classes_of(task).get(kind, ()) for task in _tables())


def _tables() -> tuple[str, ...]:
    """Return the tasks of all tables."""
    from transformers.models.auto import modeling_auto

    start = "MODEL_FOR_"
    names = (name for name in dir(modeling_auto) if name.startswith(start) and name.endswith(_END))
    return ("", *(name[len(start) : -len(_END)] for name in names))
