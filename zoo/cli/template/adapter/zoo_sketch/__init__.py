"""The adapter kind `sketch`: `zoo.load(name, lora=zoo_sketch.Sketch(), bits=4)`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import zoo


@dataclass(frozen=True)
class Sketch(zoo.Adapter):
    """One learned gain for each output (or input) of a weight: W · (1 + g), g zero at first; after IA³.

    The method is that of arXiv 2205.05638, applied to the weight itself.

    Attributes:
        targets: which weights: suffixes of parameter paths, a regular expression, "all", or None for the model's
            default.
        side: "outputs" or "inputs", of the layer that the weight belongs to.

    Raises:
        AdapterError: `side` is something else.
    """

    kind: ClassVar[str] = "sketch"  # the plugin's name, too

    targets: zoo.Targets = None
    side: str = "outputs"

    def __post_init__(self) -> None:
        if self.side not in ("outputs", "inputs"):
            raise zoo.AdapterError(f"side: expected 'outputs' or 'inputs', got {self.side!r}")
        if isinstance(self.targets, list):  # as in a saved adapter's JSON
            object.__setattr__(self, "targets", tuple(self.targets))


zoo.hooks(inject_adapter=".update", adapter_config=Sketch.from_peft)
