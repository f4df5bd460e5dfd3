"""Build the module, read its weights under the names of any year, and write each library's own format."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import zoo
from zoo import CheckpointError, OutputError
from zoo.errors import one_line
from zoo.integrations import transformers as library
from zoo.integrations.configured import without_code
from zoo.integrations.resized import Grid, fit_channels, resized
from zoo.integrations.transformers_config import with_floats
from zoo.storage.model_folder import write_model

from .facts import TASK, class_count, configuration, is_body, is_timm, pretrained_cfg, stored, stored_classes

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from zoo import Entry, Model

# Arguments of timm's constructors; what else a configuration holds describes weights and is not an argument.
_NEW = ("label_names", TASK)  # of a config.json, for a new head
_NOT_ARGUMENTS = ("pretrained", "pretrained_cfg", "checkpoint_path", "cache_dir")


def construct(entry: Entry) -> nn.Module:
    """Return the classifier that the entry's configuration describes, in evaluation mode.

    Code that comes with a checkpoint is never run.

    Raises:
        CheckpointError: the library has no such architecture, or refuses the configuration.
    """
    config = configuration(entry)
    return (_build_timm if is_timm(config) else _build_transformers)(entry, config).eval()


def _build_timm(entry: Entry, config: dict[str, Any]) -> nn.Module:
    import timm

    name = config["architecture"].partition(".")[0]
    if not timm.is_model(name):
        near = timm.list_models(f"{name[:8]}*")[:3]
        also = f"; it has {', '.join(near)}" if near else ""
        raise CheckpointError(f"{entry.name}: timm {timm.__version__} has no architecture {name!r}{also}")
    arguments = {
        k: v for k, v in without_code(config.get("model_args") or {}, entry.name).items() if k not in _NOT_ARGUMENTS
    }
    count = class_count(config)
    if count is not None:
        arguments["num_classes"] = count
    facts = {"architecture": name, **_input_of(arguments, pretrained_cfg(config))}
    try:
        try:
            return timm.create_model(name, pretrained=False, pretrained_cfg=facts, **arguments)
        except TypeError as error:
            # Convolutions take images of any size, and no argument for it.
            if entry.head is None or entry.head.image_size is None or "'img_size'" not in str(error):
                raise
            arguments.pop("img_size")
            return timm.create_model(name, pretrained=False, pretrained_cfg=facts, **arguments)
    except (TypeError, ValueError, KeyError, AttributeError, AssertionError, RuntimeError) as error:
        message = one_line(error) or type(error).__name__
        raise CheckpointError(f"{entry.name}: its config.json does not make a {name}: {message}") from error


def _input_of(arguments: dict[str, Any], stored: dict[str, Any]) -> dict[str, Any]:
    """Return what timm is to know of the images: as the file says, unless the model's arguments say otherwise."""
    from timm.models import PretrainedCfg

    # Where weights come from is ours to say.
    known = {field.name for field in fields(PretrainedCfg)} - {"url", "hf_hub_id", "file", "source", "state_dict"}
    found = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in stored.items()
        if key in known and value is not None
    }
    channels, *size = found.get("input_size", (3, 224, 224))
    wanted = arguments.get("img_size")
    if wanted is not None:
        size = [wanted, wanted] if isinstance(wanted, int) else list(wanted)
    return {**found, "input_size": (arguments.get("in_chans") or channels, *size)}


def _build_transformers(entry: Entry, config: dict[str, Any]) -> PreTrainedModel:
    from transformers import CONFIG_MAPPING, AutoModel, AutoModelForImageClassification

    values = without_code(with_floats(config), entry.name)
    values.pop("model_type", None)
    if values.pop("quantization_config", None):
        raise CheckpointError(
            f"{entry.name}: expected full-precision weights, got a checkpoint that is quantized already: load the "
            "model that it was made from, with bits=4 or bits=8"
        )
    kind = str(config.get("model_type", ""))
    try:
        made = CONFIG_MAPPING[kind].from_dict(values)
        maker: Any = AutoModel if is_body(config) else AutoModelForImageClassification
        return library.made_from_config(maker, made)
    except Exception as error:  # validators raise errors of their own
        raise CheckpointError(
            f"{entry.name}: transformers makes no image classifier of its config.json (model_type {kind!r}): "
            f"{one_line(error)}"
        ) from error


def checkpoint(entry: Entry, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield (parameter or buffer name of `module`, tensor), in the order of the files."""
    config = configuration(entry)
    return (_timm_tensors if is_timm(config) else _transformers_tensors)(entry, module, config)


def _timm_tensors(entry: Entry, module: nn.Module, config: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield the file's tensors if they fit; else all through timm's own conversion, which renames and resizes.

    A head for another number of classes than the stored weights have, which a configuration asks for by `num_classes`
    beside its `pretrained_cfg`, starts at zero, as if nothing was known of the new classes. One that `entry.head` asks
    for is left to zoo.
    """
    if entry.head is not None:
        yield from _timm_with_head(entry, module, config)
        return
    own = {name: tensor.shape for name, tensor in module.state_dict().items()}
    stored = {name: tensor.shape for name, tensor in zoo.checkpoint.tensors(entry)}
    fresh = [name for name in _head(module, config) if name in own and stored.get(name) != own[name]]
    if {k: v for k, v in stored.items() if k not in fresh} != {k: v for k, v in own.items() if k not in fresh}:
        tensors = _converted(entry, module, config, zoo.checkpoint.tensors(entry))
    else:
        tensors = zoo.checkpoint.tensors(entry)
    yield from ((name, tensor) for name, tensor in tensors if name not in fresh)
    yield from ((name, torch.zeros(own[name])) for name in fresh)


def _timm_with_head(entry: Entry, module: nn.Module, config: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield the file's tensors with its own head, and for other images if `entry.head` asks for them."""
    own = {name: tensor.shape for name, tensor in module.state_dict().items()}
    classifier = _classifier(module)

    def differing(tensors: Iterator[tuple[str, Tensor]]) -> bool:
        shapes = {name: tensor.shape for name, tensor in tensors if name not in classifier}
        return shapes != {name: shape for name, shape in own.items() if name not in classifier}

    def fitted() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in zoo.checkpoint.tensors(entry):
            wanted = own.get(name, tensor.shape)
            new = len(wanted) == 4 == tensor.dim() and entry.head is not None and entry.head.channels == wanted[1]
            others = [size for at, size in enumerate(wanted) if at != 1 and new]
            same = others == [size for at, size in enumerate(tensor.shape) if at != 1]
            yield name, fit_channels(tensor, wanted[1]) if new and same else tensor

    if not differing(fitted()):
        yield from fitted()
        return
    yield from resized(entry, _converted(entry, module, config, fitted()), own)


def _classifier(module: nn.Module) -> tuple[str, ...]:
    """Return the names of the classifier's parameters, as timm knows them."""
    heads = getattr(module, "pretrained_cfg", {}).get("classifier") or ()
    return tuple(f"{h}.{leaf}" for h in ((heads,) if isinstance(heads, str) else heads) for leaf in ("weight", "bias"))


def _head(module: nn.Module, config: dict[str, Any]) -> tuple[str, ...]:
    """Return the classifier's parameters, if the configuration says that the stored ones are for other classes."""
    before = stored_classes(config)
    return () if before is None or class_count(config) == before else _classifier(module)


def _converted(
    entry: Entry, module: nn.Module, config: dict[str, Any], tensors: Iterator[tuple[str, Tensor]]
) -> Iterator[tuple[str, Tensor]]:
    import timm

    name = config["architecture"].partition(".")[0]
    source = sys.modules[timm.models.model_entrypoint(name).__module__]
    convert: Callable[..., dict[str, Tensor]] | None = getattr(source, "checkpoint_filter_fn", None)
    if convert is None:
        return tensors
    try:
        return iter(convert(dict(tensors), module).items())
    except (RuntimeError, KeyError, ValueError, AssertionError, AttributeError, IndexError) as error:
        raise CheckpointError(
            f"{entry.name}: timm cannot convert these weights to a {name}: {one_line(error)}"
        ) from error


def _transformers_tensors(entry: Entry, module: Any, config: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors under today's names, without the pooler of the model that this one was made from."""
    tensors = library.named_tensors(entry, module, ignored=lambda name: ".pooler." in f".{name}")
    if entry.head is None:
        return tensors
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    before, after = _grid(stored(entry), module), _grid(config, module)
    return resized(entry, tensors, shapes, None if before is None or after is None else (before, after))


def _grid(config: dict[str, Any], module: Any) -> Grid | None:
    """Return how many patches an image has, by default where the file does not say; None for a model without such."""
    default = type(module.config)()
    size, patch = (config.get(key, getattr(default, key, None)) for key in ("image_size", "patch_size"))
    pairs = [(edge, edge) if isinstance(edge, int) else tuple(edge or ()) for edge in (size, patch)]
    if any(len(pair) != 2 for pair in pairs):
        return None
    return pairs[0][0] // pairs[1][0], pairs[0][1] // pairs[1][1]


def save(model: Model, folder: Path, state_dict: dict[str, Tensor]) -> bool:
    """Write config.json and safetensors as the library reads them; transformers' with the image processor's file."""
    config = configuration(model.entry)
    try:
        (_write_timm if is_timm(config) else _write_transformers)(model, config, Path(folder), state_dict)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from error
    return True


def _write_timm(model: Model, config: dict[str, Any], folder: Path, state_dict: dict[str, Tensor]) -> None:
    inner = pretrained_cfg(config)
    kept = config if "pretrained_cfg" in config else {"architecture": config["architecture"]}
    # The weights are now the module's own: of its number of classes, and in no need of conversion.
    inner |= {"num_classes": model.module.num_classes, "custom_load": False}
    if model.entry.head is not None:  # an older file has nothing but the architecture
        kept = {**kept, **{key: value for key, value in config.items() if key in (*_NEW, "model_args")}}
        if "img_size" not in inspect.signature(type(model.module).__init__).parameters:
            kept["model_args"] = {k: v for k, v in (kept.get("model_args") or {}).items() if k != "img_size"}
    written = {**kept, "num_classes": model.module.num_classes, "pretrained_cfg": inner}
    write_model(folder, written, state_dict)


def _write_transformers(model: Model, config: dict[str, Any], folder: Path, state_dict: dict[str, Tensor]) -> None:
    from .data import image_processor

    module: Any = model.module
    library.save_library_model(module, folder, state_dict)
    image_processor(model).save_pretrained(folder)
