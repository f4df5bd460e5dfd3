"""zoo: any model in 4 bit with LoRA, whatever its layers are.

    import zoo

    model = zoo.load("ddpm", lora=8, bits=4)     # an architecture that some plugin knows
    model = zoo.wrap(module, lora=8, bits=4)     # any nn.Module of yours
    model.tune("letters:serif", steps=200)
    model.sample(16, seed=0).save("letters.png")

The names below are imported when they are first used, so that `import zoo` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo import compat
from zoo._version import __version__

compat.install()

# Public name -> the module that defines it. A function and a module of the same name (`zoo.load`) would shadow each
# other, so no module of the package is called like a name in this table.
_HOME = {
    "load": "zoo.loading.load",
    "wrap": "zoo.loading.load",
    "tune_file": "zoo.loading.run_files",
    "compare": "zoo.comparison.run",
    "plan": "zoo.planning.plan",
    "Plan": "zoo.planning.estimate",
    "Model": "zoo.model",
    "Footprint": "zoo.weights.footprint",
    "Calibration": "zoo.weights.calibration.outputs",
    "CombineReport": "zoo.adapters.combine",
    "MergeReport": "zoo.adapters.merge",
    "Exported": "zoo.formats.exported",
    "Adapter": "zoo.methods.config",
    "LoRA": "zoo.methods.config",
    "Full": "zoo.methods.config",
    "TrainableTokens": "zoo.methods.rows",
    "Prune": "zoo.methods.prune",
    "QuantizeAware": "zoo.methods.quantize_aware",
    "LoHa": "zoo.methods.loha_lokr_config",
    "LoKr": "zoo.methods.loha_lokr_config",
    "Targets": "zoo.methods.config",
    "lora_update": "zoo.methods.lora",
    "Quantization": "zoo.weights.scheme",
    "allow_bf16_products": "zoo.weights.products",
    "QuantizedTensor": "zoo.weights.quantized_tensor",
    "Codec": "zoo.weights.quantized_tensor",
    "ForeignWeight": "zoo.weights.foreign.weight",
    "Update": "zoo.weights.update",
    "LoRAUpdate": "zoo.weights.update",
    "Layout": "zoo.weights.layout",
    "Scaling": "zoo.weights.update",
    "LazyWeight": "zoo.weights.lazy_weight",
    "kernel_path": "zoo.weights.triton.paths",
    "Entry": "zoo.catalog.entry",
    "Head": "zoo.catalog.head",
    "Heads": "zoo.catalog.head",
    "entries": "zoo.catalog.registry",
    "list": "zoo.catalog.listing",
    "Samples": "zoo.samples.samples",
    "SampleKind": "zoo.samples.kind",
    "Shown": "zoo.samples.kind",
    "Clip": "zoo.samples.kind",
    "Option": "zoo.plugin.options",
    "SampleRequest": "zoo.plugin.requests",
    "BatchRequest": "zoo.plugin.requests",
    "EvaluationRequest": "zoo.plugin.requests",
    "Data": "zoo.data.spec",
    "TuneResult": "zoo.tuning.result",
    "TuneState": "zoo.tuning.callbacks",
    "Callback": "zoo.tuning.callbacks",
    "PushResult": "zoo.hub.publish",
    "LoadedModel": "zoo.plugin.contract",
    "ForwardPass": "zoo.plugin.forward_pass",
    "hooks": "zoo.plugin.table",
    "observe": "zoo.plugin.hooks",
    "hookimpl": "zoo.plugin.hookspecs",
    "hookspec": "zoo.plugin.hookspecs",
    "ZooError": "zoo.errors",
    "UnknownNameError": "zoo.errors",
    "RegistryError": "zoo.errors",
    "PluginError": "zoo.errors",
    "CheckpointError": "zoo.errors",
    "HubError": "zoo.errors",
    "AdapterError": "zoo.errors",
    "QuantizationError": "zoo.errors",
    "WeightError": "zoo.errors",
    "StateDictError": "zoo.errors",
    "DataError": "zoo.errors",
    "TuningError": "zoo.errors",
    "OutputError": "zoo.errors",
}
_MODULES = {"checkpoint": "zoo.storage.checkpoint", "data": "zoo.data", "metrics": "zoo.metrics"}

__all__ = ["__version__", *_HOME, *_MODULES]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return import_module(_MODULES[name])
    if f"zoo.{name}" in compat.MODULES:
        return import_module(f"zoo.{name}")
    new_name = compat.renamed(name)
    if new_name is not None:
        return getattr(import_module(__name__), new_name)
    raise AttributeError(f"module 'zoo' has no attribute {name!r}; its public names are {', '.join(__all__)}")


def __dir__() -> Iterable[str]:
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:
    from collections.abc import Iterable

    from zoo.adapters.combine import CombineReport as CombineReport
    from zoo.adapters.merge import MergeReport as MergeReport
    from zoo.catalog.entry import Entry as Entry
    from zoo.catalog.head import Head as Head
    from zoo.catalog.head import Heads as Heads
    from zoo.catalog.listing import list as list
    from zoo.catalog.registry import entries as entries
    from zoo.comparison.run import compare as compare
    from zoo.data.spec import Data as Data
    from zoo.errors import AdapterError as AdapterError
    from zoo.errors import CheckpointError as CheckpointError
    from zoo.errors import DataError as DataError
    from zoo.errors import HubError as HubError
    from zoo.errors import OutputError as OutputError
    from zoo.errors import PluginError as PluginError
    from zoo.errors import QuantizationError as QuantizationError
    from zoo.errors import RegistryError as RegistryError
    from zoo.errors import StateDictError as StateDictError
    from zoo.errors import TuningError as TuningError
    from zoo.errors import UnknownNameError as UnknownNameError
    from zoo.errors import WeightError as WeightError
    from zoo.errors import ZooError as ZooError
    from zoo.formats.exported import Exported as Exported
    from zoo.hub.publish import PushResult as PushResult
    from zoo.loading.load import load as load
    from zoo.loading.load import wrap as wrap
    from zoo.loading.run_files import tune_file as tune_file
    from zoo.methods.config import Adapter as Adapter
    from zoo.methods.config import Full as Full
    from zoo.methods.config import LoRA as LoRA
    from zoo.methods.config import Targets as Targets
    from zoo.methods.loha_lokr_config import LoHa as LoHa
    from zoo.methods.loha_lokr_config import LoKr as LoKr
    from zoo.methods.lora import lora_update as lora_update
    from zoo.methods.prune import Prune as Prune
    from zoo.methods.quantize_aware import QuantizeAware as QuantizeAware
    from zoo.methods.rows import TrainableTokens as TrainableTokens
    from zoo.model import Model as Model
    from zoo.planning.estimate import Plan as Plan
    from zoo.planning.plan import plan as plan
    from zoo.plugin.contract import LoadedModel as LoadedModel
    from zoo.plugin.forward_pass import ForwardPass as ForwardPass
    from zoo.plugin.hooks import observe as observe
    from zoo.plugin.hookspecs import hookimpl as hookimpl
    from zoo.plugin.hookspecs import hookspec as hookspec
    from zoo.plugin.options import Option as Option
    from zoo.plugin.requests import BatchRequest as BatchRequest
    from zoo.plugin.requests import EvaluationRequest as EvaluationRequest
    from zoo.plugin.requests import SampleRequest as SampleRequest
    from zoo.plugin.table import hooks as hooks
    from zoo.samples import Clip as Clip
    from zoo.samples import SampleKind as SampleKind
    from zoo.samples import Samples as Samples
    from zoo.samples import Shown as Shown
    from zoo.tuning.callbacks import Callback as Callback
    from zoo.tuning.callbacks import TuneState as TuneState
    from zoo.tuning.result import TuneResult as TuneResult
    from zoo.weights.calibration.outputs import Calibration as Calibration
    from zoo.weights.footprint import Footprint as Footprint
    from zoo.weights.foreign.weight import ForeignWeight as ForeignWeight
    from zoo.weights.layout import Layout as Layout
    from zoo.weights.lazy_weight import LazyWeight as LazyWeight
    from zoo.weights.products import allow_bf16_products as allow_bf16_products
    from zoo.weights.quantized_tensor import Codec as Codec
    from zoo.weights.quantized_tensor import QuantizedTensor as QuantizedTensor
    from zoo.weights.scheme import Quantization as Quantization
    from zoo.weights.triton.paths import kernel_path as kernel_path
    from zoo.weights.update import LoRAUpdate as LoRAUpdate
    from zoo.weights.update import Scaling as Scaling
    from zoo.weights.update import Update as Update
