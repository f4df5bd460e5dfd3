"""Samples under adapters of their own, and from seeds of their own: `model.sample(n, adapters=[...], seeds=[...])`.

The samples are grouped by the adapters that they use; each group is one call of the plugin's hook, and the results are
put in order. A plugin that cannot draw from several seeds at once is called once for each sample. One that can is
called once for all, also under different adapters, where that is known to give the same (`fused_batch.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.adapters.adapter_set import AdapterSet
from zoo.adapters.fused_batch import fused
from zoo.adapters.mixed_batch import Choice, OwnViews, Switch, grouped, switching
from zoo.errors import ZooError
from zoo.plugin import hooks
from zoo.plugin.options import Option
from zoo.plugin.requests import SampleRequest, SeveralSeedsError
from zoo.samples import Samples

if TYPE_CHECKING:
    from zoo.plugin.contract import LoadedModel

_TEXTS = ("text", "texts", "messages")  # options whose values make no other layout


def request_for(
    n: int | None,
    seed: int | None,
    seeds: Sequence[int] | None,
    adapters: Sequence[Any] | None,
    options: dict[str, Any],
) -> SampleRequest:
    """Return the request of a call of `model.sample`; without `n`, of as many samples as there are seeds or adapters.

    Raises:
        ZooError: the numbers differ, or a value cannot be.
    """
    if seeds is not None and not isinstance(seeds, list | tuple | range):
        raise ZooError(f"seeds=: expected a list with a whole number for each sample, got {seeds!r:.60}")
    several = [len(one) for one in (seeds, adapters) if one is not None and not isinstance(one, str)]
    n = n if n is not None else several[0] if several else 1
    if adapters is not None and not isinstance(adapters, str) and len(adapters) != n:
        raise ZooError(f"adapters=: expected one entry for each of {n} samples, got {len(adapters)}")
    return SampleRequest(n, seed, options, seeds=None if seeds is None else tuple(seeds))


def drawn(
    model: LoadedModel, adapter_set: AdapterSet, request: SampleRequest, adapters: Sequence[Any] | None
) -> Samples:
    """Return samples in evaluation mode; see `zoo.Model.sample`.

    Args:
        model: the model, in evaluation mode.
        adapter_set: its adapters.
        request: the request for all samples.
        adapters: the adapters of each; None: the active ones.

    Raises:
        ZooError: a sample has no samples of its own in what the plugin returns, or a value cannot be.
        AdapterError: as `zoo.adapters.mixed_batch.choices`.
    """
    if adapters is None:
        return _drawn(model, request)
    with switching(adapter_set) as switch:
        groups = grouped(adapter_set, adapters)
        if len(groups) > 1 and isinstance(switch, OwnViews) and request.seeds is not None:
            samples = _fused(model, switch, groups, request)
            if samples is not None:
                return samples
        return _apart(model, switch, groups, request)


def _apart(model: LoadedModel, switch: Switch, groups: dict[Choice, list[int]], request: SampleRequest) -> Samples:
    """Return the samples of one call for each choice of adapters."""
    parts = []
    for choice, numbers in groups.items():
        with switch.chosen(choice):
            parts.append(_drawn(model, _part(model, request, numbers)))
    return _in_order(parts, list(groups.values()))


def _fused(
    model: LoadedModel, switch: OwnViews, groups: dict[Choice, list[int]], request: SampleRequest
) -> Samples | None:
    """Return samples of one call for all choices of adapters; None if it has to be one for each."""
    texts = {option.name for option in hooks.options_of(model) or () if option.type in _TEXTS}
    options = [(name, None if name in texts else _told(value)) for name, value in sorted(request.options.items())]
    form = ("sample", switch.kinds(groups), request.n, *options)

    def together() -> Samples:
        return _counted(hooks.draw(model, request), request)

    apart = partial(_apart, model, switch, groups, request)
    found: Samples | None = fused(model.module, form, switch.views_of(groups), together, apart, _compared)
    return found


def _told(value: Any) -> str:
    return f"{tuple(value.shape)}" if isinstance(value, Tensor) else f"{value!r:.200}"


def _compared(samples: Samples) -> dict[str, Tensor]:
    """Return samples as one tensor with a row for each: of a text, what is the same for equal texts alone."""
    if isinstance(samples.data, Tensor):
        return {"data": samples.data}
    digests = [list(sha256(text.encode("utf-8", "replace")).digest()) for text in samples.data]
    return {"data": torch.tensor(digests, dtype=torch.float64)}


def _drawn(model: LoadedModel, request: SampleRequest) -> Samples:
    """Return samples of one choice of adapters, by one call of the plugin if it draws from several seeds at once."""
    try:
        return _counted(hooks.draw(model, request), request)
    except SeveralSeedsError:
        every = [[number] for number in range(request.n)]
        parts = []
        for one in every:
            request_of_one = _part(model, request, one)
            parts.append(_counted(hooks.draw(model, request_of_one), request_of_one))
        return _in_order(parts, every)


def _counted(samples: Samples, request: SampleRequest) -> Samples:
    if request.seeds is not None and len(samples) != request.n:
        raise _not_each(len(samples), request.n)
    return samples


def _not_each(found: int, n: int) -> ZooError:
    return ZooError(
        f"adapters= and seeds= have an entry for each sample, and these options give {found} samples for n={n}: draw "
        "from one prompt, text or set of pictures at a time"
    )


def _part(model: LoadedModel, request: SampleRequest, numbers: list[int]) -> SampleRequest:
    """Return the request for some of the samples. A list that has a value for each sample is cut, too."""
    each = {option.name: option for option in hooks.options_of(model) or () if option.each}
    options = {
        name: _some(value, each[name], numbers) if name in each else value for name, value in request.options.items()
    }
    if request.seeds is None:
        return SampleRequest(len(numbers), request.seed, options)
    return SampleRequest(len(numbers), options=options, seeds=tuple(request.seeds[number] for number in numbers))


def _some(values: Any, option: Option, numbers: list[int]) -> Any:
    """Return the values of some samples, which are repeated if there are fewer than samples."""
    if isinstance(values, str) and option.type == "classes":  # as `zoo.data.labels.class_labels` reads a text
        letters = values and all(letter in option.choices for letter in values)
        values = list(values) if letters else [part.strip() for part in values.split(",")]
    if isinstance(values, Tensor) and values.dim() and len(values):
        return values[[number % len(values) for number in numbers]]
    if not isinstance(values, Tensor) and hasattr(values, "tolist"):
        values = values.tolist()
    if isinstance(values, list | tuple | range) and values:
        return [values[number % len(values)] for number in numbers]
    return values


def _in_order(parts: list[Samples], groups: list[list[int]]) -> Samples:
    numbers = [number for group in groups for number in group]
    for part, group in zip(parts, groups, strict=True):
        if len(part) != len(group):
            raise _not_each(len(part), len(group))
    order = sorted(range(len(numbers)), key=numbers.__getitem__)
    return Samples.joined(parts)[order]
