"""zoo: any model in 4 bit with LoRA, whatever its layers are.

    import zoo

    model = zoo.load("ddpm", lora=8, bits=4)     # an architecture that some plugin knows
    model = zoo.wrap(module, lora=8, bits=4)     # any nn.Module of yours
    model.tune("letters:serif", steps=200)
    model.sample(16, seed=0).save("letters.png")

The names below are imported when they are first used, so that ``import zoo`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> the module that defines it. A function and a module of the same name (`zoo.load`) would shadow each
# other, so no module of the package is called like a name in this table.
_HOME = {
    "load": "zoo.loading",
    "wrap": "zoo.loading",
    "Model": "zoo.model",
    "Footprint": "zoo.footprint",
    "CombineReport": "zoo.adapters.combining",
    "MergeReport": "zoo.adapters.merging",
    "Adapter": "zoo.adapters.config",
    "LoRA": "zoo.adapters.config",
    "Full": "zoo.adapters.config",
    "LoHa": "zoo.adapters.kinds.config",
    "LoKr": "zoo.adapters.kinds.config",
    "Targets": "zoo.adapters.config",
    "lora_update": "zoo.adapters.kinds.lora",
    "Quantization": "zoo.weights.scheme",
    "Packed": "zoo.weights.packed",
    "Codec": "zoo.weights.packed",
    "Update": "zoo.weights.update",
    "LowRank": "zoo.weights.update",
    "Layout": "zoo.weights.update",
    "Scaling": "zoo.weights.update",
    "Weight": "zoo.weights.standin",
    "Entry": "zoo.registry",
    "entries": "zoo.registry",
    "Samples": "zoo.samples",
    "SampleRequest": "zoo.requests",
    "BatchRequest": "zoo.requests",
    "TuneResult": "zoo.tuning.result",
    "PushResult": "zoo.hub.publish",
    "hookimpl": "zoo.hookspecs",
    "hookspec": "zoo.hookspecs",
    "ZooError": "zoo.errors",
    "UnknownNameError": "zoo.errors",
    "RegistryError": "zoo.errors",
    "PluginError": "zoo.errors",
    "CheckpointError": "zoo.errors",
    "HubError": "zoo.errors",
    "AdapterError": "zoo.errors",
    "QuantizationError": "zoo.errors",
    "WeightError": "zoo.errors",
    "DataError": "zoo.errors",
    "TuningError": "zoo.errors",
    "OutputError": "zoo.errors",
}
_MODULES = ("checkpoint", "data", "metrics")

__all__ = ["__version__", *_HOME, *_MODULES]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module 'zoo' has no attribute {name!r}; its public names are {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:
    from zoo.adapters.combining import CombineReport as CombineReport
    from zoo.adapters.config import Adapter as Adapter
    from zoo.adapters.config import Full as Full
    from zoo.adapters.config import LoRA as LoRA
    from zoo.adapters.config import Targets as Targets
    from zoo.adapters.kinds.config import LoHa as LoHa
    from zoo.adapters.kinds.config import LoKr as LoKr
    from zoo.adapters.kinds.lora import lora_update as lora_update
    from zoo.adapters.merging import MergeReport as MergeReport
    from zoo.errors import AdapterError as AdapterError
    from zoo.errors import CheckpointError as CheckpointError
    from zoo.errors import DataError as DataError
    from zoo.errors import HubError as HubError
    from zoo.errors import OutputError as OutputError
    from zoo.errors import PluginError as PluginError
    from zoo.errors import QuantizationError as QuantizationError
    from zoo.errors import RegistryError as RegistryError
    from zoo.errors import TuningError as TuningError
    from zoo.errors import UnknownNameError as UnknownNameError
    from zoo.errors import WeightError as WeightError
    from zoo.errors import ZooError as ZooError
    from zoo.footprint import Footprint as Footprint
    from zoo.hookspecs import hookimpl as hookimpl
    from zoo.hookspecs import hookspec as hookspec
    from zoo.hub.publish import PushResult as PushResult
    from zoo.loading import load as load
    from zoo.loading import wrap as wrap
    from zoo.model import Model as Model
    from zoo.registry import Entry as Entry
    from zoo.registry import entries as entries
    from zoo.requests import BatchRequest as BatchRequest
    from zoo.requests import SampleRequest as SampleRequest
    from zoo.samples import Samples as Samples
    from zoo.tuning.result import TuneResult as TuneResult
    from zoo.weights.packed import Codec as Codec
    from zoo.weights.packed import Packed as Packed
    from zoo.weights.scheme import Quantization as Quantization
    from zoo.weights.standin import Weight as Weight
    from zoo.weights.update import Layout as Layout
    from zoo.weights.update import LowRank as LowRank
    from zoo.weights.update import Scaling as Scaling
    from zoo.weights.update import Update as Update
