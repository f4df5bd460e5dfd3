"""A batch whose samples use different adapters: `model(x, adapters=["a", "b", None])`.

The samples are grouped by the adapters that they use, the module runs once for each group, and the outputs are put
back in order. This works for any architecture; one whose samples are not the rows of its inputs implements the hook
`run_rows`. Without gradients, in evaluation mode, the module runs once for all where that is known to give the same
(`fused_batch.py`).

Names: `indices` are the samples of one group, `count` is the number of samples in the batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from zoo.adapters import rows
from zoo.adapters.adapter_set import AdapterSet
from zoo.adapters.fused_batch import form_of, fused
from zoo.errors import AdapterError
from zoo.methods.config import check_weight
from zoo.plugin import hooks
from zoo.torch_state.modes import evaluating, seeded
from zoo.weights.choice import Banks, Rows, Views, choose_in_backward, choosing, row_views
from zoo.weights.walk import managed_weights

if TYPE_CHECKING:
    from zoo.plugin.contract import LoadedModel

Choice = tuple[tuple[str, float], ...]  # adapters and their weights; empty for the base
Switch: TypeAlias = "OwnViews | _Switch"  # chooses adapters in a block


def mixed(
    model: LoadedModel, adapter_set: AdapterSet, adapters: Sequence[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Return the module's output with each sample under its own adapters; see `zoo.Model.__call__`."""
    with switching(adapter_set) as switch:
        return _mixed(model, switch, adapters, args, kwargs)


@contextmanager
def switching(adapter_set: AdapterSet) -> Iterator[Switch]:
    """Wait for a turn at the module, and give what chooses adapters in the block: `chosen(choice)`."""
    shared = _is_shared(adapter_set)
    # A module in training mode is put into evaluation mode for a moment where the output's rows are in doubt.
    alone = shared or any(layer.training for layer in adapter_set.module.modules())
    with adapter_set.turns.changing() if alone else adapter_set.turns:
        yield _Switch(adapter_set) if shared else OwnViews(adapter_set)


def _is_shared(adapter_set: AdapterSet) -> bool:
    """Return whether other adapters can only be had by changing what all threads share.

    Buffers are read by the library's own layers, and compiled code has the active adapters in it.
    """
    layers = adapter_set.module.modules()
    compiled = any(layer._compiled_call_impl or type(layer).__name__ == "OptimizedModule" for layer in layers)
    return compiled or adapter_set.buffers.any()


def _mixed(
    model: LoadedModel, switch: Switch, adapters: Sequence[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    groups = grouped(switch.adapter_set, adapters)
    if len(groups) > 1 and isinstance(switch, OwnViews) and not torch.is_grad_enabled():
        output = _fused(model, switch, groups, args, kwargs)
        if output is not None:
            return output
    return _apart(model, switch, groups, args, kwargs)


def _fused(
    model: LoadedModel, switch: OwnViews, groups: dict[Choice, list[int]], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Return the output of one run of the module for all samples; None if each group has to run by itself."""
    module, plugin = model.module, model.entry.plugin
    if any(layer.training for layer in module.modules()) or (plugin and "run_rows" in hooks.implemented(plugin)):
        return None
    count = sum(map(len, groups.values()))

    def together() -> Any:
        (own_args, own_kwargs), _ = rows.take((args, kwargs), torch.arange(count), count)  # which it may write to
        return module(*own_args, **own_kwargs)

    cut = [tensor for tensor in rows.tensors((args, kwargs)).values() if tensor.dim() and len(tensor) == count]
    if not cut:
        return None
    form = (switch.kinds(groups), *sorted(kwargs), *form_of(cut, count))
    apart = partial(_apart, model, switch, groups, args, kwargs)
    return fused(module, form, switch.views_of(groups), together, apart, rows.tensors)


def _apart(
    model: LoadedModel,
    switch: Switch,
    groups: dict[Choice, list[int]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Return the joined outputs of one run of the module for each group."""
    count = sum(map(len, groups.values()))
    parts, from_hook = [], False
    for choice, indices in groups.items():
        with switch.chosen(choice):
            output, from_hook = _run(model, args, kwargs, indices, count, switch)
        parts.append(rows.Part(output, indices))
        for tensor in rows.tensors(output).values():
            if tensor.requires_grad and tensor.grad_fn is not None:
                tensor.register_hook(lambda _, choice=choice: switch.choose_in_backward(choice))

    def with_one_more() -> Any:
        choice, indices = next(iter(groups.items()))
        with torch.no_grad(), evaluating(model.module), seeded(0), switch.renewed().chosen(choice):  # no side effects
            return _run(model, args, kwargs, [*indices, indices[0]], count, None)[0]

    return rows.join(parts, None if from_hook else with_one_more) if len(parts) > 1 else parts[0].output


def _run(
    model: LoadedModel,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    indices: list[int],
    count: int,
    switch: Switch | None,
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


def grouped(adapter_set: AdapterSet, adapters: Any) -> dict[Choice, list[int]]:
    """Return the samples of each choice of adapters; see `choices`."""
    groups: dict[Choice, list[int]] = {}
    for row, choice in enumerate(choices(adapter_set, adapters)):
        groups.setdefault(choice, []).append(row)
    return groups


def choices(adapter_set: AdapterSet, adapters: Any) -> list[Choice]:
    """Return the adapters, with their weights, of each sample.

    Args:
        adapter_set: The module's adapters.
        adapters: For each sample a name, None for the base, several names, or a mapping of names to weights.

    Raises:
        AdapterError: an entry has another form, or an adapter is merged; one that is not named as well, where an entry
            is the base.
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
        entry = ()
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
    if not checked:
        adapter_set.pure_base()
    return tuple(checked)


class OwnViews:
    """Other adapters for this thread, which changes nothing that others see.

    Also in the backward pass: whatever is recomputed there (gradient checkpointing, products with a dense weight that
    was not kept) must use the adapters of its forward pass. Autograd finishes what ran last before it begins with what
    ran before that, so a hook on each group's outputs chooses the group's adapters, and one on its inputs ends that.
    """

    def __init__(self, adapter_set: AdapterSet) -> None:
        self.adapter_set = adapter_set
        self._weights = list(managed_weights(adapter_set.module).values())
        self._made: dict[Choice, Views] = {}
        self._banks = Banks()
        self._last: tuple[Any, Rows] | None = None

    def views(self, choice: Choice) -> Views:
        """Return the views of all weights with these adapters."""
        if choice not in self._made:
            names, weights = tuple(name for name, _ in choice), dict(choice)
            self._made[choice] = {managed: managed.view(names, weights) for managed in self._weights}
        return self._made[choice]

    def views_of(self, groups: Mapping[Choice, list[int]]) -> list[tuple[Views, list[int]]]:
        """Return the views of each group, with its samples."""
        return [(self.views(choice), numbers) for choice, numbers in groups.items()]

    def rows(self, groups: Mapping[Choice, list[int]]) -> Rows:
        """Return what `choosing` puts in force for the samples of each group; the last one is kept."""
        key = [(choice, list(numbers)) for choice, numbers in groups.items()]
        if self._last is None or self._last[0] != key:
            self._last = key, row_views(self.views_of(groups), flattened=True, banks=self._banks)
        return self._last[1]

    def kinds(self, groups: Iterable[Choice]) -> frozenset[Any]:
        """Return what the adapters of these choices are, which weights they change included."""
        configs = self.adapter_set.configs
        return frozenset((type(configs[name]), repr(configs[name])) for choice in groups for name, _ in choice)

    def renewed(self) -> OwnViews:
        """Return the same of the module in its present mode."""
        return OwnViews(self.adapter_set)

    def chosen(self, choice: Choice) -> AbstractContextManager[None]:
        """Return a block with these adapters."""
        return choosing(self.views(choice))

    def choose_in_backward(self, choice: Choice) -> None:
        """Choose these adapters in the backward pass, at most until it ends."""
        torch.autograd.Variable._execution_engine.queue_callback(self.restore)
        choose_in_backward(self.views(choice))

    def restore(self) -> None:
        """End the choice in the backward pass."""
        choose_in_backward(None)


class _Switch:
    """Other adapters for every thread, without changing what trains, which depends on the active ones of the set.

    In the backward pass as `OwnViews`.
    """

    def __init__(self, adapter_set: AdapterSet) -> None:
        self.adapter_set = adapter_set
        self._weights = list(managed_weights(adapter_set.module).values())

    def renewed(self) -> _Switch:
        """Return this one, which sees the module as it is."""
        return self

    @contextmanager
    def chosen(self, choice: Choice) -> Iterator[None]:
        """Activate these adapters in the block."""
        try:
            self._activate(choice)
            yield
        finally:
            self.restore()

    def _activate(self, choice: Choice) -> None:
        self.adapter_set.buffers.lend()
        self._switch(choice)

    def _switch(self, choice: Choice) -> None:
        names, weights = tuple(name for name, _ in choice), dict(choice)
        for managed in self._weights:
            managed.activate(names, weights)
        self.adapter_set.show_buffers(weights)

    def restore(self) -> None:
        """Activate the adapter set's active adapters again."""
        self._switch(tuple(self.adapter_set.weights.items()))
        self.adapter_set.buffers.give_back()

    def choose_in_backward(self, choice: Choice) -> None:
        """Activate these adapters in the backward pass, at most until it ends."""
        torch.autograd.Variable._execution_engine.queue_callback(self.restore)
        self._activate(choice)
