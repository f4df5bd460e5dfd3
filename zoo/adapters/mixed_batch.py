"""A batch whose samples use different adapters: `model(x, adapters=["a", "b", None])`.

The samples are sorted by what they use, the module runs once for each different choice, on its samples alone, and the
outputs are put back in order. It knows nothing of architectures; one whose samples are not the rows of its inputs says
so in the hook `run_rows`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from zoo.adapters import rows
from zoo.adapters.adapter_set import AdapterSet, check_weight
from zoo.errors import AdapterError
from zoo.plugin import hooks
from zoo.torch_state.modes import evaluating, seeded
from zoo.weights.walk import stores

if TYPE_CHECKING:
    from zoo.plugin.contract import LoadedModel

Choice = tuple[tuple[str, float], ...]  # adapters and their weights; none: the base


def mixed(
    model: LoadedModel, held: AdapterSet, adapters: Sequence[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """The module's output with each sample under its own adapters; see `zoo.Model.__call__`."""
    groups: dict[Choice, list[int]] = {}
    for row, choice in enumerate(choices(held, adapters)):
        groups.setdefault(choice, []).append(row)
    count = len(adapters)
    switch = _Switch(held)
    parts, by_hook = [], False
    try:
        for choice, numbers in groups.items():
            switch.to(choice)
            output, by_hook = _run(model, args, kwargs, numbers, count, switch)
            parts.append(rows.Part(output, numbers))
            for tensor in rows.tensors(output).values():
                if tensor.requires_grad and tensor.grad_fn is not None:
                    tensor.register_hook(lambda _, choice=choice: switch.enter(choice))

        def larger() -> Any:
            switch.to(next(iter(groups)))
            numbers = next(iter(groups.values()))
            with torch.no_grad(), evaluating(model.module), seeded(0, model.device):  # nothing else notices
                return _run(model, args, kwargs, [*numbers, numbers[0]], count, None)[0]

        return rows.join(parts, None if by_hook else larger) if len(parts) > 1 else parts[0].output
    finally:
        switch.back()


def _run(
    model: LoadedModel,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    numbers: list[int],
    count: int,
    switch: _Switch | None,
) -> tuple[Any, bool]:
    """The output for the samples `numbers`, and whether the architecture's plugin has made it."""
    index = torch.tensor(numbers, device=model.device)
    output = hooks.run_rows(model, args, kwargs, index, count)
    if output is not None:
        return output, True
    (args, kwargs), cut = rows.take((args, kwargs), index, count)
    if not cut:
        raise AdapterError(
            f"adapters= names {count} samples, and no tensor of the call has {count} rows: give one for each sample of "
            "the batch"
        )
    for tensor in cut:
        if tensor.requires_grad and switch is not None:
            tensor.register_hook(lambda _, switch=switch: switch.back())
    return model.module(*args, **kwargs), False


def choices(held: AdapterSet, adapters: Any) -> list[Choice]:
    """What each sample uses: a name, None for the base, several names, or a mapping of names to weights.

    Raises `AdapterError` or `UnknownNameError`.
    """
    if isinstance(adapters, str | Mapping) or not isinstance(adapters, Sequence) or not adapters:
        raise AdapterError(
            "adapters=: expected a list with one entry for each sample: a name, None for the base, several names, or "
            f"a dict of names and weights; got {adapters!r:.60}"
        )
    return [_choice(held, one) for one in adapters]


def _choice(held: AdapterSet, one: Any) -> Choice:
    if one is None:
        return ()
    if isinstance(one, str):
        pairs: Iterable[tuple[Any, Any]] = [(one, 1.0)]
    elif isinstance(one, Mapping):
        pairs = one.items()
    elif isinstance(one, list | tuple):
        pairs = [(name, 1.0) for name in dict.fromkeys(one)]
    else:
        raise AdapterError(f"adapters=: expected a name, None, names, or a dict of names and weights, got {one!r:.60}")
    chosen = []
    for name, weight in pairs:
        held.unmerged(name)
        chosen.append((name, check_weight(name, weight)))
    return tuple(chosen)


class _Switch:
    """Lets adapters apply without touching what trains, which is what is active.

    Also in backward: what is computed again there (gradient checkpointing, products with a dense weight that was not
    kept) must see the adapters that it saw in forward. Autograd finishes what ran last before it begins with what ran
    before that, so a hook on each part's outputs sets the part's adapters, and one on its inputs takes them back.
    """

    def __init__(self, held: AdapterSet) -> None:
        self.held = held
        self.stores = list(stores(held.module).values())

    def to(self, choice: Choice) -> None:
        names, weights = tuple(name for name, _ in choice), dict(choice)
        for store in self.stores:
            store.activate(names, weights)

    def back(self) -> None:
        """What is active, again."""
        self.to(tuple(self.held.weights.items()))

    def enter(self, choice: Choice) -> None:
        """In backward: let these apply until it ends at the latest."""
        torch.autograd.Variable._execution_engine.queue_callback(self.back)
        self.to(choice)
