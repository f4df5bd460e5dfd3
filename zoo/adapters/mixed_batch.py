"""A batch whose samples use different adapters: `model(x, adapters=["a", "b", None])`.

The samples are grouped by the adapters that they use, the module runs once for each group, and the outputs are put
back in order. This works for any architecture; one whose samples are not the rows of its inputs implements the hook
`run_rows`.

Names: `indices` are the samples of one group, `count` is the number of samples in the batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from zoo.adapters import rows
from zoo.adapters.adapter_set import AdapterSet
from zoo.errors import AdapterError
from zoo.methods.config import check_weight
from zoo.plugin import hooks
from zoo.torch_state.modes import evaluating, seeded
from zoo.weights.walk import managed_weights

if TYPE_CHECKING:
    from zoo.plugin.contract import LoadedModel

Choice = tuple[tuple[str, float], ...]  # adapters and their weights; empty for the base


def mixed(
    model: LoadedModel, adapter_set: AdapterSet, adapters: Sequence[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Return the module's output with each sample under its own adapters; see `zoo.Model.__call__`."""
    groups: dict[Choice, list[int]] = {}
    for row, choice in enumerate(choices(adapter_set, adapters)):
        groups.setdefault(choice, []).append(row)
    count = len(adapters)
    switch = _AdapterSwitch(adapter_set)
    parts, from_hook = [], False
    try:
        for choice, indices in groups.items():
            switch.activate(choice)
            output, from_hook = _run(model, args, kwargs, indices, count, switch)
            parts.append(rows.Part(output, indices))
            for tensor in rows.tensors(output).values():
                if tensor.requires_grad and tensor.grad_fn is not None:
                    tensor.register_hook(lambda _, choice=choice: switch.activate_in_backward(choice))

        def with_one_more() -> Any:
            switch.activate(next(iter(groups)))
            indices = next(iter(groups.values()))
            with torch.no_grad(), evaluating(model.module), seeded(0):  # without side effects
                return _run(model, args, kwargs, [*indices, indices[0]], count, None)[0]

        return rows.join(parts, None if from_hook else with_one_more) if len(parts) > 1 else parts[0].output
    finally:
        switch.restore()


def _run(
    model: LoadedModel,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    indices: list[int],
    count: int,
    switch: _AdapterSwitch | None,
) -> tuple[Any, bool]:
    """Return the output for the samples `indices`, and whether the architecture's hook computed it."""
    index = torch.tensor(indices, device=model.device)
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
            tensor.register_hook(lambda _, switch=switch: switch.restore())
    return model.module(*args, **kwargs), False


def choices(adapter_set: AdapterSet, adapters: Any) -> list[Choice]:
    """Return the adapters, with their weights, of each sample.

    Args:
        adapter_set: The module's adapters.
        adapters: For each sample a name, None for the base, several names, or a mapping of names to weights.

    Raises:
        AdapterError: an entry has another form, or an adapter is merged.
        UnknownNameError: there is no adapter of a name.
    """
    if isinstance(adapters, str | Mapping) or not isinstance(adapters, Sequence) or not adapters:
        raise AdapterError(
            "adapters=: expected a list with one entry for each sample: a name, None for the base, several names, or "
            f"a dict of names and weights; got {adapters!r:.60}"
        )
    return [_choice(adapter_set, entry) for entry in adapters]


def _choice(adapter_set: AdapterSet, entry: Any) -> Choice:
    if entry is None:
        return ()
    if isinstance(entry, str):
        pairs: Iterable[tuple[Any, Any]] = [(entry, 1.0)]
    elif isinstance(entry, Mapping):
        pairs = entry.items()
    elif isinstance(entry, list | tuple):
        pairs = [(name, 1.0) for name in dict.fromkeys(entry)]
    else:
        raise AdapterError(
            f"adapters=: expected a name, None, names, or a dict of names and weights, got {entry!r:.60}"
        )
    checked = []
    for name, weight in pairs:
        adapter_set.unmerged(name)
        checked.append((name, check_weight(name, weight)))
    return tuple(checked)


class _AdapterSwitch:
    """Activates adapters without changing what trains, which depends on the active ones of the adapter set.

    Also in the backward pass: whatever is recomputed there (gradient checkpointing, products with a dense weight that
    was not kept) must use the adapters of its forward pass. Autograd finishes what ran last before it begins with what
    ran before that, so a hook on each group's outputs activates the group's adapters, and one on its inputs restores
    the others.
    """

    def __init__(self, adapter_set: AdapterSet) -> None:
        self.adapter_set = adapter_set
        self.managed_weights = list(managed_weights(adapter_set.module).values())

    def activate(self, choice: Choice) -> None:
        """Activate exactly these adapters."""
        self.adapter_set.buffers.lend()
        self._switch(choice)

    def _switch(self, choice: Choice) -> None:
        names, weights = tuple(name for name, _ in choice), dict(choice)
        for managed in self.managed_weights:
            managed.activate(names, weights)
        self.adapter_set.show_buffers(weights)

    def restore(self) -> None:
        """Activate the adapter set's active adapters again."""
        self._switch(tuple(self.adapter_set.weights.items()))
        self.adapter_set.buffers.give_back()

    def activate_in_backward(self, choice: Choice) -> None:
        """Activate these adapters in the backward pass, at most until it ends."""
        torch.autograd.Variable._execution_engine.queue_callback(self.restore)
        self.activate(choice)
