"""One call of a model's module with tensors alone: what a file for other programs is made of."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import OutputError
from zoo.torch_state.modes import evaluating


@dataclass(frozen=True)
class ForwardPass:
    """A call of a module.

    Attributes:
        inputs: Tensors on the CPU, by the names that they have in an exported file.
        run: A function (module, **inputs) that returns a tensor, a tuple or a dict of them; None: the module itself.
            It must depend on nothing but its arguments: the module is a copy of the model's.
    """

    inputs: Mapping[str, Tensor]
    run: Callable[..., Any] | None = None

    def __call__(self, module: nn.Module, inputs: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return the outputs of a module by name; of one without a name, "output".

        Args:
            module: The model's, or a copy.
            inputs: Others than its own.

        Raises:
            OutputError: there is something in the outputs that is no tensor.
        """
        given = self.inputs if inputs is None else inputs
        found = module(**given) if self.run is None else self.run(module, **given)
        if isinstance(found, Tensor):
            return {"output": found}
        pairs = found.items() if isinstance(found, Mapping) else enumerate(found if isinstance(found, tuple) else ())
        named = {name if isinstance(name, str) else f"output{name}": one for name, one in pairs if one is not None}
        named = {name: one for name, one in named.items() if isinstance(one, Tensor)}
        if not named:
            raise OutputError(
                f"the outputs of {type(module).__name__} are no tensors but {type(found).__name__}: the hook "
                "forward_pass can say which of them to take"
            )
        return named


def captured(module: nn.Module, loss: Callable[[Any], Any], batches: Iterable[Any]) -> ForwardPass | None:
    """Return the first call of a module while a loss is computed; None if it does not call the module as a whole.

    Args:
        module: The module.
        loss: Computes the loss of a batch.
        batches: The batches, on the module's device.

    Raises:
        OutputError: what it is called with is not tensors and plain values alone.
    """
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append((args, kwargs))

    handle = module.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with torch.no_grad(), evaluating(module):
            loss(next(iter(batches)))
    finally:
        handle.remove()
    return _from_call(module, *seen[0]) if seen else None


def from_inputs(module: nn.Module, inputs: Any) -> ForwardPass:
    """Return the call of a module with a tensor, a tuple of them, or a dict by the names of its arguments.

    Raises:
        OutputError: they are not what the module's forward takes.
    """
    if isinstance(inputs, Mapping):
        return _from_call(module, (), dict(inputs))
    return _from_call(module, inputs if isinstance(inputs, tuple) else (inputs,), {})


def varied(call: ForwardPass, count: int, generator: torch.Generator) -> ForwardPass:
    """Return a call with `count` rows drawn of another one's, and other values in them.

    Rows are the first dimension, where all inputs have the same; else their shapes stay. Values that are no floats
    stay those of their rows, as they may be numbers of something.
    """
    rows = {tensor.shape[:1] for tensor in call.inputs.values()}
    order = None
    if len(rows) == 1 and (first := next(iter(rows))) and first[0]:
        order = torch.randint(first[0], (count,), generator=generator)

    def other(tensor: Tensor) -> Tensor:
        made = tensor if order is None else tensor[order]
        if not made.is_floating_point():
            return made.clone()
        spread = made.float().std().item() if made.numel() > 1 else 0.0
        noise = torch.randn(made.shape, generator=generator).to(made.dtype)
        return made + (spread or 1.0) * 0.5 * noise

    return ForwardPass({name: other(tensor) for name, tensor in call.inputs.items()}, call.run)


def _from_call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ForwardPass:
    try:
        bound = inspect.signature(module.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise OutputError(f"these are no inputs of {type(module).__name__}: {error}") from error
    names = {parameter.name: parameter.kind for parameter in bound.signature.parameters.values()}
    given: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        if names[name] is inspect.Parameter.VAR_KEYWORD:
            given |= value
        elif names[name] is inspect.Parameter.VAR_POSITIONAL:
            raise OutputError(f"{type(module).__name__} takes inputs without names: give the hook forward_pass")
        else:
            given[name] = value
    tensors = {name: value.detach().cpu() for name, value in given.items() if isinstance(value, Tensor)}
    plain = {name: value for name, value in given.items() if not isinstance(value, Tensor)}
    strange = [name for name, value in plain.items() if not isinstance(value, bool | int | float | str | None)]
    if strange or not tensors:
        what = f"{strange[0]} is no tensor" if strange else "there is no tensor among them"
        raise OutputError(f"the inputs of {type(module).__name__} cannot be exported: {what}; say which with inputs=")

    def run(called: nn.Module, **inputs: Tensor) -> Any:
        return called(**inputs, **plain)

    return ForwardPass(tensors, run)
