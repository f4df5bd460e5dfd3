"""An adapter of a model with a new head trains the head too, whatever its kind."""

from __future__ import annotations

import re
from dataclasses import fields, replace

from zoo.catalog.head import Head
from zoo.errors import AdapterError
from zoo.methods.config import Adapter, Full


def training_new(config: Adapter, head: Head | None) -> Adapter:
    """Return an adapter's configuration by which the new modules of a model train fully: PEFT's `modules_to_save`.

    Args:
        config: the user's.
        head: the model's; None, or one without new modules, changes nothing.

    Raises:
        AdapterError: the kind of adapter has no way to say it.
    """
    modules = () if head is None else head.modules
    if not modules:
        return config
    if isinstance(config, Full):
        if isinstance(config.targets, str):
            more = "" if config.targets == "all" else "".join(rf"|{re.escape(path)}(\..*)?" for path in modules)
            return replace(config, targets=config.targets if not more else f"(?:{config.targets}){more}")
        return replace(config, targets=tuple(dict.fromkeys((*(config.targets or ()), *modules))))
    if not any(one.name == "modules_to_save" for one in fields(config)):  # type: ignore[arg-type]
        raise AdapterError(
            f"an adapter of kind {config.kind!r} cannot train the new head ({', '.join(modules)}) beside what it "
            "changes: take zoo.LoRA, or load the model without classes="
        )
    named = tuple(dict.fromkeys((*(config.modules_to_save or ()), *modules)))
    return replace(config, modules_to_save=named)  # type: ignore[type-var]
