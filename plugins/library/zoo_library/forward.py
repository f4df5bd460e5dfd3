"""The loss that a class of transformers computes itself."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from zoo import DataError, ZooError
from zoo.errors import did_you_mean, one_line
from zoo.integrations.auto_classes import is_for, sees_later_tokens

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zoo import Model

_IGNORED = -100


def loss(model: Model, batch: Any) -> Tensor:
    """Return the loss that the library's own forward returns for a batch: a scalar.

    Args:
        model: a model of transformers.
        batch: arguments of its forward by name, such as {"pixel_values", "labels"}.

    Raises:
        DataError: an argument is none of the forward's, or what it makes a loss of is missing.
        ZooError: the class has no loss of its own.
    """
    return answer(model, batch)[0]


def answer(model: Model, batch: Any) -> tuple[Tensor, Tensor | None]:
    """Return the loss of a batch, a scalar, and the logits where the forward returns them; see `loss`."""
    check_loss(model)
    arguments = checked(model, batch)
    try:
        output = model.module(**arguments)
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, AttributeError, IndexError, KeyError, RuntimeError) as error:
        raise DataError(
            f"{model.entry.name}: {type(model.module).__name__}'s forward cannot use the batch, "
            f"{', '.join(arguments)}: {one_line(error, 300)}"
        ) from error
    value, logits = (
        output.get(name) if isinstance(output, Mapping) else getattr(output, name, None) for name in ("loss", "logits")
    )
    if value is None:
        raise _without(model.module, arguments)
    return value.float().mean(), logits if isinstance(logits, torch.Tensor) else None


def checked(model: Model, batch: Any) -> dict[str, Any]:
    """Return the arguments of one call, on the model's device.

    Raises:
        DataError: the batch is no mapping, or one of its keys would be passed over.
    """
    known = arguments_of(model.module)
    if not isinstance(batch, Mapping) or not batch:
        raise DataError(
            f"{model.entry.name}: expected a batch as a dict of tensors, arguments of {type(model.module).__name__}'s "
            f"forward ({', '.join(known)}), got {type(batch).__name__}"
        )
    for key in batch:
        if key not in known:
            raise DataError(
                f"{model.entry.name}: {type(model.module).__name__}'s forward has no argument {key!r}, so it would be "
                f"passed over: leave it out. It has {', '.join(known)}.{did_you_mean(str(key), known)}"
            )
    arguments = {
        key: _placed(value, model) if isinstance(value, torch.Tensor) else value for key, value in batch.items()
    }
    _check_hidden(model, arguments)
    if "return_loss" in known:
        arguments.setdefault("return_loss", True)
    return arguments


def arguments_of(module: nn.Module) -> tuple[str, ...]:
    """Return the names of a module's arguments; what it takes as **kwargs may be passed over and does not count."""
    found = inspect.signature(type(module).forward).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return tuple(one.name for one in found if one.kind in kinds and one.name != "self")


def _placed(tensor: Tensor, model: Model) -> Tensor:
    return tensor.to(model.device, model.dtype if tensor.is_floating_point() else tensor.dtype)


def _check_hidden(model: Model, arguments: dict[str, Any]) -> None:
    """Refuse labels that the model reads in its inputs."""
    labels, inputs = arguments.get("labels"), arguments.get("input_ids")
    config = getattr(model.module, "config", None)
    if config is None or labels is None or inputs is None or labels.shape != inputs.shape or "perm_mask" in arguments:
        return
    facts = {**config.to_dict(), "architectures": [type(model.module).__name__]}
    why = sees_later_tokens(facts) if is_for(facts, "CAUSAL_LM") else None
    told = labels != _IGNORED
    if why is not None and bool((labels == inputs)[told].all()):
        raise DataError(
            f"{model.entry.name}: every label is the token at its own place, and this {type(model.module).__name__} "
            f"sees it, since {why}: hide the tokens to predict, or use a causal model"
        )


def check_loss(model: Model) -> None:
    """Check that the class may have a loss of its own: those of transformers have, but for bodies without a head.

    Raises:
        ZooError: it has none.
    """
    module: Any = model.module
    if not hasattr(module, "main_input_name"):  # no class of transformers
        raise _lossless(module)
    config = getattr(module, "config", None)
    facts = {"architectures": [type(module).__name__], "model_type": getattr(config, "model_type", None)}
    known = arguments_of(module)
    if not is_for(facts, ""):
        return
    if not _wanted(known) and "return_loss" not in known and not is_for(facts, "PRETRAINING"):
        raise _lossless(module)


def _wanted(known: tuple[str, ...]) -> list[str]:
    return [one for one in known if "label" in one or one in ("start_positions", "end_positions", "future_values")]


def _without(module: nn.Module, arguments: dict[str, Any]) -> ZooError:
    name, known = type(module).__name__, arguments_of(module)
    missing = [one for one in _wanted(known) if one not in arguments]
    if missing:
        return DataError(f"{name} makes its loss of {' and '.join(missing)}, which the batch lacks: add them")
    others = ", ".join(one for one in known if one not in arguments)
    return DataError(
        f"{name} computed no loss from {', '.join(arguments)}; its forward also takes {others}: add what its library "
        "makes the loss of, or compute one from model.module(…)"
    )


def _lossless(module: nn.Module) -> ZooError:
    return ZooError(
        f"{type(module).__name__} has no loss of its own: compute one from model.module(…), and train "
        "model.trainable_parameters() with an optimizer of torch"
    )
