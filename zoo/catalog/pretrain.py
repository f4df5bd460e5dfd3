"""An entry's table `pretrain`: the settings to train the model from random weights with."""

from __future__ import annotations

from typing import Any

from zoo.errors import RegistryError, did_you_mean

# Key → (accepted types, their name in error messages). They are arguments of `Model.tune`.
_NUMBER = ((int, float), "a number")
_KEYS: dict[str, tuple[tuple[type, ...], str]] = {
    "data": ((str,), "a string"),
    "minutes": _NUMBER,
    "batch_size": ((int,), "a whole number"),
    "lr": _NUMBER,
    "warmup": _NUMBER,
    "schedule": ((str,), "a string"),
    "weight_decay": _NUMBER,
    "betas": ((list,), "a list of two numbers"),
    "ema_decay": _NUMBER,
    "grad_clip": ((int, float, bool), "a number, or false for none"),
    "gradient_accumulation_steps": ((int,), "a whole number"),
}


def pretrain_settings(where: str, table: dict[str, Any]) -> dict[str, Any]:
    """Return the table as arguments of `Model.tune`; their values are checked there.

    Args:
        where: file and entry, with which an error begins.
        table: as the registry has it.

    Raises:
        RegistryError: a key is unknown, or its value of another type.
    """
    for key, value in table.items():
        if key not in _KEYS:
            raise RegistryError(
                f"{where} pretrain.{key}: unknown key.{did_you_mean(key, _KEYS)} The keys are {', '.join(_KEYS)}"
            )
        types, types_name = _KEYS[key]
        if not isinstance(value, types) or (isinstance(value, bool) and (key != "grad_clip" or value)):
            raise RegistryError(f"{where} pretrain.{key}: expected {types_name}, got {value!r}")
        if isinstance(value, list) and (len(value) != 2 or not all(type(beta) in (int, float) for beta in value)):
            raise RegistryError(f"{where} pretrain.{key}: expected {types_name}, got {value!r}")
    settings = dict(table)
    if "betas" in settings:
        settings["betas"] = tuple(settings["betas"])
    if settings.get("grad_clip") is False:
        settings["grad_clip"] = None
    return settings
