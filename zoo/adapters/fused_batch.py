"""One run of the module for all samples of a mixed batch, in which the base's products are computed once.

Weights take the entries of an operand's first dimension for the samples (`zoo.weights.choice.choosing_rows`), which a
module may break: it may have its sequences first, or as many features as there are samples. So the first call of a form
is also computed by separate runs, and once more with each group under its neighbour's adapters. Only a module that
agrees with the former, and clearly not with the latter, is trusted with that form from then on.

Names: a *form* is what a call's layout depends on; `count` is the number of samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from zoo.plugin.requests import SeveralSeedsError
from zoo.torch_state.modes import seeded
from zoo.weights.choice import Views, choosing_rows
from zoo.weights.row_views import NotByRow

MOST = 4096  # forms that are remembered of a module

Groups = Sequence[tuple[Views, list[int]]]
Run = Callable[[], Any]  # returns the output, of one run for all samples or of separate ones
Compared = Callable[[Any], Mapping[str, Tensor]]  # what of an output is compared, by any names


class Verdict(Enum):
    """What is known of a form."""

    YES = "one run gives what separate runs give"
    NO = "it does not"
    OPEN = "the adapters change too little to tell"


_known: WeakKeyDictionary[nn.Module, dict[Any, Verdict | int]] = WeakKeyDictionary()


def fused(module: nn.Module, form: Any, groups: Groups, together: Run, apart: Run, compared: Compared) -> Any:
    """Return the output of one run for all samples; None if they have to run apart.

    Args:
        module: The module.
        form: What the call's layout depends on, the kinds of adapters included.
        groups: The views of each choice of adapters with its samples.
        together: Runs the call for all samples, as often as it is called.
        apart: Returns the output of separate runs.
        compared: Returns the tensors of an output that are compared; those with a row for each sample tell the adapters
            apart.
    """
    forms = _known.setdefault(module, {})
    verdict = forms.get(form, 0)
    if verdict is Verdict.NO:
        return None
    if isinstance(verdict, int) and verdict & (verdict - 1):  # one that is open is looked at again after 1, 2, 4 …
        forms[form] = verdict + 1
        return None
    try:
        if verdict is Verdict.YES:
            with choosing_rows(groups, flattened=True):
                return together()
        output, found = _tried(groups, together, apart, compared)
    except (NotByRow, SeveralSeedsError):
        output, found = None, Verdict.NO
    except Exception:  # the call's own, which separate runs raise as well
        return None
    if len(forms) >= MOST:
        forms.clear()
    forms[form] = verdict + 1 if found is Verdict.OPEN and isinstance(verdict, int) else found
    return output if found is Verdict.YES else None


def form_of(tensors: Sequence[Tensor], count: int) -> tuple[Any, ...]:
    """Return what of tensors' sizes makes another form: how many, and which are 1 or happen to be `count`."""
    return (count, *(tuple(size if size in (1, count) else 0 for size in one.shape) for one in tensors))


def _tried(groups: Groups, together: Run, apart: Run, compared: Compared) -> tuple[Any, Verdict]:
    """Return the output of one run, and whether it is what it should be. No random numbers of the caller's are used."""

    def under(groups: Groups) -> Any:
        with seeded(0), choosing_rows(groups, flattened=True):
            return together()

    output = under(groups)
    with seeded(0):
        wanted = compared(apart())
    neighbours = [(views, own) for (views, _), (_, own) in zip([*groups[1:], groups[0]], groups, strict=True)]
    count = sum(len(numbers) for _, numbers in groups)
    return output, _verdict(compared(output), wanted, compared(under(neighbours)), count)


def _verdict(
    found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], others: Mapping[str, Tensor], count: int
) -> Verdict:
    """Compare outputs of one run, of separate runs, and of one run under other adapters.

    One run is right if no sample is further from separate runs than the square root of the dtype's precision, relative
    (3e-4 in float32). It is known to be right if the other adapters moved each sample four times as far.
    """
    if found.keys() != wanted.keys() or found.keys() != others.keys():
        return Verdict.NO
    seen = torch.zeros(count, dtype=torch.bool)  # samples in which the adapters are told apart
    for path, tensor in wanted.items():
        if found[path].shape != tensor.shape or found[path].dtype != tensor.dtype:
            return Verdict.NO
        if not tensor.is_floating_point():
            if not torch.equal(found[path], tensor):
                return Verdict.NO
            continue
        by_row = tensor.dim() > 0 and tensor.shape[0] == count
        error, moved = (distance(one, tensor, by_row) for one in (found[path], others[path]))
        if not (error.isfinite().all() and moved.isfinite().all()):
            return Verdict.OPEN
        if bool((error > tolerance(tensor.dtype)).any()):
            return Verdict.NO
        if by_row:
            seen |= (moved > 4 * error) & (moved > 0)
    return Verdict.YES if bool(seen.all()) else Verdict.OPEN


def tolerance(dtype: torch.dtype) -> float:
    """Return how far, relative, one run may be from separate ones: the square root of a dtype's precision."""
    return float(torch.finfo(dtype).eps ** 0.5)


def distance(found: Tensor, wanted: Tensor, by_row: bool = True) -> Tensor:
    """Return the relative distance in the 2-norm, of each row (n,) or of the whole (1,), on the CPU."""
    rows_of = wanted.shape[0] if by_row else 1
    found, wanted = (one.detach().double().reshape(rows_of, -1) for one in (found, wanted))
    scale = torch.linalg.vector_norm(wanted, dim=1).clamp(min=1e-30)
    return (torch.linalg.vector_norm(found - wanted, dim=1) / scale).cpu()
