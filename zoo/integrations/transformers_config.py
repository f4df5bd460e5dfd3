"""transformers' configuration objects, of the values of a config.json."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zoo.errors import CheckpointError, one_line
from zoo.integrations.configured import without_code
from zoo.storage.config_json import in_four_bit

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from zoo.catalog.entry import Entry

_FLOAT = "__float__"  # the only key of an object that stands for a number that JSON does not have


def library_config(
    entry: Entry, values: dict[str, Any], *, known: Callable[[str], bool], called: str
) -> PreTrainedConfig:
    """Return transformers' configuration object of the values of a config.json.

    Code that comes with a checkpoint is never run.

    Args:
        entry: whose configuration it is.
        values: the values.
        known: returns whether a model_type is of the architecture.
        called: what errors call the architecture.

    Raises:
        CheckpointError: the type is not known, the values are not valid, or the checkpoint is quantized already in
            another way than by bitsandbytes to 4 bit.
    """
    from transformers import CONFIG_MAPPING

    if not values:
        raise CheckpointError(
            f"{entry.name}: expected a config.json with a model_type in {entry.folder or 'the registry'}, got none"
        )
    values = without_code(with_floats(values), entry.name)
    # How a quantized file was written is ignored.
    if in_four_bit(values):
        values.pop("quantization_config")
    if values.pop("quantization_config", None):
        raise CheckpointError(
            f"{entry.name}: expected full-precision weights, got a checkpoint that is quantized already; "
            "load the model that it was made from, with bits=4 or bits=8"
        )
    model_type = str(values.pop("model_type", ""))
    if not known(model_type):
        raise CheckpointError(
            f"{entry.name}: expected a model_type that transformers knows as {called}, got "
            f"{model_type!r}; code that comes with a checkpoint is never run: update transformers or take another model"
        )
    try:
        return CONFIG_MAPPING[model_type].from_dict(values)
    except Exception as error:  # validators raise errors of their own
        raise CheckpointError(
            f"{entry.name}: its config.json is no valid {model_type} configuration: {one_line(error)}"
        ) from error


def with_floats(values: Any) -> Any:
    """Return a config.json's values with numbers in place of the objects that transformers writes for inf and nan."""
    if isinstance(values, dict):
        tag = values.get(_FLOAT)
        if len(values) == 1 and tag in ("Infinity", "-Infinity", "NaN"):
            return float(tag)
        return {name: with_floats(value) for name, value in values.items()}
    return [with_floats(value) for value in values] if isinstance(values, list) else values
