"""Gather the second moments of what chosen weights are multiplied with, in a run of the module."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from zoo.weights.calibration.uses import LOOKUPS, uses

aten = torch.ops.aten
COPIES = {aten.clone.default, aten._to_copy.default, aten.contiguous.default}
SCALED = {aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar}


class Origin(NamedTuple):
    """Which weight a storage holds.

    Attributes:
        name: The weight's.
        indices: The index in the weight of each value of the storage, (values,); None if they are the same.
        alive: The tensor, held so that no other one gets its address.
    """

    name: str
    indices: Tensor | None
    alive: Tensor


class Site:
    """One way in which a module uses a weight as matrices.

    Attributes:
        hessian: The sum of the inputs' outer products, float32 (G, C, C).
        matrices: Returns the indices of the weight's values as matrices (G, R, C).
    """

    def __init__(self, matrices: Callable[[], Tensor]) -> None:
        self.matrices = matrices
        self.hessian: Tensor | None = None

    def add(self, x: Tensor) -> None:
        """Add inputs (G, C, n)."""
        x = x.float()
        if self.hessian is None:
            self.hessian = x.new_zeros(x.shape[0], x.shape[1], x.shape[1])
        self.hessian.baddbmm_(x, x.mT)


class Observer(TorchDispatchMode):
    """Recognises weights by their addresses among the operands of every operation, through views and copies.

    Attributes:
        sites: The ways in which each weight was used as matrices, by its name.
        looked_up: The names of the weights of which rows were looked up.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        """Observe weights.

        Args:
            weights: The parameters in the module, contiguous and each alone in its storage.
        """
        super().__init__()
        self.sites: dict[str, dict[Hashable, Site]] = {name: {} for name in weights}
        self.looked_up: set[str] = set()
        self._weights = {_address(tensor): Origin(name, None, tensor) for name, tensor in weights.items()}
        self._origins = dict(self._weights)

    def forget_copies(self) -> None:
        """Let go of copies of weights: call it after each run of the module."""
        self._origins = dict(self._weights)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if torch._C._current_graph_task_id() != -1:  # a backward pass, whose products have other inputs
            return out
        if any(self._is_weight(arg) for arg in args):
            self._note(func, args, out)
        return out

    def _is_weight(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.layout == torch.strided and _address(value) in self._origins

    def _note(self, func: Any, args: tuple[Any, ...], out: Any) -> None:
        for use in uses(func, args, self._is_weight):
            operand = args[use.operand]
            site = self._site(operand, use.kind, use.matrices)
            for x in use.inputs():
                if operand.dim() == 3 and operand.stride(0) == 0 and x.shape[0] == operand.shape[0]:
                    x = x.transpose(0, 1).flatten(1)[None]  # one matrix, expanded: (1, C, G · n)
                site.add(x)
        if func in LOOKUPS and self._is_weight(args[0]):
            self.looked_up.add(self._origins[_address(args[0])].name)
        if func in COPIES or (func in SCALED and _is_number(args[1])):
            source = args[0]
            if self._is_weight(source) and _address(out) != _address(source):
                self._follow(source, out)

    def _site(self, operand: Tensor, kind: Hashable, matrices: Callable[[Tensor], Tensor]) -> Site:
        origin = self._origins[_address(operand)]
        shape, stride, offset = tuple(operand.shape), operand.stride(), operand.storage_offset()
        if origin.indices is None:
            view: Hashable = (kind, shape, stride, offset)
        else:  # copies of one view are alike
            view = (kind, shape, hash_of(origin.indices.as_strided(shape, stride, offset)))
        sites = self.sites[origin.name]
        if view not in sites:
            weight, index = self._first(origin.name), origin.indices

            def indices() -> Tensor:
                base = indices_of(weight) if index is None else index
                found = matrices(base.as_strided(shape, stride, offset))
                return found[:1] if len(shape) == 3 and stride[0] == 0 else found

            sites[view] = Site(indices)
        return sites[view]

    def _first(self, name: str) -> Tensor:
        return next(origin.alive for origin in self._weights.values() if origin.name == name)

    def _follow(self, source: Tensor, copy: Tensor) -> None:
        """Remember which values of a weight a copy of it, or of a view of it, holds."""
        origin = self._origins[_address(source)]
        base = indices_of(origin.alive) if origin.indices is None else origin.indices
        values = base.as_strided(source.shape, source.stride(), source.storage_offset())
        size = copy.untyped_storage().nbytes() // copy.element_size()
        index = base.new_zeros(size)
        index.as_strided(copy.shape, copy.stride(), copy.storage_offset()).copy_(values)
        self._origins[_address(copy)] = Origin(origin.name, index, copy)


def indices_of(weight: Tensor) -> Tensor:
    """Return 0, 1, … for each value of a weight, (N,)."""
    size = weight.numel()
    return torch.arange(size, dtype=torch.int32 if size < 1 << 31 else torch.int64, device=weight.device)


def hash_of(index: Tensor) -> int:
    """Return a number that is the same for equal indices."""
    return hash(index.contiguous().cpu().numpy().tobytes())


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _is_number(value: Any) -> bool:
    return not isinstance(value, Tensor) or value.numel() == 1
