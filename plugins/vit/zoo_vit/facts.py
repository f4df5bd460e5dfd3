"""The configuration of an image classifier, in timm's form or in transformers'. Imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo import CheckpointError, Head, Heads
from zoo.integrations import transformers_heads
from zoo.integrations.auto_classes import classes_of, is_for
from zoo.storage.config_json import read_config

if TYPE_CHECKING:
    from zoo import Entry

_TASK = "IMAGE_CLASSIFICATION"  # transformers' name of it
TASKS = ("classify", "multilabel", "regress")
TASK = "zoo_task"  # of a timm model's config.json, whose library only classifies


def recognises(config: dict[str, Any]) -> bool:
    """Return whether a configuration is an image classifier's, of either library."""
    return is_timm(config) or is_transformers(config)


def is_timm(config: dict[str, Any]) -> bool:
    """Return whether this is timm's: `{"architecture": …, "pretrained_cfg": {…}}`, or the older flat form."""
    return isinstance(config.get("architecture"), str) and bool(
        {"pretrained_cfg", "num_features", "model_args", "input_size"} & config.keys()
    )


def is_transformers(config: dict[str, Any]) -> bool:
    """Return whether this is an image classifier of transformers; a ViT that does not say what it is counts as one."""
    if config.get("architectures"):
        return is_for(config, _TASK) or is_body(config)
    return config.get("model_type") == "vit"


def is_body(config: dict[str, Any]) -> bool:
    """Return whether this is a model of transformers for images that has no head, such as `ViTModel`.

    Those that compare images with texts, such as `CLIPModel`, have no need of one.
    """
    kind = str(config.get("model_type"))
    names = [str(name) for name in config.get("architectures") or []]
    if is_timm(config) or not any(transformers_heads.is_body(name, kind) for name in names):
        return False
    return kind in classes_of(_TASK) and not is_for(config, "ZERO_SHOT_IMAGE_CLASSIFICATION")


def configuration(entry: Entry) -> dict[str, Any]:
    """Return the entry's configuration, with the head and the images that it asks for.

    Raises:
        CheckpointError: there is none, or it is no image classifier's.
    """
    config, head = stored(entry), entry.head
    if head is None:
        return config
    return _timm_with(config, head) if is_timm(config) else _transformers_with(config, head)


def _timm_with(config: dict[str, Any], head: Head) -> dict[str, Any]:
    inner, arguments = pretrained_cfg(config), dict(config.get("model_args") or {})
    if head.task is not None:
        names = list(head.labels)
        config = {**config, "num_classes": head.count, "label_names": names, TASK: head.task}
        arguments.pop("num_classes", None)
        inner = {key: value for key, value in inner.items() if key not in ("label_names", "label_descriptions")}
    channels, *size = inner.get("input_size") or (3, 224, 224)
    if head.channels is not None:
        channels = arguments["in_chans"] = head.channels
    if head.image_size is not None:
        size = arguments["img_size"] = list(head.image_size)
        arguments["img_size"] = size[0] if size[0] == size[1] else size
    inner["input_size"] = [channels, *size]
    inner.pop("test_input_size", None)
    flat = {} if "pretrained_cfg" in config else {"input_size": inner["input_size"]}
    more = {"model_args": arguments} if arguments else {}
    return {**config, **flat, **more, **({"pretrained_cfg": inner} if "pretrained_cfg" in config else {})}


def _transformers_with(config: dict[str, Any], head: Head) -> dict[str, Any]:
    made = transformers_heads.with_head(config, head, images=True)
    if head.channels is not None:
        made["num_channels"] = head.channels
    if head.image_size is not None:
        height, width = head.image_size
        made["image_size"] = height if height == width else [height, width]
    return made


def heads(entry: Entry) -> Heads:
    """Return the tasks that a head may be for, and the head that the checkpoint has."""
    config = stored(entry)
    if is_timm(config):
        names, count = label_names(config), class_count(config) or 0
        listed = tuple(names.get(index, "") for index in range(count))
        own = Head(task_of(config), listed if all(listed) else (), count) if count else None
    else:
        own = transformers_heads.own_head(config)
    return Heads(TASKS, own, image_size=True, channels=True)


def task_of(config: dict[str, Any]) -> str:
    """Return what the head of a configuration is for."""
    if is_timm(config):
        return str(config.get(TASK, "classify"))
    problem = config.get("problem_type")
    return next((task for task, name in transformers_heads.PROBLEMS.items() if name == problem), "classify")


def stored(entry: Entry) -> dict[str, Any]:
    """Return the checkpoint's config.json: from its folder if it is there, else as the registry has it.

    Raises:
        CheckpointError: there is none, or it is no image classifier's.
    """
    config = read_config(entry)
    if not recognises(config):
        raise CheckpointError(
            f"{entry.name}: expected the config.json of a timm model or of an image classifier of "
            f"transformers in {entry.folder or 'the registry'}, got another"
        )
    return config


def pretrained_cfg(config: dict[str, Any]) -> dict[str, Any]:
    """Return timm's facts about the weights: input size, mean, classifier, …; older files have them at the top."""
    inner = config.get("pretrained_cfg")
    return dict(inner) if isinstance(inner, dict) else {k: v for k, v in config.items() if k != "architecture"}


def stored_classes(config: dict[str, Any]) -> int | None:
    """Return how many classes the stored weights of a timm model tell apart, as its file says."""
    return pretrained_cfg(config).get("num_classes")


def class_count(config: dict[str, Any]) -> int | None:
    """Return how many classes the model is to tell apart, as its file says; None leaves it to the library."""
    if is_timm(config):
        return config.get("num_classes", (config.get("model_args") or {}).get("num_classes", stored_classes(config)))
    names = config.get("id2label")
    return len(names) if names else config.get("num_labels")


def label_names(config: dict[str, Any]) -> dict[int, str]:
    """Return class → its name, as the file says; {} if it does not."""
    if not is_timm(config):
        return {int(index): str(name) for index, name in (config.get("id2label") or {}).items()}
    inner = pretrained_cfg(config)
    names = config.get("label_names") or inner.get("label_names") or config.get("labels") or {}
    listed = names.items() if isinstance(names, dict) else enumerate(names)
    return {int(index): str(name) for index, name in listed}


def describe(entry: Entry) -> dict[str, str]:
    """Return facts for `zoo info` and the model card."""
    try:
        config = configuration(entry)
    except CheckpointError:
        return {}
    if is_timm(config):
        size = pretrained_cfg(config).get("input_size") or ()
        found = {"module": f"timm: {config['architecture']}", "image": " × ".join(map(str, size))}
    else:
        edge = config.get("image_size")
        found = {
            "module": f"transformers: {(config.get('architectures') or ['ViTForImageClassification'])[0]}",
            "image": f"{config.get('num_channels', 3)} × {edge} × {edge}" if edge else "",
        }
        for label, key in (("layers", "num_hidden_layers"), ("width", "hidden_size"), ("patch", "patch_size")):
            found[label] = str(config.get(key, ""))
    names = label_names(config)
    count = class_count(config)
    short = " ".join(names.values())
    found["classes"] = f"{count}: {short}" if names and len(short) <= 80 else str(count or "")
    return {label: text for label, text in found.items() if text}
