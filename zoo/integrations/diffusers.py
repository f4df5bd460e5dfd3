"""diffusers' models: the names that their weights had over the years, and their own format."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import CheckpointError, did_you_mean, one_line
from zoo.integrations.configured import without_code
from zoo.storage import atomic
from zoo.storage.config_json import CONFIG, read_json_object
from zoo.storage.model_folder import write_model
from zoo.weights.walk import library_modules

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zoo.catalog.entry import Entry

WEIGHTS = "diffusion_pytorch_model.safetensors"
# Files written before diffusers 0.15, those of Stable Diffusion 1.5 among them, call the attention's projections by
# other names.
_OLD_ATTENTION = re.compile(r"(.*\battentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)")
_NEW_NAME = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_NEW_ATTENTION = re.compile(r"(.*\battentions\.\d+)\.(to_q|to_k|to_v|to_out\.0)\.(weight|bias)")
_OLD_NAME = {new: old for old, new in _NEW_NAME.items()}


def construct(entry: Entry, config: dict[str, Any]) -> nn.Module:
    """Return the module of a configuration's `_class_name`, in evaluation mode.

    Raises:
        CheckpointError: it is no model class of diffusers, or the class refuses the configuration.
    """
    import diffusers

    name = str(config.get("_class_name"))
    found = getattr(diffusers, name, None)
    if isinstance(found, type) and issubclass(found, diffusers.DiffusionPipeline):
        parts = [key for key, value in config.items() if _is_model(value[1] if isinstance(value, list) else None)]
        raise CheckpointError(
            f"{entry.name} is a pipeline, {name}, which no plugin takes as a whole: load a part by its folder, "
            f"{' or '.join(f'{entry.name}/{part}' for part in parts) or 'such as …/unet'}"
        )
    if not _is_model(name):
        raise CheckpointError(
            f"{entry.name}: diffusers {diffusers.__version__} has no model {name!r}; code that comes with a checkpoint "
            f"is never run: update diffusers, or take another model.{did_you_mean(name, dir(diffusers))}"
        )
    try:
        return found.from_config(without_code(config, entry.name)).eval()  # type: ignore[union-attr]
    except Exception as error:  # constructors raise whatever their parts do
        raise CheckpointError(f"the configuration of {entry.name} does not make a {name}: {one_line(error)}") from error


def _is_model(name: Any) -> bool:
    import diffusers

    found = getattr(diffusers, str(name), None)
    return isinstance(found, type) and issubclass(found, diffusers.ModelMixin)


def named_tensors(entry: Entry, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the checkpoint's tensors under the module's names, as `current_name` says.

    Args:
        entry: whose files to read.
        module: whose class says which names are left out.
    """
    from zoo.storage.checkpoint import tensors

    own = module.state_dict()
    passed = getattr(module, "_keys_to_ignore_on_load_unexpected", None) or ()
    for name, tensor in tensors(entry):
        new = name if name in own else current_name(name)
        if new in own or not any(re.search(pattern, new) for pattern in passed):
            # Some old files keep the 1×1 convolutions that the projections once were.
            yield new, tensor[..., 0, 0] if new != name and tensor.ndim == 4 else tensor


def current_name(name: str) -> str:
    """Return the name that today's diffusers gives to a checkpoint's parameter."""
    old = _OLD_ATTENTION.fullmatch(name)
    return f"{old[1]}.{_NEW_NAME[old[2]]}.{old[3]}" if old else name


def older_name(name: str) -> str:
    """Return the name that checkpoints before diffusers 0.15 gave to a parameter."""
    new = _NEW_ATTENTION.fullmatch(name)
    return f"{new[1]}.{_OLD_NAME[new[2]]}.{new[3]}" if new else name


# The parts of a residual block, and of what is outside the blocks, as Stability's own code calls them.
_RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_BLOCK = re.compile(
    r"(?P<where>down_blocks|up_blocks|mid_block)(?:\.(?P<block>\d+))?"
    r"\.(?P<kind>resnets|attentions|downsamplers|upsamplers)\.(?P<number>\d+)(?:\.(?P<rest>.+))?"
)


def original_names(module: nn.Module) -> dict[str, str]:
    """Return layer's path in Stability's own code → in diffusers, of a U-Net of Stable Diffusion; of others nothing.

    kohya's scripts train Stable Diffusion XL with that code.
    """
    per_block = getattr(getattr(module, "config", None), "layers_per_block", None)
    if type(module).__name__ != "UNet2DConditionModel" or not isinstance(per_block, int):
        return {}
    paths = [path for path, _ in library_modules(module)]
    named = {path: _original(path, per_block + 1, set(paths)) for path in paths}
    return {original: path for path, original in named.items() if original is not None}


def _original(path: str, rows: int, paths: set[str]) -> str | None:
    """Return the original path of a layer; `rows` are the blocks of the original for each one of diffusers'."""
    match = _BLOCK.fullmatch(path)
    if match is None:
        return _OUTSIDE.get(path)
    where, kind, block, number = match["where"], match["kind"], int(match["block"] or 0), int(match["number"])
    rest = match["rest"] or ""
    inner = "." + _RESIDUAL.get(rest, rest) if kind == "resnets" else f".{rest}"
    column = int(kind == "attentions")
    if where == "mid_block":
        return f"middle_block.{1 if column else 2 * number}{inner}"
    if kind == "downsamplers":
        return f"input_blocks.{(block + 1) * rows}.0.op" if rest == "conv" else None
    if kind == "upsamplers":
        column = 2 if f"up_blocks.{block}.attentions.0" in paths else 1
        return f"output_blocks.{(block + 1) * rows - 1}.{column}{inner}"
    if where == "down_blocks":
        return f"input_blocks.{block * rows + number + 1}.{column}{inner}"
    return f"output_blocks.{block * rows + number}.{column}{inner}"


def save_library_model(
    module: nn.Module, folder: Path, state_dict: Mapping[str, Tensor], extra: Mapping[str, Any] | None = None
) -> None:
    """Write config.json and the weights as diffusers' `save_pretrained` lays them out.

    Args:
        module: a diffusers model, whose configuration is written.
        folder: where to; it is made if it is missing.
        state_dict: the weights in the library's own names.
        extra: further keys of config.json; diffusers passes over those that begin with "_".

    Raises:
        OutputError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    module.save_config(folder)  # type: ignore[operator]
    if extra:
        atomic.write_json(folder / CONFIG, {**(read_json_object(folder / CONFIG) or {}), **extra})
    write_model(folder, None, state_dict, weights=WEIGHTS)
